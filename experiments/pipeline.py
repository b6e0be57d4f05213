"""From a folder of images to batches and back to rows: what scoring and attacking share."""

import dataclasses
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, UInt8, UInt32

from experiments import records
from experiments.cli import UserError
from experiments.ledger import Table
from experiments.progress import progress
from nriqa_jax.parallel import plan_batches

Pixels = UInt8[np.ndarray, "batch height width 3"]

Work = Callable[[Sequence[str], Pixels, int], Sequence[Mapping[str, Mapping[str, Any]]]]

TIMING_COLUMNS = ("image", "batch_seconds", "batch_images")


class ImageSet(NamedTuple):
    """The images of a run, in order of name.

    Attributes:
      root: folder, or the one file.
      names: relative names of all images.
      sizes: height and width of those that can be used.
      failures: why the others cannot.
    """

    root: Path
    names: list[str]
    sizes: dict[str, tuple[int, int]]
    failures: dict[str, str]


def survey(root: Path, out: Path, min_side: int) -> ImageSet:
    """Find the images of a run and read their sizes.

    Raises:
      UserError: when there are none, or when results would be written among them.
    """
    if root.is_dir() and out.resolve().is_relative_to(root.resolve()):
        raise UserError(f"--out={out} lies inside --images={root}: results would become images; choose another")
    try:
        names = records.list_images(root)
    except FileNotFoundError as error:
        raise UserError(str(error)) from error
    sizes, failures = {}, {}
    for name in names:
        try:
            height, width = sizes[name] = records.read_size(records.image_path(root, name))
            if min(height, width) < min_side:
                raise records.ImageError(
                    f"is {width}x{height} pixels; this model needs at least {min_side} on each side"
                )
        except records.ImageError as error:
            sizes.pop(name, None)
            failures[name] = str(error)
    return ImageSet(root, names, sizes, failures)


def run_config(script: str, config: Any, images: ImageSet, description: Mapping[str, Any]) -> dict[str, Any]:
    """What ``config.json`` says of a run on images."""
    root = str(images.root.resolve())
    return {"script": script, "flags": dataclasses.asdict(config), "images_root": root, **description}


def decode(images: ImageSet, names: Sequence[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Decode images of one size: the pixels of those that can be, and why the others cannot."""

    def load(name: str) -> np.ndarray | str:
        try:
            return records.load_image(records.image_path(images.root, name))
        except records.ImageError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        loaded = dict(zip(names, pool.map(load, names)))
    pixels = {name: value for name, value in loaded.items() if isinstance(value, np.ndarray)}
    return pixels, {name: value for name, value in loaded.items() if isinstance(value, str)}


def image_keys(seed: int, names: Sequence[str]) -> Array:
    """One key per image, a function of the seed and its name alone."""
    numbers = [zlib.crc32(name.encode("utf-8", "surrogateescape")) for name in names]
    return _fold(jax.random.key(seed), np.array(numbers, np.uint32))


@jax.jit
def _fold(key: Array, numbers: UInt32[Array, " n"]) -> Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)


def run_rows(images: ImageSet, batch_size: int, tables: Sequence[Table], work: Work) -> None:
    """Fill the tables of a run, batch by batch, skipping batches whose rows are there already.

    Batches are whole units: an interrupted one is computed again from its start, so the numbers are those of an
    undisturbed run to the last bit.

    Args:
      images: what to process.
      batch_size: largest batch.
      tables: the main table first; it is written last and decides what is done. The last one takes times.
      work: from names, their pixels and the size to pad to, the cells of each table but the last.
    """
    main, *others, timings = tables
    for table in tables:
        table.keep(main.rows.keys() & set(images.names))
    main.add({"image": name, "status": "failed", "error": why} for name, why in images.failures.items())
    names = list(images.sizes)
    batches = plan_batches([images.sizes[name] for name in names], batch_size)
    todo = [batch for batch in batches if not all(names[item] in main.rows for item in batch.items)]
    for batch in progress(todo, [len(batch.items) for batch in todo]):
        started = time.monotonic()
        pixels, failures = decode(images, [names[item] for item in batch.items])
        cells = work(list(pixels), np.stack(list(pixels.values())), batch.size) if pixels else [{} for _ in tables[:-1]]
        seconds = time.monotonic() - started
        timings.add({"image": name, "batch_seconds": seconds, "batch_images": len(pixels)} for name in pixels)
        for table, by_name in reversed(list(zip([main, *others], cells))):
            table.add(_row(name, images.sizes[name], by_name, failures) for name in pixels | failures)


def _row(
    name: str, size: tuple[int, int], by_name: Mapping[str, Mapping[str, Any]], failures: Mapping[str, str]
) -> dict[str, Any]:
    """A row, as failed when the image could not be decoded or a score is no number."""
    failure, cells = failures.get(name), by_name.get(name, {})
    start = {"image": name, "height": size[0], "width": size[1]}
    if failure is None and any(k.startswith("score") and not np.isfinite(v) for k, v in cells.items()):
        failure = "the model returned a score that is not finite"
    return start | ({"status": "failed", "error": failure} if failure else {"status": "ok", **cells})


def exit_code(table: Table) -> int:
    """Exit code of a run: 1 when an image failed, else 0."""
    return int(any(row["status"] == "failed" for row in table.rows.values()))
