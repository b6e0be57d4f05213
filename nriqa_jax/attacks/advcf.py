"""AdvCF: a colour curve for each channel instead of changes of single pixels (Zhao et al., BMVC 2020; ACE).

Here ``theta`` holds the slopes of the pieces of these curves, 64 for each channel, up to a common factor: a curve is
piecewise linear and rises from 0 to 1, so that no colour leaves the pixel range and all slopes equal is no change.
Curves are functions of colours alone: equal colours stay equal, and no texture appears.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from nriqa_jax.attacks import update_rules
from nriqa_jax.attacks.gradient import GradientAttack
from nriqa_jax.attacks.perturbations import Radius, image_norm, per_image
from nriqa_jax.attacks.stadv import limited
from nriqa_jax.attacks.stopping import slow_progress, until
from nriqa_jax.types import Images, Keys, Losses, Objective, Perturbation, Scores

PIECES = 64

_ROWS_AT_A_TIME = 8
_LEAST_SLOPE = 1e-9  # not zero: where rounding alone makes all slopes of a white image fall, the curve stays

Slopes = Float[Array, "batch 1 pieces 3"]  # shaped like images, so that their update rules apply


def advcf(
    objective: Objective,
    *,
    steepness: Radius = 16.0,
    step_size: Radius | None = None,
    steps: int = 10,
    patience: int = 25,
    epsilon: Radius | None = None,
) -> GradientAttack:
    """Colour curves of bounded slopes by normalised gradient steps (AdvCF, Zhao et al., BMVC 2020).

    The knob is the steepness, since it bounds the curves whatever the number of steps: 1 leaves only the identity,
    and by default a handful of steps crosses the whole box.

    Args:
      objective: what to minimise.
      steepness: largest ratio of two slopes of a curve, at least 1; published 16.
      step_size: length of a step, over all slopes of an image, which start at 1 / 64; by default in proportion to the
        box, and 1, as published, where that is.
      steps: number of steps; the paper has up to 100.
      patience: an image stops if its loss has not fallen by 0.01 % in this many steps.
      epsilon: L-infinity radius that colours may change by, if they have one.
    """
    steepness = jnp.maximum(steepness, 1.0)
    step_size = (steepness - 1.0) / 15.0 if step_size is None else step_size
    rule = Partial(_unit_descent_until_slow, step_size, patience)
    box = Partial(_into_box, steepness)
    return GradientAttack(objective, limited(curves(box), epsilon), rule, steps)


def advcf_adam(
    objective: Objective,
    *,
    step_size: Radius = 0.01,
    steps: int = 500,
    weight: Radius = 5.0,
    epsilon: Radius | None = None,
) -> GradientAttack:
    """Colour curves by Adam, kept near the identity by a penalty (AdvCF, Zhao et al., BMVC 2020).

    Args:
      objective: what to minimise, in units of the score range (`objectives.per_range`), as it is weighed here.
      step_size: of Adam; all slopes start at 1 / 64.
      steps: number of steps.
      weight: of the squared distance of all slopes, as shares of their sum, from equal shares.
      epsilon: L-infinity radius that colours may change by, if they have one.
    """
    rule = Partial(update_rules.adam_descent, step_size)
    set_, penalty = limited(curves(Partial(_above_zero)), epsilon), Partial(_unevenness, weight)
    return GradientAttack(objective, set_, rule, steps, penalty=penalty)


def curves(project: Callable[[Slopes, Images], Slopes]) -> Perturbation:
    """Images seen through a colour curve for each channel, starting at the identity.

    Args:
      project: ``(slopes, images) -> slopes``, what bounds the slopes; they must not become negative.
    """
    return Perturbation(Partial(_equal_slopes), project, Partial(recolour), Partial(_used_unbounded))


def recolour(slopes: Slopes, images: Images) -> Images:
    """Images seen through their curves: the slope of a piece counts for the part of it below the colour."""
    pieces = slopes.shape[2]
    starts = jnp.arange(pieces, dtype=images.dtype)[:, None] / pieces
    shares = jnp.moveaxis(_shares(slopes)[:, 0], 1, 2)[..., None]

    # Some rows at a time, and again for the gradient: all parts of all pixels take 64 times the memory of an image.
    @jax.checkpoint
    def through(row: Float[Array, "batch 3 width"]) -> Float[Array, "batch 3 width"]:
        below = jnp.clip(row[:, :, None] - starts, 0.0, 1.0 / pieces)
        return pieces * jnp.sum(below * shares, axis=2)

    rows = jax.lax.map(through, jnp.transpose(images, (1, 0, 3, 2)), batch_size=_ROWS_AT_A_TIME)
    return jnp.transpose(rows, (1, 0, 3, 2))


def _unit_descent_until_slow(
    step_size: Radius, patience: int | Int[Array, ""]
) -> optax.GradientTransformationExtraArgs:
    unit = optax.stateless(lambda grads, _: grads / (image_norm(grads) + 1e-8))
    return until(optax.chain(unit, update_rules.steps_of(step_size)), slow_progress(patience))


def _into_box(steepness: Radius, slopes: Slopes, images: Images) -> Slopes:
    """Slopes between the one that all start with and a multiple of it: they can only grow, their ratios matter."""
    del images
    equal = 1.0 / slopes.shape[2]
    return jnp.clip(slopes, equal, per_image(steepness) * equal)


def _above_zero(slopes: Slopes, images: Images) -> Slopes:
    del images
    return jnp.maximum(slopes, _LEAST_SLOPE)


def _unevenness(weight: Radius, theta: Slopes, attacked: Images, images: Images) -> Losses:
    del attacked, images
    squares = jnp.sum((_shares(theta) - 1.0 / theta.shape[2]) ** 2, axis=(1, 2, 3))
    return jnp.reshape(weight, -1) * squares


def _shares(slopes: Slopes) -> Slopes:
    return slopes / jnp.maximum(jnp.sum(slopes, axis=2, keepdims=True), 1e-12)


def _equal_slopes(keys: Keys, images: Images) -> Slopes:
    del keys
    return jnp.full((len(images), 1, PIECES, 3), 1.0 / PIECES, images.dtype)


def _used_unbounded(slopes: Slopes) -> Scores:
    return jnp.ones(len(slopes))
