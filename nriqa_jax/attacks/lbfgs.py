"""L-BFGS without a line search, for batches: the second-order update rule of attacks on few or smooth parameters."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from nriqa_jax.attacks.gradient import select
from nriqa_jax.attacks.perturbations import Radius, per_image

_SMALLEST_GRADIENT, _SMALLEST_CURVATURE, _SMALLEST_SLOPE = 1e-7, 1e-10, 1e-9  # below them torch.optim.LBFGS waits


class Pair(NamedTuple):
    """A step, how the gradient changed on it, and the inverse of their product; 0 where there was no such step."""

    step: Array
    change: Array
    inverse: Float[Array, " batch"]


class LbfgsState(NamedTuple):
    """State of `lbfgs_descent`: the last gradient and step, the scale of the inverse Hessian, and two pairs."""

    started: Bool[Array, " batch"]
    gradient: Array
    step: Array
    scale: Float[Array, " batch"]
    newest: Pair
    older: Pair


def lbfgs_descent(step_size: Radius) -> optax.GradientTransformationExtraArgs:
    """L-BFGS with two pairs and no line search, for each image by itself (Liu & Nocedal, 1989).

    The steps are those of ``torch.optim.LBFGS`` with ``max_iter=1`` and ``history_size=2``: the first goes along the
    gradient, for a length of at most the step size in the L1 norm. An image does not move where its gradient, or the
    slope of the loss along the direction, vanishes.

    Args:
      step_size: share of a quasi-Newton step.
    """

    def init(theta: Array) -> LbfgsState:
        zeros, none = jnp.zeros_like(theta), jnp.zeros(len(theta), theta.dtype)
        pair = Pair(zeros, zeros, none)
        return LbfgsState(none.astype(bool), zeros, zeros, jnp.ones_like(none), pair, pair)

    def update(grads: Array, state: LbfgsState, theta: Array | None = None, **_: Any) -> tuple[Array, LbfgsState]:
        known = _remember(state, grads)
        direction = _two_loops(known, grads)
        size = jnp.where(state.started, 1.0, jnp.minimum(1.0, 1.0 / _dot(jnp.abs(grads), jnp.ones_like(grads))))
        step = per_image(step_size) * _wide(size) * direction
        found = known._replace(started=jnp.ones_like(state.started), gradient=grads, step=step)
        active = jnp.max(jnp.abs(grads), axis=(1, 2, 3)) > _SMALLEST_GRADIENT
        falls = _dot(grads, direction) <= -_SMALLEST_SLOPE
        return jnp.where(_wide(active & falls), step, 0.0), select(active, found, state)

    return optax.GradientTransformationExtraArgs(init, update)


def _remember(state: LbfgsState, grads: Array) -> LbfgsState:
    """The state with the last step as newest pair, for images where the loss is convex along it."""
    change = grads - state.gradient
    curvature = _dot(change, state.step)
    convex = curvature > _SMALLEST_CURVATURE
    safe = jnp.where(convex, curvature, 1.0)
    scale = safe / jnp.where(convex, _dot(change, change), 1.0)
    newer = state._replace(scale=scale, newest=Pair(state.step, change, 1.0 / safe), older=state.newest)
    return select(convex, newer, state)


def _two_loops(state: LbfgsState, grads: Array) -> Array:
    """The quasi-Newton direction: minus the gradient, times the inverse Hessian that the pairs tell of."""
    q, shares = -grads, []
    for pair in (state.newest, state.older):
        shares.append(_dot(pair.step, q) * pair.inverse)
        q = q - _wide(shares[-1]) * pair.change
    r = _wide(state.scale) * q
    for pair, share in ((state.older, shares[1]), (state.newest, shares[0])):
        r = r + _wide(share - _dot(pair.change, r) * pair.inverse) * pair.step
    return r


def _dot(a: Array, b: Array) -> Float[Array, " batch"]:
    return jnp.sum(a * b, axis=(1, 2, 3))


def _wide(values: Array) -> Array:
    return values[:, None, None, None]
