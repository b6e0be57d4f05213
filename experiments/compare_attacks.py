r"""Compare attacks on one model: how far each moves scores at the same visible change, and what it costs.

python -m experiments.compare_attacks --model=cnniqa --weights=cnniqa.pth --images=PHOTOGRAPHS --out=out/attacks

Attacks in a ball, and facpa, run at --epsilon; the strength of the others is matched to it for each image. Every
attack runs in both directions of the score. Passes are those of one run; matching takes several, and queries count
the forward passes of all. Writes attacks.csv and a run folder for each attack. Run again, it continues.
"""

import collections
import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import attack_flags, attack_images, cli, settings, text_table
from experiments.ledger import Table, write_atomic
from experiments.pipeline import TIMING_COLUMNS
from nriqa_jax.attacks.composite import run_any
from nriqa_jax.attacks.objectives import raise_score
from nriqa_jax.metrics.niqe import BLOCK
from nriqa_jax.types import Images, Scores

STATISTICS = ("change_mean", "r_ln", "r_log10", "linf_255", "psnr", "ssim")
COLUMNS = (
    *("attack", "objective", "images", *STATISTICS),
    *("seconds_per_image", "queries", "forward_passes", "backward_passes"),
)
_OBJECTIVES = ("raise_score", "lower_score")
_SIDE = BLOCK  # of the image on which passes are counted: NIQE needs so much


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.Common):
    """Settings of a comparison."""

    attacks: str = cli.flag(cli.REQUIRED, "Attacks, separated by commas; settings of one after colons: ssah:steps=20.")
    epsilon: str = cli.flag("4/255", "Largest change of a pixel value.")
    pattern: str = cli.flag("", "File for universal, with {objective} where raise_score or lower_score is to stand.")
    network: str = cli.flag("", "File for facpa, with {objective} in the same way.")
    natural: str = cli.flag("", "Model of natural images, or good photographs, for amifgsm_niqe.")


def run(config: Config) -> list[dict[str, Any]]:
    """Run every attack in both directions, into ``config.out``; returns the rows of ``attacks.csv``."""
    rows = []
    for entry in config.attacks.split(","):
        attack, given = attack_flags.read_entry(entry, "attacks")
        for objective in _OBJECTIVES:
            rows.append(_measure(config, attack, objective, given))
            _write(Path(config.out) / "attacks.csv", rows)
    return rows


def _measure(config: Config, attack: str, objective: str, given: dict[str, int]) -> dict[str, Any]:
    """A run of one attack in one direction, and its costs."""
    out = Path(config.out) / f"{attack}_{objective}"
    common = {field.name: getattr(config, field.name) for field in dataclasses.fields(settings.Common)} | {
        "out": str(out)
    }
    budget = _budget(attack, config.epsilon)
    files = {name: getattr(config, name).replace("{objective}", objective) for name in attack_flags.needed(attack)}
    chosen: dict[str, Any] = {**common, **given, **files, "attack": attack, "objective": objective}
    table = attack_images.run(attack_images.Config(**chosen, **budget))
    statistics = json.loads((out / "summary.json").read_text())["statistics"]
    forward, backward = passes(attack_flags.preset(attack_images.Config(**chosen))(raise_score()))
    return {
        "attack": attack,
        "objective": objective,
        "images": len(table.numbers("score_clean")),
        **{name: statistics[name]["value"] for name in STATISTICS},
        "seconds_per_image": _seconds(out / "timings.csv"),
        "queries": float(np.mean(table.numbers("queries"))),
        "forward_passes": forward,
        "backward_passes": backward,
    }


def _budget(attack: str, epsilon: str) -> dict[str, Any]:
    """The flag under which the largest change of a pixel value is a radius."""
    if attack_flags.strength_is_radius(attack):
        return {"epsilon": epsilon}
    strength = attack_flags.strength_for(attack, epsilon)
    return {"match_linf": epsilon} if strength is None else {"strength": strength}


def _seconds(timings: Path) -> float:
    """Median over images of their share of the time of their batch; the first batch also compiles."""
    table = Table(timings, TIMING_COLUMNS)
    return float(np.median(table.numbers("batch_seconds") / table.numbers("batch_images")))


def passes(attack: Any) -> tuple[int, int]:
    """Forward and backward passes that an attack spends on an image, counted while it attacks one."""
    counts = collections.Counter[str]()

    @jax.custom_vjp
    def score(images: Images) -> Scores:
        return forward(images)[0]

    def forward(images: Images) -> tuple[Scores, Images]:
        # An argument that is mapped makes mapped calls count one by one.
        jax.debug.callback(lambda _: counts.update(forward=len(images)), images[0, 0, 0, 0])
        return 100.0 * jnp.mean(images**2, axis=(1, 2, 3)), images

    def backward(images: Images, weights: Scores) -> tuple[Images]:
        jax.debug.callback(lambda _: counts.update(backward=len(images)), images[0, 0, 0, 0])
        return (weights[:, None, None, None] * images,)

    score.defvjp(forward, backward)
    image = jax.random.uniform(jax.random.key(0), (1, _SIDE, _SIDE, 3))
    jax.block_until_ready(run_any(attack, score, image, jax.random.split(jax.random.key(1), 1)))
    jax.effects_barrier()
    return counts["forward"], counts["backward"]


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())


def table(path: Path) -> str:
    """The table of an ``attacks.csv`` in Markdown."""
    with path.open(newline="") as file:
        head, *rows = csv.reader(file)
    numbers = range(2, len(head))
    short = [[*row[:3], *(f"{float(cell):.4g}" for cell in row[3:])] for row in rows]
    return text_table.markdown([head, *short], right=numbers)


def main(config: Config) -> int:
    """Compare, and print the table."""
    run(config)
    print(table(Path(config.out) / "attacks.csv"))
    return 0


if __name__ == "__main__":
    cli.run(Config, main)
