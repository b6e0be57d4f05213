"""Objectives: ``scores [B] -> loss [B]``, always minimised, one loss per image.

Each is a `jax.tree_util.Partial`, so data such as targets are arguments of a compiled attack, not constants in it.
Scores are in the native unit of the model: raising the *score* of a lower-is-better model lowers *quality*.
"""

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from nriqa_jax.types import Losses, Objective, Scores


def raise_score() -> Objective:
    """Push every score up."""
    return Partial(_towards, 1.0)


def lower_score() -> Objective:
    """Push every score down."""
    return Partial(_towards, -1.0)


def raise_quality(*, higher_is_better: bool) -> Objective:
    """Make every image look better to the model: raises the score, or lowers it if lower is better."""
    return raise_score() if higher_is_better else lower_score()


def lower_quality(*, higher_is_better: bool) -> Objective:
    """Make every image look worse to the model."""
    return raise_quality(higher_is_better=not higher_is_better)


def move_away(clean: Scores, low: float, high: float) -> Objective:
    """Push each score to the far end of the range ``[low, high]``: up from the lower half, else down.

    Args:
      clean: scores of the unperturbed images.
      low: lowest score of the model's range.
      high: highest score of the model's range.
    """
    return push(jnp.where(clean < 0.5 * (low + high), 1.0, -1.0))


def change(clean: Scores) -> Objective:
    """Bring each score as far from the clean one as possible, up or down; up where it has not moved yet.

    Args:
      clean: scores of the unperturbed images.
    """
    return Partial(_far_from, clean)


def push(directions: Scores) -> Objective:
    """Push each score in its own direction: up where that is positive, down where it is negative."""
    return Partial(_towards, directions)


def reach_target(targets: Scores | float) -> Objective:
    """Bring each score to its own target: the squared distance (SMA stage two, arXiv 2404.13277)."""
    return Partial(_squared_distance, targets)


def per_range(objective: Objective, low: float, high: float) -> Objective:
    """The same objective in units of the score range, where it is weighed against something else.

    Attacks that follow signs of gradients do not change. Those with a penalty, or with Adam, whose ``eps`` is not small
    against gradients of a model that scores in 0..1, are published for a loss of ``1 - score / (high - low)``.
    """
    return Partial(_scaled, objective, 1.0 / abs(high - low))


def _scaled(objective: Objective, factor: Float[Array, ""] | float, scores: Scores) -> Losses:
    return factor * objective(scores)


def _towards(direction: Float[Array, "#batch"] | Float[Array, ""] | float, scores: Scores) -> Losses:
    return -direction * scores


def _far_from(clean: Scores, scores: Scores) -> Losses:
    return jnp.where(scores >= clean, clean - scores, scores - clean)


def _squared_distance(targets: Scores | Float[Array, ""] | float, scores: Scores) -> Losses:
    return (scores - targets) ** 2
