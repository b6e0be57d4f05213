r"""How attacks on one model move others: every model attacks, every model scores.

python -m experiments.transfer_matrix --models=tinyiqa,cnniqa --weights=embedded,cnniqa.pth --images=PHOTOGRAPHS \
    --out=out/transfer --attack=mifgsm --objective=lower_quality --epsilon=4/255

Writes transfer.csv (one row per pair of models), its figure as transfer.svg and transfer.png, and below it the run
folders of the attacks and of the scores. Changes are in shares of the scoring model's range, positive towards better
quality. Run again, it continues.
"""

import csv
import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np

from experiments import attack_images, cli, ledger, score_images
from experiments.catalog import ATTACKS, MODELS
from nriqa_jax.metrics.correlation import srocc

COLUMNS = ("attacked", "scored", "images", "change", "srocc")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(cli.Machine):
    """Settings of a transfer matrix."""

    models: str = cli.flag(cli.REQUIRED, "Models, separated by commas.")
    weights: str = cli.flag(cli.REQUIRED, "Weights of each model, as for score_images, separated by commas.")
    images: str = cli.flag(cli.REQUIRED, "Folder of images (with its sub-folders).")
    out: str = cli.flag(cli.REQUIRED, "Run folder; the same command run again continues an interrupted run.")
    attack: str = cli.flag("mifgsm", "Attack; see attack_images --help.", ATTACKS)
    objective: str = cli.flag("lower_quality", "What to do to each score.", ("lower_quality", "raise_quality"))
    epsilon: str = cli.flag("", "Radius of the perturbation; by default the attack's own.")
    steps: int | None = cli.flag(None, "Number of steps; by default the attack's own.")
    batch_size: int = cli.flag(0, "Largest number of images computed together on a device; 0 is as memory allows.")
    seed: int = cli.flag(0, "Seed of random weights, starts and noise.")


def run(config: Config) -> list[dict[str, Any]]:
    """Attack by every model and score by every model, into ``config.out``; returns the rows of ``transfer.csv``."""
    models = _models(config)
    out = Path(config.out)
    shared = {"batch_size": config.batch_size, "seed": config.seed, **cli.machine_of(config)}
    chosen = {name: getattr(config, name) for name in ("attack", "objective", "epsilon", "steps")}
    clean = {
        name: score_images.run(
            score_images.Config(model=name, weights=file, images=config.images, out=str(out / "clean" / name), **shared)
        )
        for name, file in models.items()
    }
    rows = []
    for attacked, file in models.items():
        folder = out / "attacks" / attacked
        own: dict[str, Any] = {"model": attacked, "weights": file, "images": config.images, "out": str(folder)}
        attack_images.run(attack_images.Config(**own, **chosen, **shared))
        for scored, scored_file in models.items():
            target = out / "scores" / f"{scored}_of_{attacked}"
            source: dict[str, Any] = {"images": str(folder / "adversarial"), "out": str(target)}
            found = score_images.run(score_images.Config(model=scored, weights=scored_file, **source, **shared))
            rows.append({"attacked": attacked, "scored": scored, **_compare(scored, clean[scored], found)})
    write_rows(out / "transfer.csv", rows)
    draw(out, list(models), rows)
    return rows


def _models(config: Config) -> dict[str, str]:
    names, files = ([part.strip() for part in text.split(",")] for text in (config.models, config.weights))
    if len(names) != len(files):
        raise cli.UserError(f"--models names {len(names)} models, and --weights {len(files)} weights")
    for name in names:
        if name not in MODELS:
            raise cli.UserError(f"--models: there is no '{name}'; give some of {', '.join(MODELS)}")
    return dict(zip(names, files))


def _compare(scored: str, clean: ledger.Table, found: ledger.Table) -> dict[str, Any]:
    """Mean change towards better quality, in score ranges, and SROCC, over the images that both tables have."""
    files = ledger.adversarial_names(list(clean.rows))
    pairs = [(row, found.rows[files[name]]) for name, row in clean.rows.items() if files[name] in found.rows]
    pairs = [pair for pair in pairs if all(row["status"] == "ok" for row in pair)]
    old, new = (np.array([float(pair[side]["score"]) for pair in pairs]) for side in (0, 1))
    model = MODELS[scored]()
    low, high = model.score_range
    better = 1.0 if model.higher_is_better else -1.0
    change = float(better * np.mean(new - old) / (high - low)) if pairs else float("nan")
    return {"images": len(pairs), "change": change, "srocc": float(srocc(old, new)) if len(pairs) > 1 else float("nan")}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the table."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    ledger.write_atomic(path, text.getvalue().encode())


def draw(folder: Path, models: list[str], rows: list[dict[str, Any]]) -> None:
    """Write ``transfer.svg`` and ``transfer.png``: heat maps of the mean change and of the SROCC."""
    from experiments.pages import style, transfer  # matplotlib imports much

    figure = transfer.transfer_figure(models, rows)
    ledger.write_atomic(folder / "transfer.svg", style.to_svg(figure))
    ledger.write_atomic(folder / "transfer.png", style.to_png(figure))


def main(config: Config) -> int:
    """Compute the matrix, and print it."""
    rows = run(config)
    for row in rows:
        print(
            f"{row['attacked']} -> {row['scored']}: change {row['change']:+.4f} of the range, SROCC {row['srocc']:.4f}"
        )
    print(f"see {config.out}/transfer.csv and transfer.svg")
    return 0


if __name__ == "__main__":
    cli.run(Config, main)
