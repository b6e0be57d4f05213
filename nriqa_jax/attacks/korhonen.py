"""Attacks that hide in texture: Adam on gradients that are weighted by the activity around each pixel.

Adam undoes any constant weight of a pixel, so the weights act as a mask: they count where they bring gradients down to
the ``1e-8`` that Adam adds to its denominator. The scale of the loss matters for the same reason. It is published for
scores in units of their range; see `nriqa_jax.attacks.objectives.per_range`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from nriqa_jax.attacks import update_rules
from nriqa_jax.attacks.gradient import GradientAttack
from nriqa_jax.attacks.perturbations import Delta, Radius, within
from nriqa_jax.attacks.stopping import after_lowest, search_point, until_no_progress
from nriqa_jax.types import Images, Objective

Map = Float[Array, "batch height width 1"]
Edges = Float[Array, "batch inner_height inner_width 1"]
Activity = Callable[[Images], Map]

_LUMA = np.array([0.299, 0.587, 0.114])
_LEVELS = 255.0


def korhonen(
    objective: Objective,
    *,
    step_size: Radius = 0.5 / 255,
    steps: int = 50,
    patience: int | Int[Array, ""] = 2,
    epsilon: Radius | None = None,
) -> GradientAttack:
    """Adam on gradients weighted by local edge energy, with an early stop (Korhonen & You, QoEVMA 2022).

    Published step sizes are 0.1, 0.5, 2 and 5 grey levels, for 20 to 100 steps. Each image keeps the update of its
    iterate of lowest loss.

    Args:
      objective: what to minimise, in units of the score range.
      step_size: of Adam, in units of the pixel range.
      steps: largest number of steps.
      patience: losses in a row without a new lowest one, after which an image stops.
      epsilon: largest change of a pixel value; none by default.
    """
    rule = Partial(_stopping_textured_adam, step_size, patience)
    return GradientAttack(objective, within(epsilon), rule, steps, look_ahead=Partial(search_point))


def korhonen_msu(
    objective: Objective, *, step_size: Radius = 0.005, steps: int = 10, epsilon: Radius | None = None
) -> GradientAttack:
    """The attack of Korhonen & You (2022) as in the MSU benchmark: signed horizontal edges, all steps, last iterate.

    Beside rising edges alone the weights are negative, and steps go the wrong way.

    Args:
      objective: what to minimise, in units of the score range.
      step_size: of Adam, in units of the pixel range.
      steps: number of steps.
      epsilon: largest change of a pixel value; none by default.
    """
    return GradientAttack(
        objective, within(epsilon), Partial(textured_adam_descent, step_size, Partial(signed_activity)), steps
    )


def textured_adam_descent(step_size: Radius, activity: Activity) -> optax.GradientTransformationExtraArgs:
    """Adam on gradients per grey level, times the activity of the clean image.

    Args:
      step_size: of a step, in units of the pixel range.
      activity: weight of each pixel.
    """

    def update(grads: Delta, state: optax.EmptyState, theta: Delta | None, *, images: Images, **_: Any) -> Any:
        del theta
        return grads * activity(images) / _LEVELS, state

    weighted = optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
    return optax.chain(weighted, update_rules.adam_descent(step_size))


def edge_energy(images: Images) -> Map:
    """Squared magnitude of the luma's Sobel gradient, largest value 1, each spread over its neighbourhood."""
    return _spread(_horizontal_edges(images) ** 2 + _vertical_edges(images) ** 2)


def signed_activity(images: Images) -> Map:
    """The luma's horizontal Sobel derivative with its sign, largest value 1, each spread over its neighbourhood."""
    return _spread(_horizontal_edges(images))


def _stopping_textured_adam(step_size: Radius, patience: int | Int[Array, ""]) -> optax.GradientTransformation:
    return after_lowest(until_no_progress(textured_adam_descent(step_size, Partial(edge_energy)), patience))


def _horizontal_edges(images: Images) -> Edges:
    """The derivative along rows; the border ring is left out."""
    luma = jnp.sum(images * jnp.asarray(_LUMA, images.dtype), axis=-1, keepdims=True)
    smooth = luma[:, :-2] + 2.0 * luma[:, 1:-1] + luma[:, 2:]
    return smooth[:, :, 2:] - smooth[:, :, :-2]


def _vertical_edges(images: Images) -> Edges:
    return jnp.swapaxes(_horizontal_edges(jnp.swapaxes(images, 1, 2)), 1, 2)


def _spread(edges: Edges) -> Map:
    """Scale by the maximum and take that of 5x5 neighbourhoods without their corners; ones where no edge rises."""
    edges = jnp.pad(edges, ((0, 0), (1, 1), (1, 1), (0, 0)))
    highest = jnp.max(edges, axis=(1, 2, 3), keepdims=True)
    edges = jnp.where(highest > 0, edges / jnp.where(highest > 0, highest, 1.0), edges + 1.0)
    tall, wide = (
        jax.lax.reduce_window(edges, -jnp.inf, jax.lax.max, (1, *window, 1), (1, 1, 1, 1), "SAME")
        for window in ((5, 3), (3, 5))
    )
    return jnp.maximum(tall, wide)
