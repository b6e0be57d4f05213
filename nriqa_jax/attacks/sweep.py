"""The same attack at many settings at once, such as the prices of a perceptual attack (Zhang et al., NeurIPS 2022)."""

import dataclasses
from collections.abc import Callable

import jax
from jaxtyping import Array, Float, PyTree

from nriqa_jax.attacks.gradient import run
from nriqa_jax.types import AttackResult, Images, Keys, Objective, ScoreFn, StepwiseAttack


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sweep:
    """The same attack at several settings, as one more vectorised axis that all results keep as their first.

    Attributes:
      attacks: an attack whose settings are stacked.
    """

    attacks: StepwiseAttack

    @property
    def objective(self) -> Objective:
        """Objective of the attacks."""
        return self.attacks.objective

    @property
    def steps(self) -> int:
        """Number of steps of each attack."""
        return self.attacks.steps

    def __call__(self, score_fn: ScoreFn, images: Images, keys: Keys) -> AttackResult:
        """Attack a batch at all settings as one program."""
        return run(self, score_fn, images, keys)

    def init(self, score_fn: ScoreFn, images: Images, keys: Keys) -> PyTree:
        """States of all attacks; they start from the same noise."""
        return jax.vmap(lambda attack: attack.init(score_fn, images, keys))(self.attacks)

    def step(self, score_fn: ScoreFn, images: Images, state: PyTree) -> tuple[PyTree, Float[Array, "settings batch"]]:
        """One step of every attack."""
        return jax.vmap(lambda attack, state: attack.step(score_fn, images, state))(self.attacks, state)

    def finish(self, score_fn: ScoreFn, images: Images, state: PyTree, loss_trace: Array) -> AttackResult:
        """Results of all attacks, stacked."""
        finish = jax.vmap(lambda attack, *outcome: attack.finish(score_fn, images, *outcome), (0, 0, 1))
        return finish(self.attacks, state, loss_trace)


def sweep(make_attack: Callable[[Array], StepwiseAttack], weights: Float[Array, "settings ..."]) -> Sweep:
    """An attack at several weights at once, to choose from for each image.

    Memory grows with their number as it does with the batch.

    Args:
      make_attack: from one weight (or one per image) to an attack, such as
        ``lambda weight: perceptual_ssim(objective, weight=weight)``.
      weights: one row per attack.
    """
    return Sweep(jax.vmap(make_attack)(weights))
