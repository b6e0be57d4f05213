"""Early stops, one image at a time: wrappers of update rules that hold an image still, or return an earlier iterate.

Images that have stopped still take part in the passes of their batch, so stopping changes results but saves no time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from nriqa_jax.attacks.gradient import select
from nriqa_jax.types import Losses, Theta

Rule = optax.GradientTransformationExtraArgs


class Criterion(NamedTuple):
    """When an image stops.

    Attributes:
      init: from the number of images to a memory.
      judge: ``(memory, losses) -> (memory, stop [batch])``, called once before each step.
    """

    init: Callable[[int], PyTree]
    judge: Callable[[PyTree, Losses], tuple[PyTree, Bool[Array, " batch"]]]


def until_no_progress(rule: optax.GradientTransformation, patience: int | Int[Array, ""]) -> Rule:
    """A rule that stops each image after ``patience`` losses in a row without a new lowest one."""
    return until(rule, no_new_minimum(patience))


def until(rule: optax.GradientTransformation, criterion: Criterion) -> Rule:
    """A rule that holds an image still for good once a criterion is met; that step is not taken any more."""
    inner = optax.with_extra_args_support(rule)

    def init(theta: Theta) -> _UntilState:
        batch = _batch(theta)
        return _UntilState(inner.init(theta), criterion.init(batch), jnp.zeros(batch, bool))

    def update(grads: Theta, state: _UntilState, theta: Theta, *, value: Losses, **more: Any) -> tuple[Theta, Any]:
        memory, stop = criterion.judge(state.memory, value)
        updates, rule_state = inner.update(grads, state.rule, theta, value=value, **more)
        stopped = state.stopped | stop
        still = jax.tree.map(jnp.zeros_like, updates)
        return select(stopped, still, updates), _UntilState(rule_state, memory, stopped)

    return Rule(init, update)


def no_new_minimum(patience: int | Int[Array, ""]) -> Criterion:
    """Stop after this many losses in a row that were not the lowest so far."""

    def init(batch: int) -> tuple[Losses, Int[Array, " batch"]]:
        return jnp.full(batch, jnp.inf, float), jnp.zeros(batch, jnp.int32)

    def judge(memory: tuple[Losses, Array], losses: Losses) -> tuple[tuple[Losses, Array], Bool[Array, " batch"]]:
        lowest, waited = memory
        better = losses < lowest
        waited = jnp.where(better, 0, waited + 1)
        return (jnp.where(better, losses, lowest), waited), waited >= patience

    return Criterion(init, judge)


def slow_progress(every: int | Int[Array, ""] = 25, share: float | Float[Array, ""] = 1e-4) -> Criterion:
    """Stop where a loss fell by less than a share of its size since the last review.

    For positive losses and the defaults that is where it is above 0.9999 times the loss 25 steps before.

    Args:
      every: steps between reviews; the first loss is only remembered.
      share: of the magnitude of the loss at the last review.
    """

    def init(batch: int) -> tuple[Array, Losses]:
        return jnp.zeros((), jnp.int32), jnp.zeros(batch)

    def judge(memory: tuple[Array, Losses], losses: Losses) -> tuple[tuple[Array, Losses], Bool[Array, " batch"]]:
        step, before = memory
        review = step % every == 0
        slow = (step > 0) & review & (losses > before - share * jnp.abs(before))
        return (step + 1, jnp.where(review, losses, before)), slow

    return Criterion(init, judge)


def after_lowest(rule: optax.GradientTransformation) -> Rule:
    """A rule under which theta is the iterate right after the one of lowest loss, while the search goes on elsewhere.

    The attack has to take its gradients there: give it ``look_ahead=Partial(search_point)``.
    """
    inner = optax.with_extra_args_support(rule)

    def init(theta: Theta) -> _AfterLowestState:
        return _AfterLowestState(inner.init(theta), theta, jnp.full(_batch(theta), jnp.inf, float))

    def update(
        grads: Theta, state: _AfterLowestState, theta: Theta, *, value: Losses, project: Any, **more: Any
    ) -> tuple[Theta, _AfterLowestState]:
        updates, rule_state = inner.update(grads, state.rule, state.point, value=value, project=project, **more)
        point = project(optax.apply_updates(state.point, updates))
        better = value < state.lowest
        moves = jax.tree.map(jnp.subtract, select(better, point, theta), theta)
        return moves, _AfterLowestState(rule_state, point, jnp.where(better, value, state.lowest))

    return Rule(init, update)


def search_point(theta: Theta, state: optax.OptState) -> Theta:
    """Where a rule made by `after_lowest` searches."""
    del theta
    return state.point


class _UntilState(NamedTuple):
    rule: optax.OptState
    memory: PyTree
    stopped: Bool[Array, " batch"]


class _AfterLowestState(NamedTuple):
    rule: optax.OptState
    point: Theta
    lowest: Losses


def _batch(theta: Theta) -> int:
    return len(jax.tree.leaves(theta)[0])
