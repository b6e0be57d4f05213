"""Search for where a quantity of each image meets a value: false position, with the Illinois rule."""

from typing import NamedTuple

import jax.numpy as jnp

from nriqa_jax.types import Scores

_MARGIN = 0.1  # share of the bracket that a step cuts off at least


class Bracket(NamedTuple):
    """Two ends of an interval, and how far the quantity is from the value there; the signs of the errors differ."""

    near: Scores
    near_error: Scores
    far: Scores
    far_error: Scores


def secant(bracket: Bracket) -> Scores:
    """Where the straight line between both ends meets the value, kept away from the ends."""
    fall = bracket.near_error - bracket.far_error
    share = bracket.near_error / jnp.where(fall == 0, 1.0, fall)
    return bracket.near + (bracket.far - bracket.near) * jnp.clip(share, _MARGIN, 1.0 - _MARGIN)


def narrowed(bracket: Bracket, place: Scores, error: Scores) -> Bracket:
    """The part of a bracket that is left once the error at a place within it is known."""
    past = (error > 0) == (bracket.far_error > 0)
    # Halving the error of an end that stays (the Illinois rule) keeps secants from creeping.
    return Bracket(
        near=jnp.where(past, bracket.near, place),
        near_error=jnp.where(past, bracket.near_error / 2, error),
        far=jnp.where(past, place, bracket.far),
        far_error=jnp.where(past, error, bracket.far_error / 2),
    )
