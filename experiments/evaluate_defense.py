r"""Evaluate defenses: the same attacks on several models, against opinions and against the clean scores.

python -m experiments.evaluate_defense --models=plain=tinyiqa:plain.safetensors,nt=tinyiqa:nt.safetensors \
    --images=PHOTOGRAPHS --mos=TEST.csv --out=out/defense --attacks=fgsm,ifgsm,worst_case --epsilons=2/255,4/255

Writes defense.csv (a row for each model, attack and radius), its figure as defense.svg and defense.png, and below them
the run folders of the attacks. "none" is the clean image; "strongest" keeps, of each image, the attack that moved its
score furthest. Attacks of --transferred are computed on the --surrogate. Run again, it continues.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import (
    attack_flags,
    attack_images,
    cli,
    evaluated_set,
    ledger,
    loading,
    pipeline,
    processes,
    settings,
    text_table,
)
from experiments.catalog import MODELS, OBJECTIVES
from experiments.defense_table import COLUMNS, STRONGEST, Attacked, attacked_row, clean_row, strongest
from nriqa_jax.defenses.gradient_penalty import gradient_norms
from nriqa_jax.image import from_uint8
from nriqa_jax.parallel import call

GRADIENT_COLUMNS = ("image", "status", "error", "height", "width", "score", "gradient_l1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(cli.Machine):
    """Settings of an evaluation."""

    models: str = cli.flag(cli.REQUIRED, "LABEL=MODEL:WEIGHTS separated by commas; the first is what others defend.")
    images: str = cli.flag(cli.REQUIRED, "Folder of images (with its sub-folders).")
    mos: str = cli.flag(cli.REQUIRED, "CSV of subjective scores; the images that it names are evaluated.")
    out: str = cli.flag(cli.REQUIRED, "Run folder; the same command run again continues an interrupted run.")
    attacks: str = cli.flag("fgsm,ifgsm", "Attacks, separated by commas; settings after colons: ifgsm:steps=10.")
    transferred: str = cli.flag("", "Attacks that are computed on the surrogate instead, such as korhonen.")
    surrogate: str = cli.flag("", "MODEL:WEIGHTS that transferred attacks are computed on.")
    pattern: str = cli.flag("", "File of the perturbation of --attacks=universal.")
    epsilons: str = cli.flag("2/255,4/255", "Radii, separated by commas.")
    objective: str = cli.flag("away", "What to do to each score; see attack_images --help.", OBJECTIVES)
    crops: int = cli.flag(0, "Attack this many random crops of each image and average their scores; 0: whole images.")
    crop_size: int = cli.flag(224, "Side of the crops, in pixels.")
    batch_size: int = cli.flag(0, "Largest number of images computed together on a device; 0 is as memory allows.")
    seed: int = cli.flag(0, "Seed of crops, random weights, starts and noise.")


class Entry(NamedTuple):
    """A model under its label."""

    label: str
    model: str
    weights: str


def run(config: Config) -> list[dict[str, Any]]:
    """Attack every model by every attack, into ``config.out``; returns the rows of ``defense.csv``."""
    entries, plans = _entries(config), _plans(config)
    epsilons = [text.strip() for text in config.epsilons.split(",")]
    for epsilon in epsilons:
        cli.parse_epsilon(epsilon, "epsilons")
    folder = Path(config.out) / "images"
    mos = _write_images(config, folder)
    rows: list[dict[str, Any]] = []
    for entry in entries:
        model, clean, norms = _clean(config, entry, folder)
        rows.append({**_start(entry), **clean_row(mos, clean), "gradient_l1": float(np.mean(list(norms.values())))})
        for epsilon in epsilons:
            found = {name: _attack(config, entry, folder, name, given, epsilon) for name, given in plans.items()}
            if len(found) > 1:
                found[STRONGEST] = strongest(found)
            for name, attacked in found.items():
                start = {**_start(entry), "attack": name, "epsilon": epsilon}
                rows.append(start | attacked_row(mos, attacked, *model.score_range))
    if processes.is_first():
        _write(Path(config.out), rows)
    return rows


def _entries(config: Config) -> list[Entry]:
    entries: list[Entry] = []
    for text in config.models.split(","):
        label, equals, rest = text.strip().partition("=")
        model, colon, file = rest.partition(":")
        if not (equals and colon and label and file):
            raise cli.UserError(f"--models: '{text.strip()}' is not LABEL=MODEL:WEIGHTS")
        if model not in MODELS:
            raise cli.UserError(f"--models: there is no '{model}'; give some of {', '.join(MODELS)}")
        if "/" in label or label in {"images", *(entry.label for entry in entries)}:
            raise cli.UserError(f"--models: the label '{label}' is there twice, or names no folder")
        entries.append(Entry(label, model, file))
    return entries


def _plans(config: Config) -> dict[str, dict[str, int]]:
    """Attacks, and the settings that each is given."""
    plans = dict(attack_flags.read_entry(text, "attacks") for text in config.attacks.split(","))
    for name in _transferred(config):
        if name not in plans:
            raise cli.UserError(f"--transferred: '{name}' is not one of --attacks")
    if bool(_transferred(config)) != bool(config.surrogate):
        raise cli.UserError("--transferred=ATTACKS and --surrogate=MODEL:WEIGHTS belong together")
    return plans


def _transferred(config: Config) -> list[str]:
    return [name.strip() for name in config.transferred.split(",") if name.strip()]


def _write_images(config: Config, folder: Path) -> dict[str, float]:
    """Write the images to attack; returns the subjective score of each."""
    if config.crops < 0 or config.crop_size < 1:
        raise cli.UserError(f"--crops={config.crops} and --crop_size={config.crop_size} must not be below 0 and 1")
    root = Path(config.images)
    if Path(config.out).resolve().is_relative_to(root.resolve()):
        raise cli.UserError(f"--out={config.out} lies inside --images={root}: results would become images")
    mos = evaluated_set.scored_images(root, Path(config.mos))
    if config.crops:
        sizes = {"count": config.crops, "size": config.crop_size, "seed": config.seed}
        evaluated_set.write_crops(root, list(mos), folder, **sizes)
    else:
        evaluated_set.write_whole(root, list(mos), folder)
    return mos


def _start(entry: Entry) -> dict[str, Any]:
    return {"label": entry.label, "model": entry.model, "epsilon": ""}


def _clean(config: Config, entry: Entry, folder: Path) -> tuple[Any, dict[str, float], dict[str, float]]:
    """The model, its clean scores, and the l1 norms of their gradients by pixels in [0, 1]."""
    out = Path(config.out) / entry.label / "clean"
    common = settings.Common(**_common(config, entry, folder, out))
    model, scorers, details = settings.load_model(common)
    images = pipeline.survey(folder, out, model.preprocess.min_side)
    ledger.open_run(out, pipeline.run_config("evaluate_defense", common, images, details))
    replicas, sizes = settings.replicas(common, scorers), settings.sizes_of_batches(common, scorers, images)
    table = ledger.Table(out / "gradients.csv", GRADIENT_COLUMNS)
    timings = ledger.Table(out / "timings.csv", pipeline.TIMING_COLUMNS)

    def work(batch: loading.Batch) -> pipeline.Cells:
        found = batch.fetch(call(_scores_and_norms, replicas.on(batch.devices).score, batch.rows))
        return [{name: {key: column[row] for key, column in found.items()} for row, name in enumerate(batch.names)}]

    pipeline.Rows(images, [table, timings], sizes, replicas, out).fill(work)
    return model, _by_image(config, table, "score"), _by_image(config, table, "gradient_l1")


def _scores_and_norms(score_fn: Any, pixels: Any) -> dict[str, Any]:
    images = from_uint8(pixels)
    return {"score": score_fn(images), "gradient_l1": gradient_norms(score_fn, images)}


def _common(config: Config, entry: Entry, folder: Path, out: Path) -> dict[str, Any]:
    shared = {"batch_size": config.batch_size, "seed": config.seed, **cli.machine_of(config)}
    return {"model": entry.model, "weights": entry.weights, "images": str(folder), "out": str(out), **shared}


def _attack(config: Config, entry: Entry, folder: Path, name: str, given: Mapping[str, int], epsilon: str) -> Attacked:
    """Run one attack on one model, or what is missing of it."""
    out = Path(config.out) / entry.label / f"{name}_{epsilon.replace('/', '_')}"
    chosen = _common(config, entry, folder, out) | {"attack": name, "objective": config.objective, **given}
    chosen |= attack_flags.bounded(name, epsilon)
    if "pattern" in attack_flags.parameters(name):
        chosen["pattern"] = config.pattern
    if name in _transferred(config):
        surrogate, _, file = config.surrogate.partition(":")
        chosen |= {"surrogate": surrogate, "surrogate_weights": file}
    table = attack_images.run(attack_images.Config(**chosen))
    return Attacked(_by_image(config, table, "score_clean"), _by_image(config, table, "score_adversarial"))


def _by_image(config: Config, table: ledger.Table, column: str) -> dict[str, float]:
    values = {name: float(row[column]) for name, row in table.rows.items() if row["status"] == "ok"}
    return evaluated_set.mean_by_image(values, cropped=bool(config.crops))


def _write(out: Path, rows: list[dict[str, Any]]) -> None:
    from experiments.pages import defense, style  # matplotlib imports much

    ledger.write_rows(out / "defense.csv", COLUMNS, ([row.get(column) for column in COLUMNS] for row in rows))
    figure = defense.defense_figure(rows)
    ledger.write_atomic(out / "defense.svg", style.to_svg(figure))
    ledger.write_atomic(out / "defense.png", style.to_png(figure))


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, with four digits."""
    shown = [column for column in COLUMNS if column not in ("model", "r_ln_low", "r_ln_high")]
    cells = [[_cell(row.get(column)) for column in shown] for row in rows]
    return text_table.markdown([shown, *cells], right=range(3, len(shown)))


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(config: Config) -> int:
    """Evaluate, and print the table."""
    rows = run(config)
    print(table(rows))
    print(f"see {config.out}/defense.csv and defense.svg")
    return 0


if __name__ == "__main__":
    cli.run(Config, main)
