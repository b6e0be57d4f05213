"""The white-box loop. Every gradient attack is objective x perturbation x update rule x number of steps, run here.

The loop is given as its pieces (``init``, ``step``, ``finish``), because a host loop over one compiled step is
several times faster on CPUs, while accelerators prefer one fused program. `run` is the fused form, usable anywhere;
``nriqa_jax.parallel.run_attack`` chooses.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from nriqa_jax.attacks.perturbations import starting_at
from nriqa_jax.types import (
    AttackResult,
    GradientHealth,
    Images,
    Keys,
    Losses,
    Objective,
    Perturbation,
    ScoreFn,
    Scores,
    StepwiseAttack,
    Theta,
)


def run(attack: StepwiseAttack, score_fn: ScoreFn, images: Images, keys: Keys) -> AttackResult:
    """Run an attack as one program."""

    def step(state: PyTree, _: None) -> tuple[PyTree, Array]:
        return attack.step(score_fn, images, state)

    state, losses = jax.lax.scan(step, attack.init(score_fn, images, keys), None, length=attack.steps)
    return attack.finish(score_fn, images, state, losses)


class State(NamedTuple):
    """What a gradient attack carries from step to step."""

    theta: Theta
    rule: optax.OptState
    best_theta: Theta
    best_loss: Losses
    zero: Float[Array, " batch"]
    nonfinite: Int[Array, " batch"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GradientAttack:
    """A gradient attack; also its own configuration.

    Everything but ``steps`` and ``keep_best`` is pytree data: a sweep over epsilon or step size compiles once.

    Attributes:
      objective: what to minimise.
      perturbation: where the attack may go.
      update_rule: pytree callable that makes the optax transformation, such as ``Partial(optax.adam, 0.01)``.
        It is updated with the extra arguments ``value`` (the losses) and ``project``.
      steps: number of gradient steps.
      keep_best: return, per image, the iterate of lowest loss instead of the last one.
    """

    objective: Objective
    perturbation: Perturbation
    update_rule: Callable[[], optax.GradientTransformation]
    steps: int = dataclasses.field(metadata={"static": True})
    keep_best: bool = dataclasses.field(default=False, metadata={"static": True})

    def __call__(self, score_fn: ScoreFn, images: Images, keys: Keys) -> AttackResult:
        """Attack a batch as one program."""
        return run(self, score_fn, images, keys)

    def init(self, score_fn: ScoreFn, images: Images, keys: Keys) -> State:
        """The (projected) starting point."""
        del score_fn
        theta = self.perturbation.project(self.perturbation.init(keys, images), images)
        none = jnp.zeros(len(images))
        return State(theta, self._rule().init(theta), theta, none + jnp.inf, none, none.astype(jnp.int32))

    def step(self, score_fn: ScoreFn, images: Images, state: State) -> tuple[State, Losses]:
        """One gradient step and projection."""
        losses, grads = self._losses_and_gradients(score_fn, images, state.theta)
        zero, nonfinite = _per_image_mean(grads, lambda g: g == 0), _per_image_sum(grads, lambda g: ~jnp.isfinite(g))
        # A NaN would freeze its pixel for good through sign() and momentum; it is counted, and not followed.
        grads = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0.0), grads)
        updates, rule = self._rule().update(
            grads, state.rule, state.theta, value=losses, project=lambda theta: self.perturbation.project(theta, images)
        )
        theta = self.perturbation.project(optax.apply_updates(state.theta, updates), images)
        better = losses < state.best_loss
        state = State(
            theta=theta,
            rule=rule,
            best_theta=select(better, state.theta, state.best_theta),
            best_loss=jnp.where(better, losses, state.best_loss),
            zero=state.zero + zero / self.steps,
            nonfinite=state.nonfinite + nonfinite,
        )
        return state, losses

    def finish(self, score_fn: ScoreFn, images: Images, state: State, loss_trace: Array) -> AttackResult:
        """Render and score the outcome."""
        theta, queries = state.theta, self.steps + 1
        scores = score_fn(self._render(theta, images))
        if self.keep_best:
            theta = select(self.objective(scores) <= state.best_loss, theta, state.best_theta)
            scores, queries = score_fn(self._render(theta, images)), queries + 1
        health = GradientHealth(self.perturbation.used(theta), state.zero, state.nonfinite)
        return AttackResult(self._render(theta, images), scores, loss_trace, jnp.full(len(images), queries), health)

    def _rule(self) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(self.update_rule())

    def _render(self, theta: Theta, images: Images) -> Images:
        # Outside the loss: removes the last-digit excess of float32 sums.
        return jnp.clip(self.perturbation.render(theta, images), 0.0, 1.0)

    def _losses_and_gradients(self, score_fn: ScoreFn, images: Images, theta: Theta) -> tuple[Losses, Theta]:
        def total(theta: Theta) -> tuple[Array, Losses]:
            losses = self.objective(score_fn(self.perturbation.render(theta, images)))
            return jnp.sum(losses), losses

        (_, losses), grads = jax.value_and_grad(total, has_aux=True)(theta)
        return losses, grads


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


def select(condition: Array, accepted: Theta, rejected: Theta) -> Theta:
    """Per-image choice between two trees whose leaves start with the batch axis."""

    def choose(a: Array, b: Array) -> Array:
        return jnp.where(condition.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, accepted, rejected)


def _per_image_sum(tree: Theta, predicate: Callable[[Array], Array]) -> Int[Array, " batch"]:
    leaves = jax.tree.leaves(jax.tree.map(predicate, tree))
    return jnp.sum(jnp.stack([jnp.sum(leaf.reshape(len(leaf), -1), axis=1) for leaf in leaves]), axis=0)


def _per_image_mean(tree: Theta, predicate: Callable[[Array], Array]) -> Scores:
    return _per_image_sum(tree, predicate) / sum(leaf[0].size for leaf in jax.tree.leaves(tree))
