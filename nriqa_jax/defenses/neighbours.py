"""Neighbours of pixels as shifted views, and sums of them.

Borders are mirrored without their own pixel. Where channels do not mix, rows are taken as they lie in memory, one
value after the other: loops over them vectorise, and loops over three channels do not.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from nriqa_jax.types import Images

Rows = Float[Array, "batch height values"]
Planes = Float[Array, "channels batch height width"]
Offsets = Int[np.ndarray, "n 2"]


def correlate(images: Images, taps: Float[Array, " size"], axis: int) -> Images:
    """Weighted sums of neighbours along an axis.

    Args:
      images: the images.
      taps: an odd number of weights, that of the pixel itself in the middle.
      axis: 1 or 2.
    """
    size = len(taps)
    views = shifts(mirrored(images, reach(size), (axis,)), size, axis)
    return sum(tap * view for tap, view in zip(taps, views)).reshape(images.shape)


def reach(size: int) -> int:
    """How far a window goes to each side of its pixel.

    Raises:
      ValueError: for a window without a pixel in the middle.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"a window of {size} pixels has none in its middle; give an odd size")
    return size // 2


def mirrored(images: Images, border: int, axes: tuple[int, ...] = (1, 2)) -> Float[Array, "batch _ _ 3"]:
    """Images with a border of mirrored pixels along some axes."""
    widths = [(border, border) if axis in axes else (0, 0) for axis in range(images.ndim)]
    return jnp.pad(images, widths, mode="reflect")


def shifts(images: Float[Array, "batch _ _ 3"], size: int, axis: int) -> list[Rows]:
    """For each position in a sliding window along an axis, its values in all windows, as rows of values."""
    rows = images.reshape(*images.shape[:2], -1)
    stride = 1 if axis == 1 else images.shape[3]
    length = (images.shape[axis] - size + 1) * stride
    return [jax.lax.slice_in_dim(rows, i * stride, i * stride + length, axis=axis) for i in range(size)]


def window_half(radius: int) -> Offsets:
    """Rows and columns to those neighbours in a square window that come after its middle; the others are opposite."""
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1].reshape(2, -1)
    after = slice(len(rows) // 2 + 1, None)
    return np.stack([rows[after], columns[after]], axis=1)


def means_by_likeness(
    images: Images,
    offsets: Offsets,
    weigh: Callable[[Planes, Planes, Any], Float[Array, "batch _ _"]],
    about: Any,
    margin: int = 0,
) -> Images:
    """Weighted means of each pixel, of weight 1, and neighbours; a weight serves both pixels of a pair.

    Args:
      images: the images.
      offsets: rows and columns to one neighbour of each pair of opposite ones.
      weigh: from pixels, what lies at an offset from each of them, and an entry of ``about``, to the weights of these
        pairs, of all but the outermost ``margin`` pixels.
      about: what ``weigh`` must know of each offset: arrays with an entry for each, or None.
      margin: pixels around a pair that its weight depends on.
    """
    height, width = images.shape[1:3]
    radius = int(np.max(np.abs(offsets), initial=0))
    border = 2 * radius + margin
    planes = jnp.moveaxis(mirrored(images, border), 3, 0)

    def view(array: Array, start: Array | int, more: int) -> Array:
        """A part of the last two axes, from (start, start) on, that is larger than an image by some pixels."""
        corner = jnp.broadcast_to(jnp.asarray(start), (2,))
        sizes = (*array.shape[:-2], height + more, width + more)
        return jax.lax.dynamic_slice(array, (*(0,) * (array.ndim - 2), corner[0], corner[1]), sizes)

    def add(sums: tuple[Array, Array], pair: tuple[Array, Any]) -> tuple[tuple[Array, Array], None]:
        offset, entry = pair
        around = 2 * (radius + margin)
        weights = weigh(view(planes, radius, around), view(planes, radius + offset, around), entry)
        there, back = view(weights, radius, 0), view(weights, radius - offset, 0)
        total = sums[0] + there * view(planes, border + offset, 0) + back * view(planes, border - offset, 0)
        return (total, sums[1] + there + back), None

    start = (view(planes, border, 0), jnp.ones(images.shape[:3], images.dtype))
    (total, weight), _ = jax.lax.scan(jax.checkpoint(add), start, (jnp.asarray(offsets), about))
    return jnp.moveaxis(total / weight, 0, 3)
