"""Update rules of gradient attacks: optax transformations of batched image gradients, one image per row.

They compose with each other and with any optax transformation; the presets are such chains.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from nriqa_jax.attacks.gradient import select
from nriqa_jax.attacks.perturbations import Delta, Radius, image_norm, per_image
from nriqa_jax.types import Losses

Size = Radius


def sign_descent(step_size: Size) -> optax.GradientTransformation:
    """Step against the sign of the gradient (FGSM, Goodfellow et al. 2015; I-FGSM, Kurakin et al. 2017)."""
    return optax.chain(_per_leaf(jnp.sign), steps_of(step_size))


def momentum_sign_descent(step_size: Size, decay: Size) -> optax.GradientTransformation:
    """Step against the sign of accumulated gradients of unit mean magnitude (MI-FGSM, Dong et al. 2018)."""
    return optax.chain(_per_leaf(_unit_mean_magnitude), optax.trace(decay), sign_descent(step_size))


def raw_momentum_sign_descent(step_size: Size, decay: Size) -> optax.GradientTransformation:
    """As `momentum_sign_descent` on gradients as they are, as the MSU benchmark does: large gradients weigh more."""
    return optax.chain(optax.trace(decay), sign_descent(step_size))


def unit_l2_descent(step_size: Size) -> optax.GradientTransformation:
    """Step of length ``step_size`` in the Euclidean norm of each image (L2 PGD, Madry et al. 2018)."""
    return optax.chain(_per_leaf(lambda g: g / jnp.maximum(image_norm(g), 1e-12)), steps_of(step_size))


def adam_descent(step_size: Size) -> optax.GradientTransformation:
    """Adam (Kingma & Ba, ICLR 2015), by one step size for all images or one per image."""
    return optax.chain(optax.scale_by_adam(), steps_of(step_size))


def steps_of(step_size: Size) -> optax.GradientTransformation:
    """Go against the direction so far, by one step size for all images or one per image."""
    return _per_leaf(lambda direction: -per_image(step_size) * direction)


class ApgdState(NamedTuple):
    """State of `apgd_descent`: what the published algorithm calls eta, x(k-1), x_max and its counters."""

    step: Array
    size: Float[Array, " batch"]
    previous: Delta
    last_loss: Losses
    best: Delta
    best_gradient: Delta
    best_loss: Losses
    improvements: Array
    interval: Array
    best_loss_at_checkpoint: Losses
    halved_at_checkpoint: Bool[Array, " batch"]


def apgd_checkpoints(steps: int) -> Bool[np.ndarray, " steps"]:
    """Steps at which Auto-PGD reviews its step size (Croce & Hein, ICML 2020, section 3.1)."""
    positions, percent, gap = [], 22, 22  # whole percents, since sums of 0.22, 0.19, ... round unevenly
    while (position := -(-percent * steps // 100)) < steps:
        positions.append(position)
        gap = max(gap - 3, 6)
        percent += gap
    return np.isin(np.arange(steps), positions)


def apgd_descent(
    step_size: Size, checkpoints: Bool[Array, " steps"], momentum: Size = 0.75, success: Size = 0.75
) -> optax.GradientTransformationExtraArgs:
    """Auto-PGD (Croce & Hein, ICML 2020, algorithm 1), for losses of any sign and scale.

    At a checkpoint an image whose loss fell in less than a share ``success`` of the steps since the last one, or whose
    best loss and step size have not changed, halves its step size and goes back to its best point. Only comparisons
    of losses are used, so a scale of scores needs no adapting.

    Args:
      step_size: first step size; twice the radius in the paper.
      checkpoints: which steps are checkpoints, from `apgd_checkpoints`.
      momentum: weight of the new direction against the last move.
      success: share of improving steps that keeps the step size.
    """

    def init(theta: Delta) -> ApgdState:
        infinite = jnp.full(len(theta), jnp.inf, theta.dtype)
        zeros, step = jnp.zeros_like(theta), jnp.zeros((), jnp.int32)
        none = jnp.zeros(len(theta), jnp.int32)
        size = jnp.zeros_like(infinite) + step_size
        return ApgdState(
            step, size, theta, infinite, theta, zeros, infinite, none, step, infinite, jnp.zeros_like(none, bool)
        )

    def update(
        grads: Delta, state: ApgdState, theta: Delta, *, value: Losses, project: Any, **_: Any
    ) -> tuple[Delta, ApgdState]:
        state = _observe(state, theta, grads, value)
        restart, state = _review(state, jnp.asarray(checkpoints)[state.step], success)
        start, grads = select(restart, (state.best, state.best_gradient), (theta, grads))
        target = project(start - state.size[:, None, None, None] * jnp.sign(grads))
        weight = jnp.where(state.step == 0, 1.0, momentum)
        moved = project(start + weight * (target - start) + (1.0 - weight) * (start - state.previous))
        return moved - theta, state._replace(previous=start, step=state.step + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def _observe(state: ApgdState, theta: Delta, grads: Delta, losses: Losses) -> ApgdState:
    """Account for the loss and gradient at the current point."""
    better = losses < state.best_loss
    best, best_gradient = select(better, (theta, grads), (state.best, state.best_gradient))
    return state._replace(
        last_loss=losses,
        best=best,
        best_gradient=best_gradient,
        best_loss=jnp.minimum(losses, state.best_loss),
        improvements=state.improvements + (losses < state.last_loss),
        interval=state.interval + 1,
    )


def _review(state: ApgdState, checkpoint: Bool[Array, ""], success: Size) -> tuple[Bool[Array, " batch"], ApgdState]:
    """Decide, at a checkpoint, which images halve their step size and go back to their best point."""
    slow = state.improvements < success * state.interval
    stuck = ~state.halved_at_checkpoint & (state.best_loss_at_checkpoint <= state.best_loss)
    restart = checkpoint & (slow | stuck)
    reviewed = state._replace(
        size=jnp.where(restart, state.size / 2.0, state.size),
        improvements=jnp.where(checkpoint, 0, state.improvements),
        interval=jnp.where(checkpoint, 0, state.interval),
        best_loss_at_checkpoint=jnp.where(checkpoint, state.best_loss, state.best_loss_at_checkpoint),
        halved_at_checkpoint=jnp.where(checkpoint, restart, state.halved_at_checkpoint),
    )
    return restart, reviewed


def _per_leaf(transform: Any) -> optax.GradientTransformation:
    return optax.stateless(lambda updates, _: jax.tree.map(transform, updates))


def _unit_mean_magnitude(gradient: Delta) -> Delta:
    mean = jnp.mean(jnp.abs(gradient), axis=(1, 2, 3), keepdims=True)
    return gradient / jnp.where(mean > 0, mean, 1.0)
