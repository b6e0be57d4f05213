"""The worst case: attacks of different kinds within one budget, of which each image keeps the strongest."""

from nriqa_jax.attacks.black_box import square
from nriqa_jax.attacks.composite import Strongest
from nriqa_jax.attacks.korhonen import korhonen
from nriqa_jax.attacks.objectives import lower_score, raise_score
from nriqa_jax.attacks.perceptual import dissimilarity, perceptual_msu
from nriqa_jax.attacks.perturbations import Radius
from nriqa_jax.attacks.presets import EPSILON, apgd
from nriqa_jax.types import Objective

_SHARE = 4  # epsilon in steps of Adam


def worst_case(objective: Objective, *, epsilon: Radius = EPSILON, steps: int = 20, queries: int = 500) -> Strongest:
    """The strongest of APGD up and down, Korhonen, perceptual and Square (after AutoAttack, Croce & Hein, ICML 2020).

    One attack can fail for reasons of its own: masked gradients stop the first ones, and not the last. Build a
    `Strongest` for a list of your own.

    Args:
      objective: what decides, in units of the score range; `objectives.change` accepts either direction.
      epsilon: L-infinity radius of all members.
      steps: of each attack by gradients.
      queries: of the attack without gradients.
    """
    size = epsilon / _SHARE
    members = (
        apgd(raise_score(), epsilon=epsilon, steps=steps),
        apgd(lower_score(), epsilon=epsilon, steps=steps),
        korhonen(objective, step_size=size, steps=steps, epsilon=epsilon),
        perceptual_msu(objective, dissimilarity, step_size=size, steps=steps, epsilon=epsilon),
        square(objective, epsilon=epsilon, queries=queries),
    )
    return Strongest(objective, members)
