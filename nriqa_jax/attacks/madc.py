"""MADC: sign steps along the surface of equal distortion, from maximum differentiation competition."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial
from jaxtyping import Array, Int

from nriqa_jax.attacks.gradient import GradientAttack
from nriqa_jax.attacks.perturbations import Delta, Radius, linf_by_steps, per_image, rmse
from nriqa_jax.types import Images, Keys, Objective


def madc(
    objective: Objective, *, step_size: Radius = 1e-3, epsilon: Radius = 10 / 255, steps: int = 8
) -> GradientAttack:
    """Sign steps that keep the mean squared change, by the MSU benchmark (Wang & Simoncelli, J. Vision 2008).

    A root mean square of at most ``steps * step_size`` is certain, and so the radius has no effect on small steps.

    Args:
      objective: what to minimise; its scale does not matter.
      step_size: of a step, in units of the pixel range.
      epsilon: largest root mean squared change, in the same units.
      steps: number of steps.
    """
    rule = Partial(tangent_sign_descent, step_size, Partial(_rmse_normal))
    return GradientAttack(objective, rmse(epsilon), rule, steps)


def madc_linf(
    objective: Objective,
    *,
    step_size: Radius = 0.01,
    epsilon: Radius = 7 / 255,
    steps: int = 30,
    deviation: Radius = 3 / 255,
    limit: Radius = 6 / 255,
) -> GradientAttack:
    """MADC (2008) that keeps the largest change of a pixel instead, from a noisy start, by NIC-RobustBench.

    Args:
      objective: what to minimise; its scale does not matter.
      step_size: of a step, in units of the pixel range.
      epsilon: largest change of a pixel value, in the same units; the noise is brought within it as steps are.
      steps: number of steps.
      deviation: standard deviation of the normal noise of the start.
      limit: where that noise is clipped.
    """
    noisy = linf_by_steps(epsilon)._replace(init=Partial(_normal_start, deviation, limit))
    rule = Partial(tangent_sign_descent, step_size, Partial(_linf_normal))
    return GradientAttack(objective, noisy, rule, steps)


def tangent_sign_descent(step_size: Radius, normal: Callable[[Delta], Delta]) -> optax.GradientTransformationExtraArgs:
    """Step against the sign of the part of the gradient that is orthogonal to another; the first step takes all of it.

    Args:
      step_size: of a step.
      normal: from a change to the gradient of what should stay, at any scale; an image of zeros removes nothing.
    """

    def init(theta: Delta) -> Int[Array, ""]:
        del theta
        return jnp.zeros((), jnp.int32)

    def update(grads: Delta, step: Array, theta: Delta, **_: Any) -> tuple[Delta, Array]:
        along = normal(theta)
        length = _dot(along, along)
        share = _dot(along, grads) / jnp.where(length > 0, length, 1.0)
        direction = jnp.where(step == 0, grads, grads - share * along)
        return -per_image(step_size) * jnp.sign(direction), step + 1

    return optax.GradientTransformationExtraArgs(init, update)


def _rmse_normal(theta: Delta) -> Delta:
    """The gradient of the root mean square, but for its length."""
    return theta


def _linf_normal(theta: Delta) -> Delta:
    """The gradient of the largest magnitude, spread over all pixels that have it, but for its length."""
    size = jnp.abs(theta)
    return jnp.where(size == jnp.max(size, axis=(1, 2, 3), keepdims=True), jnp.sign(theta), 0.0)


def _dot(a: Delta, b: Delta) -> Array:
    return jnp.sum(a * b, axis=(1, 2, 3), keepdims=True)


def _normal_start(deviation: Radius, limit: Radius, keys: Keys, images: Images) -> Delta:
    noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:], images.dtype))(keys)
    return jnp.clip(per_image(deviation) * noise, -per_image(limit), per_image(limit))
