r"""Train a quality model on a labelled data set, plainly or with a defense.

python -m experiments.train_model --model=tinyiqa --data=embedded --crop=160 --out=out/plain
python -m experiments.train_model --model=tinyiqa --data=embedded --crop=160 --defense=nt --nt_weight=1e-5 --out=out/nt
python -m experiments.train_model --model=hyperiqa --backbone=resnet50.pth --config=hyperiqa_nt --paper_quirks \
    --data=LIVEC --data_set=livec --selection=test --out=out/published

Images are split by name, all copies of a reference on one side. The epoch is chosen on the validation part; the test
part is scored once, at the end. Writes weights.safetensors and their card weights.md, log.jsonl (a line for each
epoch), split.json, test_scores.csv, training.png and summary.json; of several splits, a folder for each, and medians.

Killed at any moment and started again, a run ends with the same weights to the last bit; it may go on with another
number of devices, too.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments import cli, data_flags, ledger, plan_flags, processes, settings, weights
from experiments.catalog import BACKBONES, DEFENSES, LOSSES, MODELS, OPTIMISERS, RELABELLINGS, SCHEDULES
from experiments.data_sets.data_set import DataSet, Item, Scale
from experiments.data_sets.splits import Split
from experiments.training import evaluation, events, loop, outputs, recipes, release
from experiments.training.backbones import with_backbone
from experiments.training.labels import Labelling, labelling
from experiments.training.plan import Plan
from experiments.training.samples import Source
from nriqa_jax.models.model import Model, Variables


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(data_flags.Data, plan_flags.PlanFlags, cli.Machine):
    """Settings of a training run."""

    model: str = cli.flag(cli.REQUIRED, "Quality model.", MODELS)
    weights: str = cli.flag("random", "Initial weights: a .safetensors or PyTorch file, random, or embedded.")
    backbone: str = cli.flag("", "PyTorch file of the model's backbone alone, as torchvision or timm release it.")
    protocol: str = cli.flag("", "Test protocol, such as published, grid or pyiqa; by default the model's first.")
    out: str = cli.flag(cli.REQUIRED, "Run folder; the same command run again continues an interrupted run.")
    seed: int = cli.flag(0, "Seed of splits, random weights, order, crops and noise.")
    selection: str = cli.flag("validation", "What the epoch is chosen by; papers take test.", outputs.SELECTIONS)
    checkpoint_minutes: float = cli.flag(10.0, "From one checkpoint within an epoch to the next.")
    tensorboard: bool = cli.flag(False, "Also write the log as events for TensorBoard; needs the package tensorboardX.")


class Study(NamedTuple):
    """What all splits of a run share.

    Attributes:
      model: with its test protocol.
      plan: of the training.
      parts: what names in it stand for.
      data: the images.
      labelling: their labels.
      initial: weights to start from, of the first seed if they are random.
      details: what ``config.json`` says.
    """

    model: Model
    plan: Plan
    parts: recipes.Parts
    data: DataSet
    labelling: Labelling
    initial: Variables
    details: dict[str, Any]


def run(config: Config) -> dict[str, Any]:
    """Train on all splits, and write what came of it; returns what ``summary.json`` holds."""
    if processes.several():
        raise cli.UserError("training runs in one process; give it --devices, not --num_processes")
    if config.tensorboard:
        events.check_installed()
    devices = cli.training_devices(config)
    plan, data = plan_flags.plan_of(config), data_flags.load(config)
    splits = data_flags.split_all(config, data, config.seed, validation=config.selection == "validation")
    study = prepare(config, plan, data)
    out = Path(config.out)
    ledger.open_run(out, study.details | {"splits": [outputs.data_record(data, split) for split in splits]})
    folders = [out if len(splits) == 1 else out / f"split_{number:02}" for number in range(1, len(splits) + 1)]
    results = []
    for number, (split, folder) in enumerate(zip(splits, folders)):
        other = config.weights == "random" and number > 0
        initial = initial_weights(config, study.model, config.seed + number).variables if other else study.initial
        results.append(train_split(config, study, split, config.seed + number, initial, folder, devices))
    histories = [loop.read_log(folder) for folder in folders]
    drawn = outputs.figure(histories, [result["epoch"] for result in results], config.selection)
    outputs.write_figure(out / "training.png", drawn)
    median = outputs.medians([result["test"] for result in results])
    summary = {"selection": outputs.SELECTIONS[config.selection], "splits": results, "median": median}
    ledger.write_json(out / "summary.json", summary)
    return summary


def prepare(config: Config, plan: Plan, data: DataSet) -> Study:
    """What the splits of a run share.

    Raises:
      UserError: when a setting does not make sense.
    """
    model = MODELS[config.model]()
    try:
        model = model.with_protocol(config.protocol, config.seed) if config.protocol else model
    except ValueError as error:
        raise cli.UserError(f"--protocol={config.protocol}: {error}") from error
    backbone = BACKBONES.get(model.name)
    if backbone is None and (plan.head_factor != 1.0 or plan.freeze_backbone or config.backbone):
        flags = "--head_factor, --freeze_backbone and --backbone"
        raise cli.UserError(f"{flags} are for other models: {model.name} has no part that is called its backbone")
    initial = initial_weights(config, model, config.seed)
    model = initial.model
    least = model.preprocess.min_side
    if (plan.crop or min(plan_flags.cuts_of(plan).size or (least,))) < least:
        raise cli.UserError(f"--crop={plan.crop} or --resize: this model needs at least {least} pixels")
    labels = labelling(model, data, plan.labels)
    details = {
        "script": "train_model",
        "flags": dataclasses.asdict(config),
        "plan": dataclasses.asdict(plan),
        "selection": outputs.SELECTIONS[config.selection],
        "data_sha256": _digest(data),
        "labels": {"worst": labels.scale.worst, "best": labels.scale.best},
        "model": settings.describe(model),
        "weights_sha256": initial.sha256,
        **ledger.provenance("highest"),
    }
    parts = named_parts(plan, labels.scale, backbone.parts if backbone else ())
    return Study(model, plan, parts, data, labels, initial.variables, details)


def named_parts(plan: Plan, scale: Scale, backbone: Sequence[str]) -> recipes.Parts:
    """What the names in a plan stand for, given the scale of labels and the parameters of the backbone."""
    low, high = scale.range
    return recipes.Parts(
        loss=LOSSES[plan.loss](high - low),
        optimiser=OPTIMISERS[plan.optimiser],
        schedule=SCHEDULES[plan.schedule],
        defense=DEFENSES[plan.defense],
        relabel=RELABELLINGS[plan.relabel](scale),
        scale=scale,
        backbone=backbone,
    )


def initial_weights(config: Config, model: Model, seed: int) -> weights.Weights:
    """The weights to start from, with their backbone from a file of its own if there is one."""
    if config.backbone and not Path(config.backbone).is_file():
        raise cli.UserError(f"--backbone={config.backbone} is not a file; give the PyTorch file of a backbone alone")
    loaded = weights.load(config.weights, model, seed)
    if not config.backbone:
        return loaded
    filled = with_backbone(model, loaded.variables, Path(config.backbone), BACKBONES[model.name])
    return weights.Weights(filled.variables, f"{loaded.sha256}, backbone {filled.sha256}", loaded.model)


def _digest(data: DataSet) -> str:
    rows = [(item.name, item.mos, item.reference) for item in data.items]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def train_split(
    config: Config,
    study: Study,
    split: Split,
    seed: int,
    initial: Variables,
    folder: Path,
    devices: Sequence[jax.Device],
) -> dict[str, Any]:
    """Train on a split and write its results, unless they are there; returns what ``result.json`` holds."""
    finished = folder / "result.json"
    if finished.exists():
        loop.clean_up(folder)  # after a kill between the result and this
        return json.loads(finished.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    ledger.write_json(folder / "split.json", split.names())
    parts = {name: _part(study, getattr(split, name)) for name in ("train", "validation", "test")}
    job = loop.Job(
        model=one_view(study, parts["train"]),
        tested=study.model,
        plan=study.plan,
        parts=study.parts,
        source=Source(study.data.root, parts["train"].labels, plan_flags.cuts_of(study.plan)),
        selection=parts.get(config.selection),
        seed=seed,
        devices=devices,
        folder=folder,
        checkpoint_seconds=60.0 * config.checkpoint_minutes,
        publish=events.write_events if config.tensorboard else events.write_nothing,
    )
    outcome = loop.train(job, initial)
    result = release.write(_released(config, study, split), outcome, parts, devices, folder)
    ledger.write_json(finished, result)
    loop.clean_up(folder)
    return result


def _released(config: Config, study: Study, split: Split) -> release.Release:
    """What must be known of the weights of a split."""
    return release.Release(
        model=study.model,
        plan=study.plan,
        scale=study.labelling.scale,
        data=outputs.data_record(study.data, split),
        initial_weights=f"{Path(config.weights).name}, sha256 {study.details['weights_sha256']}",
        selection=study.details["selection"],
        command=outputs.command(config),
    )


def _part(study: Study, items: Sequence[Item]) -> evaluation.Part:
    return evaluation.part(study.data, items, study.labelling.label, study.model.preprocess.min_side)


def one_view(study: Study, training: evaluation.Part) -> Model:
    """The model with a protocol that sees a sample once, where it has one: a crop needs no more crops."""
    model, plan = study.model, study.plan
    size = plan_flags.cuts_of(plan).size or next(iter(training.images.sizes.values()))
    height, width = (plan.crop, plan.crop) if plan.crop else size
    sample = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    fitting = (each for each in (model.preprocess, *model.protocols) if min(height, width) >= each.min_side)
    single = (each for each in fitting if jax.eval_shape(each.views, sample).shape[1] == 1)
    return dataclasses.replace(model, preprocess=next(single, model.preprocess))


def main(config: Config) -> int:
    """Train, and say how well it went."""
    summary = run(config)
    median, count = summary["median"], len(summary["splits"])
    numbers = ", ".join(f"{name.upper()} {median[name]:.4f}" for name in ("srocc", "plcc", "rmse"))
    print(f"test part{f', median of {count} splits' if count > 1 else ''}: {numbers}; see {config.out}")
    print(f"the weights are those of {summary['selection']}")
    return 0


if __name__ == "__main__":
    cli.run(Config, main)
