"""Attacks from several starts, and attacks that go on from where an earlier one ended."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nriqa_jax.attacks.gradient import GradientAttack, State, run
from nriqa_jax.attacks.perturbations import starting_at
from nriqa_jax.types import AttackResult, Images, Keys, Objective, ScoreFn


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Restarts:
    """The same attack from several random starts, as one more vectorised axis; keeps the best result per image.

    Attributes:
      attack: attack with a random start.
      restarts: number of starts.
    """

    attack: GradientAttack
    restarts: int = dataclasses.field(metadata={"static": True})

    @property
    def objective(self) -> Objective:
        """Objective of the attack."""
        return self.attack.objective

    @property
    def steps(self) -> int:
        """Number of steps of each start."""
        return self.attack.steps

    def __call__(self, score_fn: ScoreFn, images: Images, keys: Keys) -> AttackResult:
        """Attack a batch as one program."""
        return run(self, score_fn, images, keys)

    def init(self, score_fn: ScoreFn, images: Images, keys: Keys) -> State:
        """States of all starts, stacked on a new first axis."""
        fold = jax.vmap(jax.random.fold_in, (0, None))
        starts = jax.vmap(fold, (None, 0))(keys, jnp.arange(self.restarts))
        return jax.vmap(lambda keys: self.attack.init(score_fn, images, keys))(starts)

    def step(self, score_fn: ScoreFn, images: Images, state: State) -> tuple[State, Float[Array, "restarts batch"]]:
        """One step of every start."""
        return jax.vmap(lambda state: self.attack.step(score_fn, images, state))(state)

    def finish(self, score_fn: ScoreFn, images: Images, state: State, loss_trace: Array) -> AttackResult:
        """The best start of each image."""
        finish = jax.vmap(lambda state, trace: self.attack.finish(score_fn, images, state, trace), (0, 1))
        results = finish(state, loss_trace)
        best = jnp.argmin(jax.vmap(self.objective)(results.scores), axis=0)
        pick = jax.vmap(lambda values, start: values[start], (1, 0))
        return AttackResult(
            images=pick(results.images, best),
            scores=pick(results.scores, best),
            loss_trace=jnp.moveaxis(pick(jnp.moveaxis(results.loss_trace, 1, 2), best), 0, 1),
            queries=jnp.sum(results.queries, axis=0),
            health=jax.tree.map(lambda values: pick(values, best), results.health),
        )


def starting_from(attack: GradientAttack | Restarts, versions: Images) -> GradientAttack:
    """An attack that goes on where an earlier one ended; from one start, even if it would have had several.

    Args:
      attack: attack whose changes are additive.
      versions: what the earlier attack made of the images.
    """
    inner = attack.attack if isinstance(attack, Restarts) else attack
    return dataclasses.replace(inner, perturbation=starting_at(inner.perturbation, versions))
