"""Median blur, by a network of comparators."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nriqa_jax.defenses.neighbours import Rows, bordered, mirrored, reach, shifts
from nriqa_jax.defenses.purifier import Deterministic
from nriqa_jax.types import Images

_CHANNELS = 3


class Comparator(NamedTuple):
    """Two wires of a network: ``low`` takes the smaller value and ``high`` the larger one, where they are needed."""

    low: int
    high: int
    low_needed: bool = True
    high_needed: bool = True


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MedianBlur(Deterministic):
    """The median of each channel in a square window; the border is mirrored, its own pixel not repeated.

    The gradient of a pixel goes to those that have the value of the median, in equal shares.

    Attributes:
      size: side of the window, an odd number.
    """

    size: int = dataclasses.field(default=3, metadata={"static": True})
    presets = (3, 5, 7, 9, 11)
    limits = (1, 15)

    def purify(self, images: Images) -> Images:
        """Blur each image."""
        padded = mirrored(images, reach(self.size))
        return _median(self.size, padded.reshape(*padded.shape[:2], -1)).reshape(images.shape)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _median(size: int, padded: Rows) -> Rows:
    """Medians of all windows."""
    return select(median_network(size**2), _windows(size, padded))[size**2 // 2]


def _median_fwd(size: int, padded: Rows) -> tuple[Rows, tuple[Rows, Rows]]:
    median = _median(size, padded)
    return median, (padded, median)


def _median_bwd(size: int, kept: tuple[Rows, Rows], g: Rows) -> tuple[Rows]:
    """To each pixel, from the windows whose median it is, their gradients, over the number of pixels that are that."""
    padded, median = kept
    count = sum((window == median).astype(g.dtype) for window in _windows(size, padded))
    medians, shares = (_bordered(size, x, edge) for x, edge in ((median, jnp.nan), (g / count, 0.0)))
    pairs = zip(_windows(size, medians), _windows(size, shares))
    first, *others = (jnp.where(padded == its_median, share, 0.0) for its_median, share in pairs)
    return (sum(others, first),)


_median.defvjp(_median_fwd, _median_bwd)


def _windows(size: int, padded: Rows) -> list[Rows]:
    """For each position in a square window, its values in all windows."""
    return [view for rows in shifts(padded, size, 1) for view in shifts(rows, size, 2, _CHANNELS)]


def _bordered(size: int, x: Rows, edge: float) -> Rows:
    return bordered(bordered(x, size - 1, 1, edge), _CHANNELS * (size - 1), 2, edge)


def select(network: Sequence[Comparator], values: Sequence[Rows]) -> list[Rows]:
    """Values after they have passed a network."""
    wires = list(values)
    for low, high, low_needed, high_needed in network:
        a, b = wires[low], wires[high]
        if low_needed:
            wires[low] = jnp.minimum(a, b)
        if high_needed:
            wires[high] = jnp.maximum(a, b)
    return wires


@cache
def median_network(count: int) -> tuple[Comparator, ...]:
    """What of a sorting network leads to the wire in the middle."""
    needed, kept = {count // 2}, []
    for low, high, *_ in reversed(list(sorting_network(count))):
        if low in needed or high in needed:
            kept.append(Comparator(low, high, low in needed, high in needed))
            needed |= {low, high}
    return tuple(reversed(kept))


def sorting_network(count: int) -> Iterator[Comparator]:
    """Batcher's odd-even merge sort (Knuth, The Art of Computer Programming, 5.2.2, algorithm M)."""
    top = 1 << max((count - 1).bit_length() - 1, 0)
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while d > 0:
            yield from (Comparator(i, i + d) for i in range(count - d) if i & p == r)
            d, q, r = q - p, q // 2, p
        p //= 2
