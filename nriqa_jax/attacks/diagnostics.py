"""Evidence that an attack did not fail silently: what a careful reader asks before believing a small effect.

A defense or a model can look robust because gradients vanish, are noisy or are NaN. Each check here compares an
attack with something that it must beat, per image; `findings` turns the numbers of a run into plain warnings.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from nriqa_jax.types import Images, Keys

MAX_ZERO_SHARE = 0.9
MAX_UNMOVED_SHARE = 0.1
MIN_AT_BUDGET_SHARE = 0.5
MIN_GAIN_OVER_NOISE = 2.0
AT_BUDGET = 0.95


def same_size_noise(images: Images, adversarial: Images, keys: Keys) -> Images:
    """The same change with a random sign at every pixel and channel: noise of the very same size.

    An attack that moves scores no further than this has found nothing.
    """
    signs = jax.vmap(lambda key: jax.random.rademacher(key, images.shape[1:], images.dtype))(keys)
    return jnp.clip(images + signs * (adversarial - images), 0.0, 1.0)


class Checks(NamedTuple):
    """Numbers of one run; shares are of images, in [0, 1].

    Attributes:
      zero_gradient: mean share of exactly zero gradient entries.
      nonfinite: number of NaN or infinite gradient entries.
      unmoved: share of images whose score did not change at all.
      at_budget: share of images that used at least `AT_BUDGET` of the budget.
      gain_over_noise: mean score change, over that by noise of the same size.
      more_steps: gain in the objective by doubling the steps, on a sample; negative when more steps were worse, None
        where it was not tried.
    """

    zero_gradient: float
    nonfinite: int
    unmoved: float
    at_budget: float
    gain_over_noise: float
    more_steps: float | None


def findings(checks: Checks) -> list[str]:
    """Warnings, one sentence each; none when the attack looks sound."""
    warnings = []
    if checks.nonfinite:
        warnings.append(f"{checks.nonfinite} gradient entries were NaN or infinite and were not followed.")
    if checks.zero_gradient > MAX_ZERO_SHARE:
        warnings.append(f"{checks.zero_gradient:.0%} of gradient entries were exactly zero: gradients look masked.")
    if checks.unmoved > MAX_UNMOVED_SHARE:
        warnings.append(f"{checks.unmoved:.0%} of images did not change their score at all.")
    if checks.at_budget < MIN_AT_BUDGET_SHARE:
        warnings.append(f"Only {checks.at_budget:.0%} of images used the whole budget: steps may be too few or small.")
    if checks.gain_over_noise < MIN_GAIN_OVER_NOISE:
        warnings.append(
            f"Scores moved only {checks.gain_over_noise:.1f} times as far as by random noise of the same size:"
            " gradients look uninformative."
        )
    if checks.more_steps is not None and checks.more_steps < 0:
        warnings.append("Twice the steps did worse on a sample: the attack has not converged, or gradients are noisy.")
    return warnings
