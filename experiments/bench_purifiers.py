"""Hold the speed of purifiers against PyTorch and OpenCV, which take one image at a time, on the CPU.

python -m experiments.bench_purifiers --out=purifiers.json
python -m experiments.bench_purifiers --purifiers=median_blur,diffjpeg --batch=8 --repeats=3

Deterministic purifiers at their default strengths, on a batch in memory that is given back as a
batch; ours are spread over all cores, as scripts do it. Contenders take turns in one process. The first call of each,
in which JAX compiles or loads what was compiled before, is not counted. The largest difference between ours and theirs
is given; OpenCV has other borders for medians, and rounds non-local means to 8 bits. Wants idle cores.
"""

import dataclasses
import importlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import metadata
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from experiments import cli, photographs, text_table
from experiments.bench_fill import crops
from experiments.catalog import PURIFIERS
from experiments.contenders import meter, opencv_purifiers, results
from experiments.contenders.worker import describe
from experiments.contenders.workloads import OURS
from nriqa_jax.parallel import Replicas, call, even_share

TORCH, OPENCV, TORCH_MODULE = "torch", "opencv", "experiments.contenders.torch_purifiers"
TARGET = 2.0

Batch = Float32[np.ndarray, "n _ _ 3"]
Runner = Callable[[], Any]

# Without a reference, or random, or the reference itself.
_OTHERS = ("none", "fcn", "bit_depth", "jpeg", "jpeg_codec", "random_rotate", "random_crop", "random_noise")
_NAMES = [name for name in PURIFIERS if name not in _OTHERS]
_COLUMNS = ("purifier", "contender", "milliseconds", "spread", "images/s", "ours is faster by", "largest difference")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a measurement."""

    purifiers: str = cli.flag("all", f"Purifiers, separated by commas: all, or some of {', '.join(_NAMES)}.")
    batch: int = cli.flag(32, "Images in the batch.")
    side: int = cli.flag(photographs.SIDE, "Height and width of the images in pixels.")
    repeats: int = cli.flag(7, "Measured runs of each contender.")
    out: str = cli.flag("", "JSON file to write; by default results are printed only.")
    table: str = cli.flag("", "Only print the table of this JSON file, which an earlier --out wrote.")


def run(config: Config, report: results.Report | None = None) -> Iterator[results.Row]:
    """Yield one measurement per purifier and contender.

    Args:
      config: settings.
      report: filled with what `main` writes: machine, settings, rows, skipped.

    Raises:
      cli.UserError: for a setting that makes no sense.
    """
    report = {} if report is None else report
    names, about = _names(config), results.machine()
    report |= {"machine": about, "settings": dataclasses.asdict(config), "rows": [], "skipped": []}
    about["versions"] |= {name: metadata.version(name) for name in ("nriqa_jax", "jax", "jaxlib")}
    about["devices"]["jax"] = f"{jax.default_backend()} x{jax.local_device_count()}"
    images = crops(config.batch, config.side)
    contenders: dict[str, Callable[[str], Runner | None]] = {OURS: partial(_ours, images)}
    for name, load in ((TORCH, _torch), (OPENCV, _opencv)):
        try:
            (about["versions"][name], about["devices"][name]), contenders[name] = load(images)
        except ModuleNotFoundError as error:
            report["skipped"].append({"name": name, "reason": describe(error)})
    for name in names:
        runners = {who: runner for who, make in contenders.items() if (runner := make(name)) is not None}
        rows = _measured(name, runners, config)
        report["rows"] += rows
        yield from rows


def _names(config: Config) -> list[str]:
    names = _NAMES if config.purifiers == "all" else config.purifiers.split(",")
    if unknown := [name for name in names if name not in _NAMES]:
        raise cli.UserError(f"--purifiers: there is no '{unknown[0]}'; give all, or some of {', '.join(_NAMES)}")
    for flag in ("batch", "repeats"):
        if getattr(config, flag) < 1:
            raise cli.UserError(f"--{flag}={getattr(config, flag)} must be at least 1")
    if not 32 <= config.side <= photographs.SIDE:
        raise cli.UserError(f"--side={config.side} is not in 32..{photographs.SIDE}")
    return names


def _ours(images: Batch, name: str) -> Runner:
    replicas = Replicas(PURIFIERS[name]())
    count = even_share(len(images), replicas.devices)
    rows, keys = replicas.rows(count, (images, jax.random.split(jax.random.key(0), len(images))))
    return lambda: jax.block_until_ready(call(_purify, replicas.on(count), rows, keys))


def _purify(purifier: Callable[..., jax.Array], images: jax.Array, keys: jax.Array) -> jax.Array:
    return purifier(images, keys)


def _torch(images: Batch) -> tuple[tuple[str, str], Callable[[str], Runner | None]]:
    module = importlib.import_module(TORCH_MODULE)
    tensors = module.torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))

    def make(name: str) -> Runner | None:
        purify = module.PURIFIERS.get(name)
        return None if purify is None else lambda: module.one_by_one(purify, tensors)

    return module.facts(), make


def _opencv(images: Batch) -> tuple[tuple[str, str], Callable[[str], Runner | None]]:
    facts, purifiers = opencv_purifiers.load()

    def make(name: str) -> Runner | None:
        purify = purifiers.get(name)
        return None if purify is None else partial(opencv_purifiers.one_by_one, purify, images)

    return facts, make


def _measured(name: str, runners: Mapping[str, Runner], config: Config) -> list[results.Row]:
    """A row per contender: a first call, then rounds in which each of them runs once."""
    outcomes = {who: _as_images(runner()) for who, runner in runners.items()}
    others = meter.OtherPrograms(())
    rounds = [[_seconds(runner) for runner in runners.values()] for _ in range(config.repeats)]
    share, ours, rows = others.share(), float(np.median([runs[0] for runs in rounds])), []
    for who, runs in zip(runners, zip(*rounds)):
        low, median, high = np.percentile(runs, (25, 50, 75)).tolist()
        row = {"purifier": name, "contender": who, "batch": config.batch, "side": config.side, "seconds": median}
        row |= {"spread": (high - low) / median, "images_per_second": config.batch / median, "runs": list(runs)}
        row |= {"others_share": share, "ratio": None, "difference": None}
        if who != OURS:
            difference = float(np.max(np.abs(outcomes[who] - outcomes[OURS])))
            row |= {"ratio": median / ours, "difference": difference}
        rows.append(row)
    return rows


def _as_images(found: Any) -> Batch:
    """An outcome as an array in this library's order of axes."""
    array = np.asarray(found)
    return array.transpose(0, 2, 3, 1) if array.shape[1] == 3 else array


