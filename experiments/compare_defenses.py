r"""Compare training defenses: the same network trained in several ways, over several seeds, under the same attacks.

python -m experiments.compare_defenses --model=tinyiqa --data=embedded --crop=160 --out=out/defenses \
    --defenses=plain=none,nt=nt:nt_weight=1e-5,jvp=nt:nt_weight=1e-5:nt_method=jvp --attacks=fgsm,ifgsm:steps=10

A seed draws the split, the initial weights and the order of samples; all defenses of a seed share them. Writes
comparison.csv (medians over seeds with their lowest and highest), its figure, and below them the run folders of
``experiments.train_model`` and ``experiments.evaluate_defense``. Run again, it continues.
"""

import dataclasses
import json
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import cli, data_flags, evaluate_defense, ledger, plan_flags, subjective, train_model
from experiments.catalog import DEFENSES, MODELS, OBJECTIVES
from experiments.defense_table import COLUMNS
from experiments.training.plan import Plan

KEYS = ("label", "attack", "epsilon")
_KINDS = (int, float, str)  # of the settings that a defense may have of its own
NUMBERS = ("train_seconds", *(name for name in COLUMNS if name not in (*KEYS, "model")))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(data_flags.Data, plan_flags.PlanFlags, cli.Machine):
    """Settings of a comparison; those of a training hold for all defenses but where these have their own."""

    model: str = cli.flag(cli.REQUIRED, "Quality model.", MODELS)
    weights: str = cli.flag("random", "Initial weights: a .safetensors or PyTorch file, random, or embedded.")
    out: str = cli.flag(cli.REQUIRED, "Run folder; the same command run again continues an interrupted run.")
    defenses: str = cli.flag(cli.REQUIRED, "LABEL=DEFENSE separated by commas; settings after colons: nt_weight=1e-5.")
    seeds: str = cli.flag("0,1,2", "Seeds, separated by commas.")
    attacks: str = cli.flag("fgsm,ifgsm", "Attacks, separated by commas; settings after colons: ifgsm:steps=10.")
    epsilons: str = cli.flag("2/255,4/255", "Their radii, separated by commas.")
    objective: str = cli.flag("away", "What to do to each score; see attack_images --help.", OBJECTIVES)
    attacked_images: int = cli.flag(0, "Attack so many images of the test part, drawn by the seed; 0: all.")


class Entry(NamedTuple):
    """A way to train, and its settings."""

    label: str
    settings: Mapping[str, Any]


def run(config: Config) -> list[dict[str, Any]]:
    """Train, attack and compare, into ``config.out``; returns the rows of ``comparison.csv``."""
    entries = _entries(config)
    found = [_of_seed(config, entries, seed) for seed in _seeds(config)]
    rows = [_over_seeds([rows[index] for rows in found]) for index in range(len(found[0]))]
    _write(Path(config.out), rows)
    return rows


def _entries(config: Config) -> list[Entry]:
    """The defenses that a flag lists.

    Raises:
      UserError: when one is not LABEL=DEFENSE, or a setting is none of a plan.
    """
    entries = []
    for text in config.defenses.split(","):
        label, _, rest = text.strip().partition("=")
        defense, *given = rest.split(":")
        if not label or defense not in DEFENSES:
            raise cli.UserError(f"--defenses: '{text.strip()}' is not LABEL=DEFENSE, with one of {', '.join(DEFENSES)}")
        entries.append(Entry(label, {"defense": defense, **dict(map(_setting, given))}))
    if len({entry.label for entry in entries}) < len(entries):
        raise cli.UserError("--defenses: a label is there twice")
    return entries


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    kinds: dict[str, type] = {field: type(value) for field, value in vars(Plan()).items() if type(value) in _KINDS}
    try:
        return name, kinds[name](value)
    except (KeyError, ValueError):
        raise cli.UserError(f"--defenses: '{text}' is no setting of a training, such as nt_weight=1e-5") from None


def _seeds(config: Config) -> list[int]:
    try:
        return [int(text) for text in config.seeds.split(",")]
    except ValueError:
        raise cli.UserError(f"--seeds={config.seeds} must be whole numbers separated by commas") from None


def _of_seed(config: Config, entries: Sequence[Entry], seed: int) -> list[dict[str, Any]]:
    """The rows of a seed, with what each training took."""
    out = Path(config.out)
    folders = {entry.label: out / "trained" / f"{entry.label}_{seed}" for entry in entries}
    seconds = {entry.label: _train(config, entry, seed, folders[entry.label]) for entry in entries}
    listed = _attacked_images(config, folders[entries[0].label], out / f"attacked_{seed}.csv", seed)
    models = (f"{label}={config.model}:{folder / 'weights.safetensors'}" for label, folder in folders.items())
    shared: dict[str, Any] = {name: getattr(config, name) for name in ("attacks", "epsilons", "objective")}
    evaluation = evaluate_defense.Config(
        **(shared | cli.machine_of(config)),
        models=",".join(models),
        images=str(data_flags.load(config).root),
        mos=str(listed),
        out=str(out / "evaluated" / str(seed)),
        seed=seed,
    )
    return [row | {"train_seconds": seconds[row["label"]]} for row in evaluate_defense.run(evaluation)]


def _train(config: Config, entry: Entry, seed: int, folder: Path) -> float | None:
    """Train; returns the seconds that it took, compilation included, unless it was interrupted."""
    shared = {field.name for field in dataclasses.fields(train_model.Config)} & {*vars(config)}
    settings = {name: getattr(config, name) for name in shared} | {**entry.settings, "seed": seed, "out": str(folder)}
    account, fresh, start = folder.with_suffix(".json"), not folder.exists(), time.monotonic()
    train_model.run(train_model.Config(**settings))
    if fresh:
        ledger.write_json(account, {"seconds": time.monotonic() - start})
    return json.loads(account.read_text())["seconds"] if account.exists() else None


def _attacked_images(config: Config, trained: Path, path: Path, seed: int) -> Path:
    """Write the images of the test part that are attacked, and their scores, as a table."""
    table = subjective.read_table(trained / "test_scores.csv")
    labels = dict(zip(table.images, table.scores))
    count = min(config.attacked_images or len(labels), len(labels))
    drawn = random.Random(seed).sample(sorted(labels), count)
    ledger.write_rows(path, ("image", "mos"), [(name, labels[name]) for name in sorted(drawn)])
    return path


def _over_seeds(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians of the same row of every seed, and the lowest and highest."""
    summary: dict[str, Any] = {name: rows[0].get(name) for name in KEYS}
    for name in NUMBERS:
        values = [float(row[name]) for row in rows if row.get(name) is not None]
        for suffix, reduce in (("", np.median), ("_min", np.min), ("_max", np.max)):
            summary[name + suffix] = float(reduce(values)) if values else None
    return summary


def _write(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    from experiments.pages import defense, style  # matplotlib imports much

    columns = (*KEYS, *(name + suffix for name in NUMBERS for suffix in ("", "_min", "_max")))
    ledger.write_rows(out / "comparison.csv", columns, ([row.get(column) for column in columns] for row in rows))
    figure = defense.defense_figure(rows)
    ledger.write_atomic(out / "comparison.svg", style.to_svg(figure))
    ledger.write_atomic(out / "comparison.png", style.to_png(figure))


def main(config: Config) -> int:
    """Compare, and print the medians."""
    rows = run(config)
    print(evaluate_defense.table(rows))
    print(f"medians over seeds {config.seeds}; see {config.out}/comparison.csv and comparison.svg")
    return 0


if __name__ == "__main__":
    cli.run(Config, main)
