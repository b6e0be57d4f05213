"""A set of images behind a purifier: scores, and how much is left of the clean images."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8, UInt32

from experiments import ledger, loading, pipeline, records
from experiments.batch_sizes import BatchSizes
from nriqa_jax.image import from_uint8
from nriqa_jax.metrics import fidelity
from nriqa_jax.parallel import Replicas, call, score
from nriqa_jax.resize import resize_torch
from nriqa_jax.types import Images, Keys, Purified, Purifier, ScoreFn

TIME_COLUMNS = ("image", "purify_seconds")

# What the MSU defense benchmark exports of these pairs; the mean squared error, too, which follows from the PSNR.
MEASURES = ("ssim", "psnr", "l_inf", "mae")
PAIRS = ("clear_defended", "clear_attacked", "attacked_defended", "defended_defended")

_HEAD = ("image", "status", "error", "height", "width")
_SIMILARITIES = {  # with the shortest side that they take
    "psnr": (fidelity.psnr, 1),
    "ssim": (fidelity.ssim, fidelity.SSIM_WINDOW),
    "ssim_uniform": (fidelity.ssim_uniform, fidelity.UNIFORM_WINDOW),
    "ms_ssim": (fidelity.ms_ssim, fidelity.MS_SSIM_SIDE),
}
SIMILARITIES = tuple(_SIMILARITIES)  # of what is purified to the clean image


class Behind(NamedTuple):
    """A purifier, and models behind it.

    Attributes:
      purifier: the purifier.
      score_fns: the models, by name.
    """

    purifier: Purifier
    score_fns: Mapping[str, ScoreFn]


class Job(NamedTuple):
    """A set of images that is purified.

    Attributes:
      images: the clean images.
      files: what is purified instead of each; by default the image itself.
      seed: of the run.
      pairs: whether to measure `PAIRS`, too, which takes another purification of the clean images.
    """

    images: loading.ImageSet
    files: Mapping[str, Path] | None
    seed: int
    pairs: bool = False


def columns(models: Sequence[str], pairs: bool) -> tuple[str, ...]:
    """Columns of the table of a set."""
    measured = [f"{measure}_{pair}" for pair in PAIRS for measure in MEASURES] if pairs else []
    return (*_HEAD, *(f"score_{name}" for name in models), *SIMILARITIES, *measured)


def purify_set(job: Job, replicas: Replicas, models: Sequence[str], sizes: BatchSizes, out: Path) -> ledger.Table:
    """Purify and score the images that ``out/rows.csv`` lacks.

    Args:
      job: the set.
      replicas: a `Behind` on all devices.
      models: the names in it.
      sizes: how many images are computed together.
      out: folder of the table.
    """
    table = ledger.Table(out / "rows.csv", columns(models, job.pairs))
    times = [ledger.Table(out / "times.csv", TIME_COLUMNS)] if job.files is None else []  # of clean images alone
    timings = ledger.Table(out / "timings.csv", pipeline.TIMING_COLUMNS)
    seen: set[tuple[int, ...]] = set()

    def work(batch: loading.Batch) -> pipeline.Cells:
        behind = replicas.on(batch.devices)
        keys = defender_keys(job.seed, batch.send(replicas, pipeline.image_numbers(batch.names)))
        rows = batch.rows
        if job.files is not None:
            rows = batch.send(replicas, _read([job.files[name] for name in batch.names]))
        images, clean = call(from_uint8, rows), call(from_uint8, batch.rows)
        if times and images.shape not in seen:  # once without the clock, which compilation would count for
            jax.block_until_ready(call(behind.purifier, images, keys))
            seen.add(images.shape)
        started = time.perf_counter()
        purified = jax.block_until_ready(call(behind.purifier, images, keys))
        seconds = (time.perf_counter() - started) / len(images)
        found = {f"score_{name}": score(score_fn, purified) for name, score_fn in behind.score_fns.items()}
        found |= call(_similarities, purified, clean)
        if job.pairs:
            found = {**found, **call(_pairs, images, purified, clean, call(behind.purifier, clean, keys))}
        found = batch.fetch(found)
        named = {name: {key: values[i] for key, values in found.items()} for i, name in enumerate(batch.names)}
        return [named, *({name: {"purify_seconds": seconds} for name in batch.names} for _ in times)]

    pipeline.Rows(job.images, [table, *times, timings], sizes, replicas, out).fill(work)
    return table


def defender_keys(seed: int, numbers: UInt32[Array, " n"]) -> Keys:
    """The keys that purifiers draw by: the same for a clean image and its attacked versions, as in the MSU benchmark.

    No attack knows them: attacks have the keys of the seed itself.
    """
    return pipeline.image_keys(jax.random.fold_in(jax.random.key(seed), 1), numbers)


def _read(paths: Sequence[Path]) -> UInt8[np.ndarray, "images height width 3"]:
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(records.load_image, paths)))


def _similarities(purified: Purified, clean: Images) -> dict[str, Array]:
    """To the clean image, in its size."""
    restored = _resized(purified, clean)
    return {name: _similarity(name, restored, clean) for name in SIMILARITIES}


def _pairs(images: Images, purified: Purified, clean: Images, purified_clean: Purified) -> dict[str, Array]:
    """The measures of the MSU benchmark, in the size of the clean image unless both of a pair are purified."""
    restored = _resized(purified, clean)
    both = ((restored, clean), (images, clean), (restored, images), (purified, purified_clean))
    return {
        f"{measure}_{pair}": value
        for pair, (x, y) in zip(PAIRS, both)
        for measure, value in zip(MEASURES, _measures(x, y))
    }


def _measures(x: Purified, y: Purified) -> tuple[Array, ...]:
    difference = jnp.mean(jnp.abs(x - y), axis=(1, 2, 3))
    return _similarity("ssim_uniform", x, y), fidelity.psnr(x, y), fidelity.linf(x, y), difference


def _similarity(name: str, x: Purified, y: Purified) -> Array:
    """NaN where the images are too small."""
    measure, smallest = _SIMILARITIES[name]
    return jnp.full(len(x), jnp.nan) if min(x.shape[1:3]) < smallest else measure(x, y)


def _resized(purified: Purified, clean: Images) -> Images:
    size = clean.shape[1:3]
    return purified if purified.shape[1:3] == size else resize_torch(purified, *size, antialias=True)