def _seconds(runner: Runner) -> float:
    time.sleep(0.05)  # thread pools spin for a moment after their last task
    started = time.perf_counter()
    runner()
    return time.perf_counter() - started


def table(report: results.Report) -> str:
    """The machine, a Markdown table, and what was skipped or is not fast enough."""
    about, rows = report["machine"], report["rows"]
    where = (f"{name} {about['versions'][name]} on {device}" for name, device in about["devices"].items())
    size = f"{report['settings']['batch']} images of {report['settings']['side']}x{report['settings']['side']} pixels"
    method = f"medians of {report['settings']['repeats']} interleaved runs; spread is their interquartile range"
    cells = [
        (
            *(row["purifier"], row["contender"], f"{1000 * row['seconds']:.1f}", f"{row['spread']:.0%}"),
            *(f"{row['images_per_second']:.0f}", "" if row["ratio"] is None else f"{row['ratio']:.2f}"),
            "" if row["difference"] is None else f"{row['difference']:.0e}",
        )
        for row in rows
    ]
    notes = [f"- {entry['name']} was skipped: {entry['reason']}" for entry in report["skipped"]]
    notes += [
        f"- {row['purifier']}: not {TARGET:g} times as fast as {row['contender']}"
        for row in rows
        if row["ratio"] is not None and row["ratio"] < TARGET
    ]
    lines = [f"{about['cpu']}, {about['cores']} cores; {'; '.join(where)}; {size}; {method}.", ""]
    return "\n".join([*lines, text_table.markdown([_COLUMNS, *cells], right=range(2, len(_COLUMNS))), "", *notes])


def main(config: Config) -> int:
    """Print measurements as they come, then the table."""
    report: results.Report = {}
    if config.table:
        print(results.table_of(config.table, table))
        return 0
    for row in run(config, report):
        print(json.dumps(row), flush=True)
    results.save(config.out, report)
    print(table(report))
    return 0


if __name__ == "__main__":
    cli.run(Config, main)
