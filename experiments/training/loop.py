"""The loop of a training run: steps, epochs, the choice of the best one, and how it goes on after an interruption."""

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from experiments import checkpoints
from experiments.checkpoints import Checkpoints
from experiments.errors import UserError
from experiments.pipeline import image_keys
from experiments.progress import Progress
from experiments.training import evaluation, events, recipes
from experiments.training.evaluation import Part
from experiments.training.plan import Moment, Plan, Quirk, Rates, rates
from experiments.training.samples import Samples, Source
from nriqa_jax.defenses.training import Batch, Recipe, TrainState, init_state, train_step
from nriqa_jax.image import from_uint8
from nriqa_jax.models.model import Model, Variables
from nriqa_jax.parallel import even_share
from weights_convert import store

LOG, CHECKPOINTS = "log.jsonl", "checkpoints"


class Job(NamedTuple):
    """A training run.

    Attributes:
      model: what is trained, with a protocol that gives one view of a sample.
      tested: the same with the protocol of tests.
      plan: settings.
      parts: what names in the plan stand for.
      source: samples.
      selection: what the best epoch is chosen by; None to keep the last one.
      seed: of order, crops and noise.
      devices: that share each batch.
      folder: of the run.
      checkpoint_seconds: from one checkpoint within an epoch to the next.
      publish: what else is done with the rows of the log, such as `events.write_events`.
    """

    model: Model
    tested: Model
    plan: Plan
    parts: recipes.Parts
    source: Source
    selection: Part | None
    seed: int
    devices: Sequence[jax.Device]
    folder: Path
    checkpoint_seconds: float
    publish: Callable[[Path, Sequence[Mapping[str, Any]]], None] = events.write_nothing

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        return self.source.steps(self.plan.batch_size)

    @property
    def uses(self) -> int:
        """How often each batch is used."""
        return self.plan.attack_steps if self.parts.defense.free else 1

    def rates(self, step: int) -> Rates:
        """Learning rates of a step."""
        moment = Moment(step, step // self.steps_per_epoch, self.plan.epochs * self.steps_per_epoch)
        return rates(self.plan, self.parts.schedule, moment)

    def recipe(self, step: int) -> Recipe:
        """Recipe of a step."""
        return recipes.recipe(self.plan, self.parts, self.rates(step))


@dataclasses.dataclass
class Account:
    """What is known of a run besides its state.

    Attributes:
      step: number of steps taken.
      sums: of the metrics of the steps of the current epoch.
      history: a row for each epoch.
    """

    step: int = 0
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def best(self) -> int | None:
        """Place of the first row with the highest SROCC."""
        known = [(-row["srocc"], place) for place, row in enumerate(self.history) if row.get("srocc") is not None]
        return min(known)[1] if known else None


class Outcome(NamedTuple):
    """What training gave.

    Attributes:
      variables: of the chosen epoch, on the host.
      epoch: that epoch, from 1.
    """

    variables: Variables
    epoch: int


def train(job: Job, variables: Variables) -> Outcome:
    """Train, or go on with training.

    Args:
      job: the run.
      variables: initial weights.
    """
    count = job.plan.epochs * job.steps_per_epoch
    with checkpoints.opened(job.folder / CHECKPOINTS, keep=1) as saved:
        state, account = _start(job, variables, saved)
        progress = Progress((count - account.step) * job.plan.batch_size)
        while account.step < count:
            started = time.monotonic()
            state = _epoch(job, state, account, saved, progress)
            _close_epoch(job, state, account)
            saved.save(account.step, state, dataclasses.asdict(account))
            _forget_all_but_best(job, account)
            print(_line(account.history[-1], time.monotonic() - started), flush=True)
        progress.close()
    best = account.best()
    if job.selection is None or best is None:
        return Outcome(jax.tree.map(np.asarray, state.variables()), len(account.history))
    return Outcome(store.load_variables(_best_file(job, best), job.model), best + 1)


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def _step(model: Model, recipe: Recipe, state: TrainState, samples: Samples, key: Array) -> tuple[TrainState, PyTree]:
    batch = Batch(from_uint8(jnp.asarray(samples.pixels)), jnp.asarray(samples.labels))
    return train_step(model, recipe, state, batch, image_keys(key, samples.numbers))


def _start(job: Job, variables: Variables, saved: Checkpoints) -> tuple[TrainState, Account]:
    """The state of the newest checkpoint, or that before the first step."""
    crops = (job.plan.batch_size, job.plan.crop, job.plan.crop, 3)
    fresh = _on_devices(job, init_state(job.recipe(0), variables, crops), PartitionSpec())
    if fresh.delta is not None:
        fresh = fresh._replace(delta=_on_devices(job, fresh.delta, PartitionSpec("images")))
    state, _, progress = saved.restore(fresh)
    account = Account(**progress)
    _write_log(job, account)
    return state, account


def _on_devices(job: Job, tree: PyTree, spec: PartitionSpec) -> PyTree:
    """A tree on the devices of the run: copied to each, or its rows shared out."""
    devices = np.array(job.devices[: even_share(job.plan.batch_size, job.devices)])
    return jax.device_put(tree, NamedSharding(Mesh(devices, ("images",)), spec))


def _epoch(job: Job, state: TrainState, account: Account, saved: Checkpoints, progress: Progress) -> TrainState:
    """The steps of an epoch that are still to be done."""
    epoch, first = divmod(account.step, job.steps_per_epoch)
    key, last = jax.random.key(job.seed), time.monotonic()
    if first == 0 and Quirk.OPTIMISER_RENEWED in job.plan.quirks:
        renewed = job.recipe(account.step).optimiser().init(state.params)
        state = state._replace(optimiser=_on_devices(job, renewed, PartitionSpec()))
    for samples in job.source.batches(job.plan.batch_size, job.seed, epoch, first):
        rows = _on_devices(job, samples, PartitionSpec("images"))
        state, metrics = _use(job, job.recipe(account.step), state, rows, key)
        account.step += 1
        _count(account, metrics)
        progress.advance(job.plan.batch_size)
        if time.monotonic() - last >= job.checkpoint_seconds and account.step % job.steps_per_epoch:
            saved.save(account.step, state, dataclasses.asdict(account))
            last = time.monotonic()
    return state


def _use(
    job: Job, recipe: Recipe, state: TrainState, samples: Samples, key: Array
) -> tuple[TrainState, dict[str, float]]:
    """The steps on a batch, and the means of their metrics."""
    found = []
    for _ in range(job.uses):
        state, metrics = _step(job.model, recipe, state, samples, key)
        found.append({name: float(value) for name, value in metrics.items()})
    return state, {name: sum(row[name] for row in found) / len(found) for name in found[0]}


def _count(account: Account, metrics: Mapping[str, float]) -> None:
    """Add the metrics of a batch."""
    for name, value in metrics.items():
        account.sums[name] = account.sums.get(name, 0.0) + value
    if not math.isfinite(account.sums["total"]):
        raise UserError(f"the loss is not finite at step {account.step}; try a lower --learning_rate, or --clip")


def _close_epoch(job: Job, state: TrainState, account: Account) -> None:
    """Write the row of an epoch, and its weights if they are the best ones."""
    found = job.rates(account.step - 1)
    row = {"epoch": len(account.history) + 1, "steps": account.step, "rate": found.backbone, "rate_head": found.head}
    row |= {name: total / job.steps_per_epoch for name, total in sorted(account.sums.items())}
    variables = state.variables()
    if job.selection is not None:
        scores = evaluation.scores(job.tested, variables, job.selection, job.devices)
        row |= evaluation.quality(scores, job.selection.labels)
    account.sums = {}
    account.history.append({name: value if math.isfinite(value) else None for name, value in row.items()})
    if account.best() == len(account.history) - 1:
        store.save_variables(_best_file(job, len(account.history) - 1), variables, store.describe(job.model))
    _write_log(job, account)


def _best_file(job: Job, place: int) -> Path:
    return job.folder / f"best_{place + 1}.safetensors"


def _forget_all_but_best(job: Job, account: Account) -> None:
    """Remove the weights of earlier epochs, once the checkpoint knows of a better one."""
    best = account.best()
    for path in job.folder.glob("best_*.safetensors"):
        if best is None or path != _best_file(job, best):
            path.unlink()


def _write_log(job: Job, account: Account) -> None:
    """The rows of all epochs, one JSON object a line."""
    text = "".join(json.dumps(row) + "\n" for row in account.history)
    store.write_atomic(job.folder / LOG, text.encode())
    job.publish(job.folder, account.history)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's epochs."""
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def clean_up(folder: Path) -> None:
    """Remove what only an interrupted run needs."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    for path in folder.glob("best_*.safetensors"):
        path.unlink()


def _line(row: Mapping[str, Any], seconds: float) -> str:
    quality = f", SROCC {row['srocc']:.4f}" if row.get("srocc") is not None else ""
    return f"epoch {row['epoch']}: loss {row['loss']:.4f}{quality}, {seconds:.0f} s"
