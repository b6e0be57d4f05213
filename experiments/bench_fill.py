r"""Measure how full batches of black-box attacks are, plain and with slots, when images are done at different times.

python -m experiments.bench_fill --out=fill.json

An image, a crop of an embedded photograph, is done when its score has fallen by --fall, or at the end of its queries.
Plain batches go on until their last step; slots are taken over by the next image (`nriqa_jax.slots`). Fill is the share
of the scored candidates that were those of images that were not done. Results of both are the same. Takes a minute or
two on two CPU cores.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from experiments import cli, photographs, text_table, weights
from experiments.catalog import MODELS
from experiments.contenders import results
from nriqa_jax import parallel
from nriqa_jax.attacks import black_box
from nriqa_jax.attacks.objectives import lower_score
from nriqa_jax.attacks.query import Goal, QueryAttack
from nriqa_jax.slots import Owners, run_in_slots
from nriqa_jax.types import Keys

Row = dict[str, Any]
MakeAttack = Callable[[Owners], QueryAttack]
Crops = Float32[np.ndarray, "images side side 3"]

_PAIRS = 10  # of noisy images in a step of NES
EPSILON = 8 / 255
ATTACKS: Mapping[str, Callable[[int, Goal], QueryAttack]] = {
    "nes": lambda queries, goal: black_box.nes(
        lower_score(), epsilon=EPSILON, samples=_PAIRS, steps=max(1, queries // (2 * _PAIRS)), stop_at=goal
    ),
    "square": lambda queries, goal: black_box.square(lower_score(), epsilon=EPSILON, queries=queries, stop_at=goal),
}
_COLUMNS = (
    "attack",
    "images",
    "batch",
    "mean queries",
    "fill, plain",
    "fill, slots",
    "seconds, plain",
    "seconds, slots",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a measurement."""

    attacks: str = cli.flag("nes,square", f"Attacks, separated by commas: some of {', '.join(ATTACKS)}.")
    model: str = cli.flag("tinyiqa", "Quality model.", MODELS)
    weights: str = cli.flag("embedded", "A .safetensors or PyTorch file, random, or embedded.")
    images: int = cli.flag(128, "Number of images.")
    side: int = cli.flag(64, "Height and width of the images in pixels.")
    slots: int = cli.flag(16, "Images in a batch.")
    queries: int = cli.flag(200, "Most queries of an image.")
    fall: float = cli.flag(0.03, "Fall of a score at which its image is done, as a share of the score range.")
    out: str = cli.flag("", "JSON file to write; by default results are printed only.")


def run(config: Config) -> Iterator[Row]:
    """Yield one measurement per attack.

    Raises:
      cli.UserError: for a setting that makes no sense.
    """
    names, model = _names(config), MODELS[config.model]()
    variables, _, model = weights.load(config.weights, model, 0)
    if not model.preprocess.min_side <= config.side <= photographs.SIDE:
        raise cli.UserError(f"--side={config.side} is not in {model.preprocess.min_side}..{photographs.SIDE}")
    replicas = parallel.Replicas(model.score_fn(model.prepare(variables)))
    images, keys = crops(config.images, config.side), jax.random.split(jax.random.key(0), config.images)
    starts = range(0, config.images, config.slots)
    clean = [np.asarray(parallel.call(replicas.on(1), images[start : start + config.slots])) for start in starts]
    low, high = model.score_range
    goals = np.concatenate(clean) - np.float32(config.fall * (high - low))
    for name in names:
        make = partial(_stopping, name, config.queries, goals)
        yield {"attack": name, **_measured(make, replicas, images, keys, config.slots)}


def crops(count: int, side: int) -> Float32[np.ndarray, "count side side 3"]:
    """Parts of the embedded photographs, in turns, from random places."""
    pictures, rng = list(photographs.load().values()), np.random.default_rng(0)
    corners = rng.integers(0, photographs.SIDE - side + 1, (count, 2))
    cut = [pictures[i % len(pictures)][y : y + side, x : x + side] for i, (y, x) in enumerate(corners)]
    return np.stack(cut).astype(np.float32) / np.float32(255)


def _measured(make: MakeAttack, replicas: parallel.Replicas, images: Crops, keys: Keys, slots: int) -> Row:
    """Both ways, each for the second time, when nothing is left to compile."""
    for way in (_in_batches, run_in_slots):
        way(make, replicas, images, keys, slots)
    started = time.perf_counter()
    found = run_in_slots(make, replicas, images, keys, slots)
    between = time.perf_counter()
    rows = _in_batches(make, replicas, images, keys, slots)
    return {
        "images": len(images),
        "batch": slots,
        "queries": float(np.mean(found.result.queries)),
        "fill_plain": float(found.steps.sum() / (rows * make(np.arange(1)).steps)),
        "fill_slots": float(found.fill),
        "seconds_plain": time.perf_counter() - between,
        "seconds_slots": between - started,
    }


def _in_batches(make: MakeAttack, replicas: parallel.Replicas, images: Crops, keys: Keys, slots: int) -> int:
    """Attack batch after batch, the last one padded; returns the number of rows."""
    starts = range(0, len(images), slots)
    devices = parallel.even_share(slots, replicas.devices)
    for start in starts:
        owners = np.minimum(np.arange(start, start + slots), len(images) - 1)
        batch, own = replicas.rows(devices, (images[owners], keys[owners]))
        jax.block_until_ready(parallel.run_attack(make(owners), replicas.on(devices), batch, own, fused=False))
    return len(starts) * slots


def _stopping(name: str, queries: int, goals: Float32[np.ndarray, " images"], owners: Owners) -> QueryAttack:
    return ATTACKS[name](queries, jnp.asarray(goals[owners]))


def _names(config: Config) -> list[str]:
    for name in ("images", "slots", "queries"):
        if getattr(config, name) < 1:
            raise cli.UserError(f"--{name}={getattr(config, name)} must be at least 1")
    names = config.attacks.split(",")
    for name in names:
        if name not in ATTACKS:
            raise cli.UserError(f"--attacks: there is no '{name}'; give some of {', '.join(ATTACKS)}")
    return names


def table(rows: Sequence[Row]) -> str:
    """Measurements as a Markdown table."""
    cells = [
        (
            *(row["attack"], str(row["images"]), str(row["batch"]), f"{row['queries']:.0f}"),
            *(f"{row['fill_plain']:.1%}", f"{row['fill_slots']:.1%}"),
            *(f"{row['seconds_plain']:.1f}", f"{row['seconds_slots']:.1f}"),
        )
        for row in rows
    ]
    return text_table.markdown([_COLUMNS, *cells], right=range(1, len(_COLUMNS)))


def main(config: Config) -> int:
    """Print measurements as they come, then the table."""
    rows = []
    for row in run(config):
        rows.append(row)
        print(json.dumps(row), flush=True)
    results.save(config.out, {"settings": dataclasses.asdict(config), "machine": results.machine(), "rows": rows})
    print(table(rows))
    return 0


if __name__ == "__main__":
    cli.run(Config, main)
