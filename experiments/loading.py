"""Images on their way to the devices: decoded by threads and sent while the batch before them is computed."""

import os
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int, PyTree, UInt8

from experiments import records
from nriqa_jax.parallel import Replicas
from nriqa_jax.units import Unit

_AHEAD = 2  # groups that are decoded while one is computed


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


class Batch(NamedTuple):
    """Images of one size that are computed together, on one or several devices.

    Attributes:
      names: the images.
      pixels: their 8-bit values, on the host.
      failures: why other images of these units could not be decoded.
      take: image of each computed row; units are padded with their last image.
      keep: computed row of each image.
      devices: number of devices.
      rows: the computed rows on the devices, as they travel.
    """

    names: list[str]
    pixels: UInt8[np.ndarray, "images height width 3"]
    failures: dict[str, str]
    take: Int[np.ndarray, " rows"]
    keep: Int[np.ndarray, " images"]
    devices: int
    rows: UInt8[Array, "rows height width 3"]

    def send(self, replicas: Replicas, values: PyTree) -> PyTree:
        """Arrays with a row for each image, as rows on the devices."""
        return replicas.rows(self.devices, jax.tree.map(lambda array: array[self.take], values))

    def fetch(self, outputs: PyTree) -> PyTree:
        """Outputs for computed rows, as host arrays with a row for each image."""
        return jax.tree.map(lambda array: np.asarray(array)[self.keep], outputs)


def ahead(
    images: ImageSet, groups: Sequence[Sequence[Unit]], replicas: Replicas
) -> Generator[Batch | dict[str, str], None, None]:
    """The batches of groups of units, in order; only the failures of a group of which nothing could be decoded."""
    names = list(images.sizes)
    with ThreadPoolExecutor(os.cpu_count()) as decoders, ThreadPoolExecutor(1) as senders:

        def start(group: Sequence[Unit]) -> Future[Batch | dict[str, str]]:
            files = {name: decoders.submit(decode, images, name) for unit in group for name in _names(unit, names)}
            return senders.submit(_assemble, [_names(unit, names) for unit in group], group[0].size, files, replicas)

        waiting: deque[Future[Batch | dict[str, str]]] = deque()
        try:
            for group in groups:
                waiting.append(start(group))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _names(unit: Unit, names: Sequence[str]) -> list[str]:
    return [names[item] for item in unit.items]


def decode(images: ImageSet, name: str) -> UInt8[np.ndarray, "height width 3"] | str:
    """Pixels of an image, or why they cannot be read."""
    try:
        return records.load_image(records.image_path(images.root, name))
    except records.ImageError as error:
        return str(error)


def _assemble(
    units: Sequence[Sequence[str]], size: int, files: dict[str, Future], replicas: Replicas
) -> Batch | dict[str, str]:
    found = {name: future.result() for name, future in files.items()}
    pixels = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
    failures = {name: value for name, value in found.items() if isinstance(value, str)}
    order = {name: index for index, name in enumerate(pixels)}
    shares = [share for share in ([order[name] for name in unit if name in order] for unit in units) if share]
    if not shares:
        return failures
    take = np.array([index for share in shares for index in (share + share[-1:] * size)[:size]])
    keep = np.array([start * size + row for start, share in enumerate(shares) for row in range(len(share))])
    stacked = np.stack(list(pixels.values()))
    rows = replicas.rows(len(shares), stacked[take])
    return Batch(list(pixels), stacked, failures, take, keep, len(shares), rows)
