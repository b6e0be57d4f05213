"""SMA, the attack on rankings (arXiv 2404.13277), stage one: which score each image of a set should get.

Stage two is any attack with the objective ``reach_target(targets)``; the published one is I-FGSM with epsilon 0.005,
step size 0.001 and 10 steps. Scores here are on one scale for all models, usually 0..100: the weights of the variance
and of the error, and the strength of soft ranks, are in its units.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from nriqa_jax.attacks.agreements import Agreement, Number, Scores, Spearman

Targets = Float[Array, "*runs n"]
Weight = Number | Float[Array, " runs"]

_Runs = Float[Array, "runs n"]
_SPEARMAN = Spearman()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SmaConfig:
    """Settings of stage one. Its loss is ``agreement - variance_weight * variance - error_weight * MSE``.

    Weights, learning rate, tolerance and seed are data: a sweep of them compiles once. Weights may be vectors: then
    there is a run for each, all at once, and what is found gets a first axis for the runs. The defaults are those of
    the published code.

    Attributes:
      agreement: what to make small, between targets and scores.
      variance_weight: of the variance of targets (divided by n - 1), the interior constraint.
      error_weight: of the mean squared difference between targets and scores.
      low: lowest target.
      high: highest target.
      learning_rate: of Adam; targets move by about this much in a step.
      tolerance: stop when no loss has changed by more than this since the last record. With 0 that is when targets
        have stopped moving.
      seed: of the start.
      steps: largest number of steps.
      record_every: steps between records of the trace.
    """

    agreement: Agreement = _SPEARMAN
    variance_weight: Weight = 1e-4
    error_weight: Weight = 1e-4
    low: float = dataclasses.field(default=0.0, metadata={"static": True})
    high: float = dataclasses.field(default=100.0, metadata={"static": True})
    learning_rate: Number = 0.005
    tolerance: Number = 0.0
    seed: int | Int[Array, ""] = 919
    steps: int = dataclasses.field(default=100_000, metadata={"static": True})
    record_every: int = dataclasses.field(default=100, metadata={"static": True})

    @staticmethod
    def paper() -> "SmaConfig":
        """The settings of the published code, for scores in 0..100."""
        return SmaConfig()


class Trace(NamedTuple):
    """The terms of the loss as targets moved; NaN after the last record.

    Attributes:
      agreement: agreement of targets and scores.
      variance: of the targets.
      error: mean squared difference of targets and scores.
    """

    agreement: Float[Array, "*runs records"]
    variance: Float[Array, "*runs records"]
    error: Float[Array, "*runs records"]


class TargetRun(NamedTuple):
    """What stage one found.

    Attributes:
      targets: a score for each image.
      steps: number of steps taken.
      trace: every term of the loss, each ``record_every`` steps.
    """

    targets: Targets
    steps: Int[Array, ""]
    trace: Trace


def sma_targets(scores: Scores, config: SmaConfig | None = None, start: Scores | None = None) -> Targets:
    """Target scores that disagree with the scores of a set of images (SMA stage one); see `optimize_targets`."""
    return optimize_targets(scores, config, start).targets


def optimize_targets(scores: Scores, config: SmaConfig | None = None, start: Scores | None = None) -> TargetRun:
    """SMA stage one, compiled as one loop.

    Args:
      scores: of the clean images, finite. In float64 (within ``jax.enable_x64``) the outcome is that of the published
        code to the last digits.
      config: settings; those of the paper by default.
      start: targets before the first step; by default each score is lowered by 0.01 or not, at random.

    Raises:
      ValueError: there are fewer than two scores, or no steps.
    """
    config = SmaConfig() if config is None else config
    if len(scores) < 2:
        raise ValueError(f"a ranking needs at least two scores, got {len(scores)}")
    if min(config.steps, config.record_every) < 1:
        raise ValueError(f"steps={config.steps} and record_every={config.record_every} must be at least 1")
    run = _optimize(scores, config, _start(scores, config.seed) if start is None else start)
    if jnp.ndim(config.variance_weight) or jnp.ndim(config.error_weight):
        return run
    return run._replace(targets=run.targets[0], trace=jax.tree.map(lambda rows: rows[0], run.trace))


@jax.jit
def _optimize(scores: Scores, config: SmaConfig, start: Scores) -> TargetRun:
    agreement = jax.vmap(config.agreement(scores, config.high - config.low))
    rule = optax.chain(optax.stateless(_signs), optax.adam(config.learning_rate))

    def terms(targets: _Runs) -> Trace:
        error = jnp.mean((targets - scores) ** 2, axis=-1)
        return Trace(agreement(targets), jnp.var(targets, axis=-1, ddof=1), error)

    def losses(terms: Trace) -> Float[Array, " runs"]:
        return terms.agreement - config.variance_weight * terms.variance - config.error_weight * terms.error

    def step(_: Int[Array, ""], state: _State) -> _State:
        gradient = jax.grad(lambda targets: jnp.sum(losses(terms(targets))))(state.targets)
        updates, rule_state = rule.update(gradient, state.rule)
        targets = jnp.clip(optax.apply_updates(state.targets, updates), config.low, config.high)
        return state._replace(targets=targets, rule=rule_state)

    def steps_to_next_record(state: _State) -> _State:
        end = jnp.minimum(state.steps + config.record_every, config.steps)
        state = jax.lax.fori_loop(state.steps, end, step, state)
        now = terms(state.targets)
        return state._replace(
            steps=end,
            losses=losses(now),
            change=jnp.max(jnp.abs(losses(now) - state.losses)),
            records=state.records + 1,
            trace=jax.tree.map(lambda rows, row: rows.at[:, state.records].set(row), state.trace, now),
        )

    def is_moving(state: _State) -> Bool[Array, ""]:
        return (state.steps < config.steps) & (state.change > config.tolerance)

    runs = jnp.broadcast_shapes(jnp.shape(config.variance_weight), jnp.shape(config.error_weight))
    targets = jnp.broadcast_to(start, (*(runs or (1,)), len(scores)))
    none, infinite = jnp.zeros((), jnp.int32), jnp.full_like(targets[:, 0], jnp.inf)
    empty = jnp.full((len(targets), -(-config.steps // config.record_every)), jnp.nan, targets.dtype)
    start_state = _State(targets, rule.init(targets), none, none, infinite, infinite[0], Trace(empty, empty, empty))
    state = jax.lax.while_loop(is_moving, steps_to_next_record, start_state)
    return TargetRun(state.targets, state.steps, state.trace)


class _State(NamedTuple):
    targets: _Runs
    rule: optax.OptState
    steps: Int[Array, ""]
    records: Int[Array, ""]
    losses: Float[Array, " runs"]
    change: Float[Array, ""]  # largest one of the losses since the record before
    trace: Trace


def _start(scores: Scores, seed: int | Int[Array, ""]) -> Scores:
    """Not quite at the scores, where the agreement has no gradient."""
    lowered = jax.random.bernoulli(jax.random.key(seed), shape=scores.shape)
    return scores - 0.01 * lowered.astype(scores.dtype)


def _signs(gradient: _Runs, _: Any) -> _Runs:
    """The published normalisation by the norm of each entry: signs, but for tiny entries; NaN is not followed."""
    known = jnp.where(jnp.isnan(gradient), 0.0, gradient)
    return known / jnp.abs(known + 1e-12)
