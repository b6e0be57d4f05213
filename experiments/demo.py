r"""The main job on embedded photographs: distort, score, attack, report. Needs no download.

python -m experiments.demo --out=out/demo

Seven photographs and their 140 distorted copies are scored by TinyIQA and attacked with I-FGSM at 4/255. Ends with
out/demo/report.html. About two minutes on two CPU cores; run again, it reuses what is there.
"""

import csv
import dataclasses
from pathlib import Path

import numpy as np

from experiments import attack_images, cli, photographs, records, report
from experiments.distortions import labelled_set
from nriqa_jax.metrics.correlation import srocc
from weights_convert.store import write_atomic

_GALLERY = 24  # pictures in the page, which then has about 10 MB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the demonstration."""

    out: str = cli.flag("out/demo", "Folder to write.")
    epsilon: str = cli.flag("4/255", "Radius of the attack.")
    steps: int = cli.flag(10, "Gradient steps.")
    photographs: int = cli.flag(7, "How many of the seven photographs to take; fewer are quicker.")


def run(config: Config) -> dict[str, float | int]:
    """Make the images, attack them, write the report; returns the headline numbers."""
    out = Path(config.out)
    labels = write_images(out / "images", config.photographs)
    attack = attack_images.Config(
        model="tinyiqa",
        weights="embedded",
        images=str(out / "images"),
        out=str(out),
        epsilon=config.epsilon,
        steps=config.steps,
    )
    table = attack_images.run(attack)
    page = out / "report.html"
    if not page.exists() or page.stat().st_mtime < (out / "summary.json").stat().st_mtime:
        report.write_report(out, max_gallery=_GALLERY)
    clean, adversarial = table.numbers("score_clean"), table.numbers("score_adversarial")
    truth = [labels[name] for name in sorted(table.rows)]
    return {
        "images": len(clean),
        "srocc_labels_clean": srocc(clean, truth),
        "srocc_labels_adversarial": srocc(adversarial, truth),
        "mean_absolute_change": float(np.mean(np.abs(adversarial - clean))),
    }


def write_images(folder: Path, count: int) -> dict[str, float]:
    """Photographs and their distorted copies as PNG files, with their labels in ``labels.csv`` beside them.

    Raises:
      cli.UserError: when there are not so many photographs, or the folder is of another number.
    """
    path, known = folder.with_name("labels.csv"), photographs.load()
    if not 1 <= count <= len(known):
        raise cli.UserError(f"--photographs={count} must be from 1 to {len(known)}")
    if not path.exists():
        copies = labelled_set(dict(list(known.items())[:count]))
        for name, (pixels, _) in copies.items():
            records.save_png(folder / f"{name}.png", pixels)
        lines = ["image,label", *(f"{name}.png,{label:.4f}" for name, (_, label) in sorted(copies.items()))]
        write_atomic(path, ("\n".join(lines) + "\n").encode())
    with path.open(newline="") as file:
        labels = {row["image"]: float(row["label"]) for row in csv.DictReader(file)}
    if len({name.partition("_")[0] for name in labels}) != count:
        raise cli.UserError(f"--photographs={count}: {folder} holds another number of them; give another --out")
    return labels


def main(config: Config) -> int:
    """Run, and say what came out."""
    numbers = run(config)
    print(
        f"{numbers['images']} images; SROCC between scores and labels {numbers['srocc_labels_clean']:.3f} clean, "
        f"{numbers['srocc_labels_adversarial']:.3f} attacked at epsilon {config.epsilon}; mean absolute change of "
        f"scores {numbers['mean_absolute_change']:.1f}; see {config.out}/report.html"
    )
    return 0


if __name__ == "__main__":
    cli.run(Config, main)
