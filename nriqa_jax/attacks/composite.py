"""Attacks that consist of others: the strongest of several, and those whose strength is found for each image.

They run their parts one after the other and choose per image, on the pixels that a file would hold: rounded to 8 bits
toward the clean image, since the order of two results can change there.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nriqa_jax.attacks.bracket import Bracket, narrowed, secant
from nriqa_jax.attacks.gradient import run, select
from nriqa_jax.image import from_uint8, quantize_toward, to_uint8
from nriqa_jax.types import (
    Attack,
    AttackResult,
    CompositeAttack,
    GradientHealth,
    Images,
    Keys,
    Objective,
    Runner,
    ScoreFn,
)

ROUNDS = 8
_CLOSE = 0.005  # share of a limit by which a cost may stay below it

Knob = Float[Array, " batch"]
Cost = Callable[[Images, Images], Float[Array, " batch"]]


def run_any(attack: Any, score_fn: ScoreFn, images: Images, keys: Keys) -> AttackResult:
    """Run an attack of any kind as one program or, if it consists of others, as one program each."""
    if isinstance(attack, CompositeAttack):
        return attack.run_with(PLAIN, score_fn, images, keys)
    return run(attack, score_fn, images, keys)


def _call(fn: Callable[..., Any], *arrays: Any) -> Any:
    return fn(*arrays)


PLAIN = Runner(run_any, _call)


@dataclasses.dataclass(frozen=True)
class Strongest:
    """Several attacks, of which each image keeps the result of lowest objective; for what none can be trusted to find.

    The idea is AutoAttack's (Croce & Hein, ICML 2020). The members decide the budget: give all the same.

    Attributes:
      objective: what decides; the members may have others, such as both directions of a score.
      members: the attacks.
    """

    objective: Objective
    members: tuple[Attack, ...]

    def __call__(self, score_fn: ScoreFn, images: Images, keys: Keys) -> AttackResult:
        """Attack a batch."""
        return self.run_with(PLAIN, score_fn, images, keys)

    def run_with(self, runner: Runner, score_fn: ScoreFn, images: Images, keys: Keys) -> AttackResult:
        """Run the members, and choose."""
        found = (runner.attack(member, score_fn, images, keys) for member in self.members)
        results = [_saved(runner, result, score_fn, images) for result in found]
        best, *others = results
        for other in others:
            loss, lowest = self.objective(other.scores), self.objective(best.scores)
            best = _choose((loss < lowest) | jnp.isnan(lowest), other, best)
        traces = jnp.concatenate([jnp.atleast_2d(result.loss_trace) for result in results])
        queries = jnp.sum(jnp.stack([result.queries for result in results]), axis=0)
        return best._replace(loss_trace=traces, queries=queries)


@dataclasses.dataclass(frozen=True)
class Matched:
    """An attack at the strength that costs each image the same: its knob is searched.

    Attacks can then be compared at equal visible change. Each image keeps the first result whose cost meets the limit,
    else that of the largest cost within it, or that of the smallest cost if no strength stays within. The search ends
    when all images of the batch have met it; the queries of an image are those up to its own end.

    Attributes:
      objective: of the attack.
      make: from a knob per image to an attack, such as ``lambda knob: korhonen(objective, step_size=knob)``.
      cost: visible change ``(attacked, images) -> [batch]``, growing with the knob; see `nriqa_jax.metrics.fidelity`.
      limit: largest accepted cost.
      low: smallest knob, > 0.
      high: largest knob.
      rounds: largest number of runs of the attack after the first, which has the middle of the knobs.
    """

    objective: Objective
    make: Callable[[Knob], Any]
    cost: Cost
    limit: float
    low: float
    high: float
    rounds: int = ROUNDS

    def __call__(self, score_fn: ScoreFn, images: Images, keys: Keys) -> AttackResult:
        """Attack a batch."""
        return self.run_with(PLAIN, score_fn, images, keys)

    def run_with(self, runner: Runner, score_fn: ScoreFn, images: Images, keys: Keys) -> AttackResult:
        """Run the attack at several strengths, and choose."""
        low, high = jnp.full(len(images), self.low), jnp.full(len(images), self.high)
        unchanged = runner.call(self.cost, images, images) - self.limit
        ends, knob = Bracket(low, unchanged, high, jnp.full_like(unchanged, jnp.inf)), jnp.sqrt(low * high)
        best, met = None, jnp.zeros(len(images), bool)
        for _ in range(self.rounds + 1):
            result = _saved(runner, runner.attack(self.make(knob), score_fn, images, keys), score_fn, images)
            error = runner.call(self.cost, result.images, images) - self.limit
            if best is None:
                best, best_error, queries = result, error, result.queries
            else:
                # Among costs within the limit the largest wins; beyond it, the smallest.
                closer = jnp.where(error <= 0, (error > best_error) | (best_error > 0), error < best_error)
                better, queries = closer & ~met, queries + jnp.where(met, 0, result.queries)
                trace = jnp.where(better, result.loss_trace, best.loss_trace)
                best = _choose(better, result, best)._replace(loss_trace=trace)
                best_error = jnp.where(better, error, best_error)
            met = (best_error <= 0) & (best_error >= -_CLOSE * abs(self.limit))
            if _are_all(met):
                break
            ends = narrowed(ends, knob, error)
            knob = _next(ends)
        assert best is not None
        return best._replace(queries=queries)


def _next(ends: Bracket) -> Knob:
    """The next knob of a search: by the costs at both ends, or the geometric middle while one of them is unknown."""
    known = jnp.isfinite(ends.near_error) & jnp.isfinite(ends.far_error)
    return jnp.where(known, secant(ends), jnp.sqrt(ends.near * ends.far))


def _are_all(met: Bool[Array, " batch"]) -> bool:
    """Whether a search may end; one that is being compiled cannot know."""
    return not isinstance(met, jax.core.Tracer) and bool(jnp.all(met))


@dataclasses.dataclass(frozen=True)
class Adapted:
    """An attack whose knob is a function of the image.

    Attributes:
      objective: of the attack.
      make: from a knob per image to an attack.
      knob: ``images -> [batch]``.
    """

    objective: Objective
    make: Callable[[Knob], Any]
    knob: Callable[[Images], Knob]

    def __call__(self, score_fn: ScoreFn, images: Images, keys: Keys) -> AttackResult:
        """Attack a batch."""
        return self.run_with(PLAIN, score_fn, images, keys)

    def run_with(self, runner: Runner, score_fn: ScoreFn, images: Images, keys: Keys) -> AttackResult:
        """Run the attack with the knobs of the images."""
        return runner.attack(self.make(runner.call(self.knob, images)), score_fn, images, keys)


def _saved(runner: Runner, result: AttackResult, score_fn: ScoreFn, images: Images) -> AttackResult:
    """A result as its files hold it."""
    rounded, scores = runner.call(_rounded, score_fn, result.images, images)
    return result._replace(images=rounded, scores=scores, queries=result.queries + 1)


def _rounded(score_fn: ScoreFn, attacked: Images, images: Images) -> tuple[Images, Float[Array, " batch"]]:
    rounded = from_uint8(quantize_toward(attacked, to_uint8(images)))
    return rounded, score_fn(rounded)


def _choose(better: Bool[Array, " batch"], other: AttackResult, best: AttackResult) -> AttackResult:
    images, scores = select(better, (other.images, other.scores), (best.images, best.scores))
    health = select(better, _health(other), _health(best))
    return best._replace(images=images, scores=scores, health=health)


def _health(result: AttackResult) -> GradientHealth:
    """That of attacks without gradients is unknown, but for their gradients: they have none to mistrust."""
    unknown = jnp.full(len(result.images), jnp.nan)
    return result.health or GradientHealth(unknown, unknown, jnp.zeros(len(result.images), jnp.int32))
