"""The white-box loop. Every gradient attack is objective x perturbation x update rule x number of steps, run here.

The loop is given as its pieces (``init``, ``step``, ``finish``), because a host loop over one compiled step is
several times faster on CPUs, while accelerators prefer one fused program. `run` is the fused form, usable anywhere;
``nriqa_jax.parallel.run_attack`` chooses.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from nriqa_jax.types import (
    AttackResult,
    GradientHealth,
    Images,
    Keys,
    Losses,
    Objective,
    Penalty,
    Perturbation,
    ScoreFn,
    Scores,
    StepwiseAttack,
    Theta,
    View,
    drawn,
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
    keys: Keys
    best_theta: Theta
    best_loss: Losses
    zero: Float[Array, " batch"]
    nonfinite: Int[Array, " batch"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GradientAttack:
    """A gradient attack; also its own configuration.

    Everything but ``steps`` and ``keep_best`` is pytree data: a sweep over epsilon or step size compiles once. Update
    rules get the losses as ``value``, the images as ``images``, a key per image as ``keys``, ``project`` of the
    perturbation, and ``gradient``, the gradient anywhere else at the same step.

    Attributes:
      objective: what to minimise.
      perturbation: where the attack may go.
      update_rule: pytree callable that makes the optax transformation, such as ``Partial(optax.adam, 0.01)``.
      steps: number of gradient steps.
      keep_best: return, per image, the iterate of lowest loss instead of the last one.
      penalty: added to the objective.
      view: what the model is shown at a step, instead of the attacked images themselves.
      look_ahead: ``(theta, state of the rule) -> theta``, where to take the gradient, if not at theta.
      passes: forward passes of a step: more than one where the rule asks for gradients elsewhere or views are several.
    """

    objective: Objective
    perturbation: Perturbation
    update_rule: Callable[[], optax.GradientTransformation]
    steps: int = dataclasses.field(metadata={"static": True})
    keep_best: bool = dataclasses.field(default=False, metadata={"static": True})
    penalty: Penalty | None = None
    view: View | None = None
    look_ahead: Callable[[Theta, optax.OptState], Theta] | None = None
    passes: int = dataclasses.field(default=1, metadata={"static": True})

    def __call__(self, score_fn: ScoreFn, images: Images, keys: Keys) -> AttackResult:
        """Attack a batch as one program."""
        return run(self, score_fn, images, keys)

    def init(self, score_fn: ScoreFn, images: Images, keys: Keys) -> State:
        """The (projected) starting point."""
        del score_fn
        theta = self.perturbation.project(self.perturbation.init(keys, images), images)
        none = jnp.zeros(len(images))
        rule, keys = self._rule().init(theta), _next_keys(keys)
        return State(theta, rule, keys, theta, none + jnp.inf, none, none.astype(jnp.int32))

    def step(self, score_fn: ScoreFn, images: Images, state: State) -> tuple[State, Losses]:
        """One gradient step and projection."""
        score_fn = drawn(score_fn, state.keys)
        gradient = partial(self._losses_and_gradients, score_fn, images, state.keys)
        losses, grads = gradient(self.look_ahead(state.theta, state.rule) if self.look_ahead else state.theta)
        zero, nonfinite = _per_image_mean(grads, lambda g: g == 0), _per_image_sum(grads, lambda g: ~jnp.isfinite(g))
        updates, rule = self._rule().update(
            _finite(grads),
            state.rule,
            state.theta,
            value=losses,
            images=images,
            keys=state.keys,
            project=lambda theta: self.perturbation.project(theta, images),
            gradient=lambda theta: _finite(gradient(theta)[1]),
        )
        theta = self.perturbation.project(optax.apply_updates(state.theta, updates), images)
        better = losses < state.best_loss
        state = State(
            theta=theta,
            rule=rule,
            keys=_next_keys(state.keys),
            best_theta=select(better, state.theta, state.best_theta),
            best_loss=jnp.where(better, losses, state.best_loss),
            zero=state.zero + zero / self.steps,
            nonfinite=state.nonfinite + nonfinite,
        )
        return state, losses

    def finish(self, score_fn: ScoreFn, images: Images, state: State, loss_trace: Array) -> AttackResult:
        """Render and score the outcome."""
        score_fn = drawn(score_fn, state.keys)
        theta, queries = state.theta, self.passes * self.steps + 1
        scores = score_fn(self._render(theta, images))
        if self.keep_best:
            last_loss = self.objective(scores) + self._penalty(theta, self._render(theta, images), images)
            theta = select(last_loss <= state.best_loss, theta, state.best_theta)
            scores, queries = score_fn(self._render(theta, images)), queries + 1
        health = GradientHealth(self.perturbation.used(theta), state.zero, state.nonfinite)
        return AttackResult(self._render(theta, images), scores, loss_trace, jnp.full(len(images), queries), health)

    def _rule(self) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(self.update_rule())

    def _render(self, theta: Theta, images: Images) -> Images:
        # Outside the loss: removes the last-digit excess of float32 sums.
        return jnp.clip(self.perturbation.render(theta, images), 0.0, 1.0)

    def _losses_and_gradients(
        self, score_fn: ScoreFn, images: Images, keys: Keys, theta: Theta
    ) -> tuple[Losses, Theta]:
        def total(theta: Theta) -> tuple[Array, Losses]:
            attacked = self.perturbation.render(theta, images)
            losses = self._objective_of_views(score_fn, attacked, keys) + self._penalty(theta, attacked, images)
            return jnp.sum(losses), losses

        (_, losses), grads = jax.value_and_grad(total, has_aux=True)(theta)
        return losses, grads

    def _objective_of_views(self, score_fn: ScoreFn, attacked: Images, keys: Keys) -> Losses:
        if self.view is None:
            return self.objective(score_fn(attacked))
        views = self.view(attacked, keys)
        scores = score_fn(views.reshape(-1, *views.shape[2:])).reshape(views.shape[:2])
        return jnp.mean(jax.vmap(self.objective, 1, 1)(scores), axis=1)

    def _penalty(self, theta: Theta, attacked: Images, images: Images) -> Losses | float:
        return 0.0 if self.penalty is None else self.penalty(theta, attacked, images)


def select(condition: Array, accepted: Theta, rejected: Theta) -> Theta:
    """Per-image choice between two trees whose leaves start with the batch axis."""

    def choose(a: Array, b: Array) -> Array:
        return jnp.where(condition.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, accepted, rejected)


def _next_keys(keys: Keys) -> Keys:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, 0)


def _finite(grads: Theta) -> Theta:
    """Gradients without what a NaN would do: freeze its pixel for good, through sign() and momentum."""
    return jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0.0), grads)


def _per_image_sum(tree: Theta, predicate: Callable[[Array], Array]) -> Int[Array, " batch"]:
    leaves = jax.tree.leaves(jax.tree.map(predicate, tree))
    return jnp.sum(jnp.stack([jnp.sum(leaf.reshape(len(leaf), -1), axis=1) for leaf in leaves]), axis=0)


def _per_image_mean(tree: Theta, predicate: Callable[[Array], Array]) -> Scores:
    return _per_image_sum(tree, predicate) / sum(leaf[0].size for leaf in jax.tree.leaves(tree))
