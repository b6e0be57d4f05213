"""What a network is trained on: crops of images, in an order that is a function of seed, epoch and place alone.

So a run that was interrupted in the middle of an epoch goes on with the very crops that an undisturbed one sees.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8, UInt32
from PIL import Image

from experiments import records
from experiments.cutting import cut_at
from experiments.errors import UserError

_MOST_BYTES = 2 * 2**30  # of decoded images that are kept


class Cuts(NamedTuple):
    """How samples are taken from images.

    Attributes:
      side: of the square crops, in pixels; 0 for whole images.
      per_image: crops of each image in an epoch.
      flip: chance that a sample is mirrored left to right.
      size: height and width that images are squashed to first; None for their own.
    """

    side: int
    per_image: int = 1
    flip: float = 0.5
    size: tuple[int, int] | None = None


class Samples(NamedTuple):
    """Samples that are trained on together.

    Attributes:
      pixels: 8-bit values.
      labels: opinion scores, in the unit of the model.
      numbers: number of each sample in the run, which its random numbers depend on.
    """

    pixels: UInt8[np.ndarray, "batch height width 3"]
    labels: Float32[np.ndarray, " batch"]
    numbers: UInt32[np.ndarray, " batch"]


class Draws(NamedTuple):
    """Everything random about an epoch, by place in its order.

    Attributes:
      images: number of the image.
      places: of the crop in it, as shares of where it may be.
      mirrored: whether the sample is mirrored.
    """

    images: Int[np.ndarray, " samples"]
    places: Float[np.ndarray, "samples 2"]
    mirrored: Bool[np.ndarray, " samples"]


def draw(count: int, cuts: Cuts, seed: int, epoch: int) -> Draws:
    """The order of an epoch over ``count`` images, and its crops."""
    rng = np.random.default_rng((seed, epoch))
    images = rng.permutation(np.repeat(np.arange(count), cuts.per_image))
    return Draws(images, rng.random((len(images), 2)), rng.random(len(images)) < cuts.flip)


def steps_per_epoch(count: int, cuts: Cuts, batch_size: int) -> int:
    """Number of batches in which every sample is seen; the last one is filled up from the start of the epoch."""
    return -(-count * cuts.per_image // batch_size)


class Source:
    """The images of a set, decoded as they are needed and kept as memory allows."""

    def __init__(self, root: Path, labels: Mapping[str, float], cuts: Cuts) -> None:
        """Start with nothing decoded.

        Args:
          root: folder of the images.
          labels: by file below it.
          cuts: how samples are taken.
        """
        self._root, self._cuts, self._files = root, cuts, list(labels)
        self._labels = np.array(list(labels.values()), np.float32)
        self._kept: dict[str, UInt8[np.ndarray, "height width 3"]] = {}
        self._bytes = 0

    def steps(self, batch_size: int) -> int:
        """Number of batches of an epoch."""
        return steps_per_epoch(len(self._files), self._cuts, batch_size)

    def batches(self, batch_size: int, seed: int, epoch: int, first: int = 0) -> Iterator[Samples]:
        """The batches of an epoch, from the ``first`` one; each is made while the one before it is used."""
        draws = draw(len(self._files), self._cuts, seed, epoch)
        with ThreadPoolExecutor() as decoders, ThreadPoolExecutor(1) as assembler:

            def start(step: int) -> Future[Samples]:
                places = (step * batch_size + np.arange(batch_size)) % len(draws.images)
                return assembler.submit(self._batch, draws, places, epoch, decoders)

            waiting, count = start(first), self.steps(batch_size)
            for step in range(first, count):
                samples = waiting.result()
                if step + 1 < count:
                    waiting = start(step + 1)
                yield samples

    def _batch(
        self, draws: Draws, places: Int[np.ndarray, " batch"], epoch: int, decoders: ThreadPoolExecutor
    ) -> Samples:
        found = list(decoders.map(lambda place: self._sample(draws, place), places.tolist()))
        if len({pixels.shape for pixels in found}) > 1:
            raise UserError("images of several sizes cannot be trained on whole; give --crop or --resize")
        numbers = epoch * len(draws.images) + places
        return Samples(np.stack(found), self._labels[draws.images[places]], numbers.astype(np.uint32))

    def _sample(self, draws: Draws, place: int) -> UInt8[np.ndarray, "height width 3"]:
        pixels = self._pixels(self._files[draws.images[place]])
        if self._cuts.side:
            pixels = cut_at(pixels, draws.places[place], self._cuts.side)
        return pixels[:, ::-1] if draws.mirrored[place] else pixels

    def _pixels(self, file: str) -> UInt8[np.ndarray, "height width 3"]:
        if file in self._kept:
            return self._kept[file]
        try:
            pixels = records.load_image(self._root / file)
        except records.ImageError as error:
            raise UserError(f"{self._root / file} {error}") from error
        if self._cuts.size is not None:
            height, width = self._cuts.size
            pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
        if self._bytes + pixels.nbytes <= _MOST_BYTES:
            self._kept[file] = pixels
            self._bytes += pixels.nbytes
        return pixels
