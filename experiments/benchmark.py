r"""Benchmark purification defenses: models x attacks x purifiers, with attacks that know of the purifier and without.

python -m experiments.benchmark --models=tinyiqa:embedded,cnniqa:CNNIQA.pth --images=PHOTOGRAPHS --out=out/benchmark \
    --attacks=ifgsm:epsilon=4/255,korhonen --purifiers=flip,jpeg:preset=2,random_crop:size=128

Attacks take the flags of attack_images as settings, purifiers their own or preset=0 to preset=4. Prints the plan first
(--plan_only: nothing else). Every set of images is computed once. Writes cells.csv (a row of scores for each model,
attack, purifier and kind of attack), cells/*/*/*/*.csv (the same image by image), times.csv, figures, report.html, and
with --format=msu tables for the scripts of the MSU defense benchmark. Killed and run again, it goes on, and ends with
the same tables.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import cli, ledger, listed, pipeline, processes, subjective
from experiments.attack_images import attack_maker
from experiments.catalog import ATTACKS, OBJECTIVES, PURIFIERS
from experiments.matrix import cells, export, manifest, plan, spelled, strips
from experiments.matrix.plan import Matrix, Source
from experiments.matrix.sets import Machine, Sets, Subject, is_random
from experiments.settings import describe

FORMATS = ("own", "msu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(cli.Machine):
    """Settings of a benchmark."""

    models: str = cli.flag(cli.REQUIRED, "Models as NAME:WEIGHTS[:protocol=PROTOCOL], separated by commas.")
    attacks: str = cli.flag(cli.REQUIRED, "Attacks as NAME:SETTING=VALUE:..., separated by commas.")
    purifiers: str = cli.flag(cli.REQUIRED, "Purifiers as NAME:SETTING=VALUE:..., separated by commas.")
    adaptive: str = cli.flag("all", "Attacks that also run through each purifier: all, none, or some of --attacks.")
    images: str = cli.flag(cli.REQUIRED, "Folder of images (with its sub-folders).")
    mos: str = cli.flag("", "CSV file of subjective scores of the images.")
    out: str = cli.flag(cli.REQUIRED, "Run folder; the same command run again continues an interrupted run.")
    objective: str = cli.flag("raise_quality", "What attacks do to scores.", [o for o in OBJECTIVES if o != "target"])
    attack_set: str = cli.flag("", "Folder of build_attack_set with what --attacks make; by default they are computed.")
    draws: int = cli.flag(8, "Draws of a random purifier at each step of an attack that knows of it.")
    format: str = cli.flag("own", "msu also exports tables in the format of the MSU defense benchmark.", FORMATS)
    plan_only: bool = cli.flag(False, "Print the plan, and compute nothing.")
    batch_size: int = cli.flag(0, "Largest number of images computed together on a device; 0 is as memory allows.")
    seed: int = cli.flag(0, "Seed of random weights, starts and noise.")


def run(config: Config) -> list[dict[str, Any]]:
    """Run a benchmark in ``config.out``; returns the rows of ``cells.csv``, none where there is only a plan."""
    matrix, sets, details = _prepare(config)
    mos = _mos(config, sets.images.names)
    print(plan.describe(matrix, _work(matrix, sets), len(sets.images.sizes)), flush=True)
    if config.plan_only:
        return []
    ledger.open_run(sets.out, pipeline.run_config("benchmark", config, sets.images, details))
    sets.compute(matrix)
    return _write(config, matrix, sets, mos) if processes.is_first() else []


def _prepare(config: Config) -> tuple[Matrix, Sets, dict[str, Any]]:
    if config.draws < 1 or config.batch_size < 0:
        raise cli.UserError("--draws must be at least 1, and --batch_size at least 0")
    attacks = spelled.read("attacks", config.attacks, ATTACKS)
    purifiers = spelled.read("purifiers", config.purifiers, PURIFIERS)
    adaptive = _adaptive(config, attacks)
    made = {one: spelled.purifier(one) for one in purifiers}
    configs = {one: spelled.attack(one, config.objective) for one in attacks}
    models = listed.load_models(config.models, config.seed)
    subjects = {name: Subject(found.model, found.score_fn) for name, found in models.items()}
    out = Path(config.out)
    smallest = max(found.model.preprocess.min_side for found in models.values())
    images = pipeline.survey(Path(config.images), out, smallest)
    machine = Machine(cli.devices(config), config.batch_size, config.seed, config.draws, config.format == "msu")
    given = Path(config.attack_set) if config.attack_set else None
    sets = Sets(out, images, subjects, configs, made, machine, given)
    _check(sets)
    details = {
        "models": {name: {**describe(found.model), "sha256": found.sha256} for name, found in models.items()},
        **ledger.provenance("highest"),
    }
    matrix = Matrix(tuple(models), tuple(attacks), tuple(purifiers), adaptive)
    if given:
        parts = {Source(name, attack): details["models"][name] for name in models for attack in attacks}
        details["attack_set_sha256"] = manifest.require(given, parts, images, {"objective": config.objective})
    return matrix, sets, details


def _adaptive(config: Config, attacks: list[spelled.Spelled]) -> tuple[spelled.Spelled, ...]:
    if config.adaptive in ("all", "none"):
        return tuple(attacks) if config.adaptive == "all" else ()
    by_text = {one.text: one for one in attacks}
    wanted = listed.parts(config.adaptive)
    listed.known("adaptive", wanted, by_text)
    return tuple(by_text[text] for text in wanted)


def _check(sets: Sets) -> None:
    """Refuse purifiers and attacks that would fail after hours.

    Raises:
      UserError: when an attack cannot be made, or a purifier leaves too little of an image for a model.
    """
    for attack in sets.attacks.values():
        attack_maker(attack, next(iter(sets.subjects.values())).model)
    for one, purifier in sets.purifiers.items():
        for height, width in sorted(set(sets.images.sizes.values())):
            image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
            try:
                left = jax.eval_shape(purifier, image, jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1)))
            except ValueError as error:
                raise cli.UserError(f"--purifiers: {one.text}: {error}") from error
            for name, subject in sets.subjects.items():
                if min(left.shape[1:3]) < subject.model.preprocess.min_side:
                    sizes = f"{left.shape[2]}x{left.shape[1]} pixels of images of {width}x{height}"
                    raise cli.UserError(f"--purifiers: {one.text} leaves {sizes}, too few for {name}")


def _work(matrix: Matrix, sets: Sets) -> list[plan.Work]:
    model = next(iter(sets.subjects.values())).model
    makers: list[Any] = [attack_maker(sets.attacks[one], model) for one in matrix.attacks]
    made = [make(None, jnp.zeros(1)) for make in makers]
    draws = [sets.machine.draws if is_random(purifier) else 1 for purifier in sets.purifiers.values()]
    return plan.work(matrix, [plan.steps_of(attack) for attack in made], draws, sets.given is not None)


def _mos(config: Config, images: list[str]) -> dict[str, float] | None:
    if not config.mos:
        return None
    path = Path(config.mos)
    return dict(zip(images, subjective.match(subjective.read_scores(path), images, path)))


def _write(config: Config, matrix: Matrix, sets: Sets, mos: dict[str, float] | None) -> list[dict[str, Any]]:
    """Write the tables of all cells, pictures, figures and the page."""
    rows, gains = [], {}
    for cell in matrix.cells():
        found = cells.table(sets, cell, matrix, mos)
        lines = zip(found.images, *(found.columns[column] for column in cells.PER_IMAGE[1:]))
        ledger.write_rows(sets.out / "cells" / f"{cell.folder}.csv", cells.PER_IMAGE, lines)
        if config.format == "msu":
            export.write_msu(sets.out / "msu" / f"{cell.folder}.csv", found)
        rows.append(cells.row(sets, cell, found))
        gains[cell] = rows[-1]["both_defended_abs_gain"]
    columns = cells.columns_of(cells.scores_of(0.0, 1.0))
    ledger.write_rows(sets.out / "cells.csv", columns, ([row[column] for column in columns] for row in rows))
    times = ((one.text, float(np.median(sets.times(one).numbers("purify_seconds")))) for one in matrix.purifiers)
    ledger.write_rows(sets.out / "times.csv", ("purifier", "mean_time"), times)
    strips.write_strips(sets, matrix, gains)
    _draw(sets.out)
    return rows


def _draw(out: Path) -> None:
    """Write figures and the page, from the tables."""
    from experiments import report  # matplotlib imports much
    from experiments.pages import matrix_figures

    matrix_figures.write_figures(out)
    report.write_report(out)


def main(config: Config) -> int:
    """Run a benchmark, and say what it found."""
    rows = run(config)
    if rows:
        print(f"{len(rows)} cells; see {config.out}/report.html and cells.csv")
    return 0


if __name__ == "__main__":
    cli.run(Config, main)
