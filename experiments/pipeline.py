"""From a folder of images to batches and back to rows: what scoring and attacking share."""

import dataclasses
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, UInt32

from experiments import compilation, heap, loading, processes, records
from experiments.batch_sizes import BatchSizes
from experiments.errors import UserError
from experiments.ledger import Table, write_json
from experiments.loading import Batch, ImageSet
from experiments.progress import Progress
from nriqa_jax.memory import is_out_of_memory
from nriqa_jax.parallel import Replicas
from nriqa_jax.units import Unit, group_units, plan_units

Cells = Sequence[Mapping[str, Mapping[str, Any]]]

TIMING_COLUMNS = ("image", "batch_seconds", "batch_images")


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


def image_numbers(names: Sequence[str]) -> UInt32[np.ndarray, " n"]:
    """What makes the key of each image: a function of its name alone."""
    return np.array([zlib.crc32(name.encode("utf-8", "surrogateescape")) for name in names], np.uint32)


@jax.jit
def image_keys(key: Array, numbers: UInt32[Array, " n"]) -> Array:
    """One key per image, from the key of the run and `image_numbers`."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)


class Rows:
    """Fills the tables of a run, batch by batch, skipping batches whose rows are there already.

    Units are whole: an interrupted one is computed again from its start, so the numbers are those of an undisturbed
    run to the last bit. A batch that takes too much memory is computed again in halves, as are all of its size after
    it. Several processes divide the units among them, and the first one merges their tables.
    """

    def __init__(
        self, images: ImageSet, tables: Sequence[Table], batch_sizes: BatchSizes, replicas: Replicas, out: Path
    ) -> None:
        """Prepare a run.

        Args:
          images: what to process.
          tables: the main table first; it is written last and decides what is done. The last one takes times.
          batch_sizes: how many images are computed together.
          replicas: the model on all devices.
          out: folder of the run, where ``performance.json`` is written; its ``fill`` is the share of computed rows
            that were images. In attacks by queries, which ask as much for each image, it is that of queries, too.
        """
        self._images, self._sizes, self._replicas, self._out = images, batch_sizes, replicas, out
        self._main, *self._others, self._timings = tables
        self._names = list(images.sizes)
        self._rows = self._used = 0

    def fill(self, work: Callable[[Batch], Cells]) -> None:
        """Compute what is missing; ``work`` gives the cells of each table but the last, by name of image."""
        tables = [self._main, *self._others, self._timings]
        for table in tables:
            table.keep(self._main.rows.keys() & set(self._images.names))
        if processes.is_first():
            self._main.add({"image": n, "status": "failed", "error": why} for n, why in self._images.failures.items())
        self._sizes.settle(self._images.sizes.values())
        units = plan_units(list(self._images.sizes.values()), self._sizes.of)
        todo = [unit for unit in processes.share(units) if not self._is_done(unit)]
        started, waited = time.monotonic(), 0.0
        with compilation.watch() as compilations:
            count = sum(len(unit.items) for unit in todo)
            progress = Progress(count)
            while todo:
                todo, seconds = self._compute(todo, work, progress, compilations)
                waited += seconds
            progress.close()
        if count:
            self._report(count, time.monotonic() - started, waited, compilations)
        for table in reversed(tables):
            table.merge()

    def _compute(
        self,
        todo: Sequence[Unit],
        work: Callable[[Batch], Cells],
        progress: Progress,
        compilations: compilation.Compilations,
    ) -> tuple[list[Unit], float]:
        """Compute units until one takes too much memory; what is left then, and the seconds waited for images."""
        groups = group_units(todo, self._size, len(self._replicas.devices))
        batches, waited = loading.ahead(self._images, groups, self._replicas), 0.0
        for position, group in enumerate(groups):
            started, compiled = time.monotonic(), compilations.programs.total()
            batch = next(batches)
            waited += time.monotonic() - started
            try:
                cells = work(batch) if isinstance(batch, Batch) else None
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                batches.close()
                return self._in_halves([unit for rest in groups[position:] for unit in rest], group), waited
            if isinstance(batch, Batch):
                self._rows, self._used = self._rows + len(batch.take), self._used + len(batch.names)
            self._record(group, batch, cells, time.monotonic() - started)
            progress.advance(sum(len(unit.items) for unit in group))
            if compilations.programs.total() > compiled:
                heap.give_back()
        return [], waited

    def _in_halves(self, todo: Sequence[Unit], group: Sequence[Unit]) -> list[Unit]:
        size, failed = self._size(group[0]), group[0].size
        if failed == 1:
            too_large = "takes more memory to compute than there is, even alone"
            names = [self._names[item] for unit in group for item in unit.items]
            self._main.add(_row(name, size, {}, too_large) for name in names)
            return [unit for unit in todo if unit not in group]
        self._sizes.halve(size, failed)
        halves = [unit.halves() if self._size(unit) == size else [unit] for unit in todo]
        return [unit for parts in halves for unit in parts]

    def _record(
        self, group: Sequence[Unit], batch: Batch | dict[str, str], cells: Cells | None, seconds: float
    ) -> None:
        names, failures = (batch.names, batch.failures) if isinstance(batch, Batch) else ([], batch)
        times = {"batch_seconds": seconds, "batch_images": len(names)}
        self._timings.add({"image": name, **times} for name in names)
        size, tables = self._size(group[0]), [self._main, *self._others]
        for table, found in reversed(list(zip(tables, cells or [{} for _ in tables]))):
            rows = [_row(name, size, found.get(name, {}), failures.get(name)) for name in [*names, *failures]]
            table.add(rows)

    def _report(self, images: int, seconds: float, waited: float, compilations: compilation.Compilations) -> None:
        if not processes.is_first():
            return
        speed, share = images / seconds, waited / seconds
        found = {
            "images": images,
            "seconds": seconds,
            "images_per_second": speed,
            "share_of_time_waiting_for_images": share,
            "fill": self._used / self._rows if self._rows else 1.0,
            "programs": dict(sorted(compilations.programs.items())),
            "programs_from_cache": compilations.cached,
            "compile_seconds": compilations.seconds,
            "devices": len(self._replicas.devices),
            "processes": jax.process_count(),
        }
        write_json(self._out / "performance.json", found)
        print(
            f"{images} images in {seconds:.1f} s ({speed:.2f} per second, {share:.0%} of the time waiting for images); "
            f"{self._sizes.describe()} on {len(self._replicas.devices)} devices"
        )

    def _is_done(self, unit: Unit) -> bool:
        return all(self._names[item] in self._main.rows for item in unit.items)

    def _size(self, unit: Unit) -> tuple[int, int]:
        return self._images.sizes[self._names[unit.items[0]]]


def _row(name: str, size: tuple[int, int], cells: Mapping[str, Any], failure: str | None) -> dict[str, Any]:
    """A row, as failed where there is a reason or a score is no number."""
    start = {"image": name, "height": size[0], "width": size[1]}
    if failure is None and any(k.startswith("score") and not np.isfinite(v) for k, v in cells.items()):
        failure = "the model returned a score that is not finite"
    return start | ({"status": "failed", "error": failure} if failure else {"status": "ok", **cells})


def exit_code(table: Table) -> int:
    """Exit code of a run: 1 when an image failed, else 0."""
    return int(any(row["status"] == "failed" for row in table.rows.values()))
