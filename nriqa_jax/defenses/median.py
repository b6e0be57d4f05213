"""Median blur, by a network of comparators."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nriqa_jax.defenses.neighbours import Rows, mirrored, reach, shifts
from nriqa_jax.defenses.purifier import Deterministic
from nriqa_jax.types import Images


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
        return _median(self.size, padded).reshape(images.shape)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _median(size: int, padded: Float[Array, "batch _ _ 3"]) -> Rows:
    """Medians of all windows."""
    return select(median_network(size**2), windows(size, padded))[size**2 // 2]


@_median.defjvp
def _median_jvp(size: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Rows, Rows]:
    median = _median(size, *primals)
    chosen = [(window == median).astype(median.dtype) for window in windows(size, *primals)]
    first, *others = (share * change for share, change in zip(chosen, windows(size, *tangents)))
    return median, sum(others, first) / sum(chosen[1:], chosen[0])


def windows(size: int, padded: Float[Array, "batch _ _ 3"]) -> list[Rows]:
    """For each position in a square window, its values in all windows."""
    height = padded.shape[1] - size + 1
    columns = shifts(padded, size, 2)
    return [column[:, row : row + height] for row in range(size) for column in columns]


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
