"""Image primitives on NHWC float32 batches in [0, 1]. None of them clips unless its name says so."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from nriqa_jax.types import Images
from nriqa_jax.windows import split

# Integer weights of ITU-R 601 luma out of 65536, as used by common image libraries for RGB to grey.
_LUMA_WEIGHTS = (19595.0, 38470.0, 7471.0)

# Slack for reading a level out of float32: x * 255 is off by at most a few 1e-5 when x is a multiple of 1/255.
_LEVEL_SLACK = 2.0**-12


def normalize(
    images: Float[Array, "*n height width 3"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "*n height width 3"]:
    """Subtract the mean and divide by the standard deviation of each channel."""
    return (images - jnp.asarray(mean, images.dtype)) / jnp.asarray(std, images.dtype)


def straight_through(rounded: Float[Array, "*n"], x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Return the value of ``rounded`` with the gradient of ``x``."""
    return x + jax.lax.stop_gradient(rounded - x)


def clip_unit(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Cut off at 0 and 1; the gradient is that of a closed interval, 1 at its ends, where many pixels are."""
    return jnp.where((x >= 0.0) & (x <= 1.0), x, jnp.clip(jax.lax.stop_gradient(x), 0.0, 1.0))


def luma_8bit(images: Images) -> Float[Array, "batch height width 1"]:
    """Grey levels as an 8-bit file would hold them, in [0, 1]; straight-through gradient.

    For pixels that are multiples of 1/255 the levels equal the integer formula
    ``(19595 R + 38470 G + 7471 B + 32768) >> 16`` exactly: all its terms are below 2**24, hence exact in float32.
    """
    terms = [channel * 255.0 * weight for channel, weight in zip(split(images, -1), _LUMA_WEIGHTS)]
    weighted = jax.tree.reduce(jnp.add, terms)[..., None]
    levels = jnp.floor((weighted + 32768.0) / 65536.0)
    return straight_through(levels / 255.0, weighted / (255.0 * 65536.0))


def box_mean(
    images: Float[Array, "*n height width channels"],
) -> Float[Array, "*n height width channels"]:
    """Mean over 3x3 neighbourhoods; the border is mirrored, its own pixel included. Meant for small patches."""
    rows, columns = (_tridiagonal_mean(side).astype(images.dtype) for side in images.shape[-3:-1])
    return jnp.einsum("ij,kl,...jlc->...ikc", rows, columns, images)


def _tridiagonal_mean(length: int) -> Float[np.ndarray, "{length} {length}"]:
    """Mean of each entry and its two neighbours, as a matrix; the border is its own neighbour."""
    neighbours = np.clip(np.arange(length) + np.array([[-1], [0], [1]]), 0, length - 1)
    return sum(np.eye(length)[row] for row in neighbours) / 3.0


def to_uint8(images: Float[Array, "*n"]) -> UInt8[Array, "*n"]:
    """Nearest 8-bit levels of values in [0, 1]."""
    return jnp.round(jnp.clip(images, 0.0, 1.0) * 255.0).astype(jnp.uint8)


def from_uint8(levels: UInt8[Array, "*n"]) -> Float[Array, "*n"]:
    """Values in [0, 1] of 8-bit levels."""
    return levels.astype(jnp.float32) / 255.0


def quantize_toward(images: Float[Array, "*n"], clean: UInt8[Array, "*n"]) -> UInt8[Array, "*n"]:
    """Round to 8 bits toward the clean image, so that no difference grows and every budget still holds on disk.

    Args:
      images: values in [0, 1]; a value within 1e-6 of a level counts as that level.
      clean: the 8-bit image that the perturbation started from.

    Returns:
      For each pixel the level between its value and the clean one that is nearest to its value.
    """
    levels, origin = images * 255.0, clean.astype(jnp.float32)
    towards = jnp.where(
        levels > origin,
        jnp.maximum(jnp.floor(levels + _LEVEL_SLACK), origin),
        jnp.minimum(jnp.ceil(levels - _LEVEL_SLACK), origin),
    )
    return jnp.clip(towards, 0.0, 255.0).astype(jnp.uint8)


def covering_offsets(length: int, window: int) -> tuple[int, ...]:
    """Start positions of the fewest evenly spread windows that cover every pixel of a side, ``length >= window``."""
    count = -(-length // window)
    return tuple(int(i) for i in np.round(np.linspace(0, length - window, count)))


def crops(
    images: Float[Array, "batch height width channels"], corners: tuple[tuple[int, int], ...], size: int
) -> Float[Array, "batch views size size channels"]:
    """Square windows with the given top-left (row, column) corners, stacked in that order."""
    return jnp.stack([images[:, y : y + size, x : x + size] for y, x in corners], axis=1)


def grid_crops(
    images: Float[Array, "batch height width channels"], rows: tuple[int, ...], columns: tuple[int, ...], size: int
) -> Float[Array, "batch views size size channels"]:
    """Square windows at all combinations of top and left offsets, row by row; one axis after the other is fast."""
    bands = _windows(images, 1, rows, size)
    views = jnp.moveaxis(_windows(bands, 3, columns, size), 3, 2)
    return views.reshape(len(images), -1, *views.shape[3:])


def _windows(x: Float[Array, "*_"], axis: int, offsets: tuple[int, ...], size: int) -> Float[Array, "*_"]:
    """Windows along an axis, which becomes two: windows and positions."""
    if all(offset == offsets[0] + i * size for i, offset in enumerate(offsets)):  # tiles
        x = jax.lax.slice_in_dim(x, offsets[0], offsets[-1] + size, axis=axis)
        return x.reshape(*x.shape[:axis], len(offsets), size, *x.shape[axis + 1 :])
    return jnp.stack([jax.lax.slice_in_dim(x, start, start + size, axis=axis) for start in offsets], axis=axis)


def covering_crops(
    images: Float[Array, "batch height width channels"], size: int
) -> Float[Array, "batch views size size channels"]:
    """The fewest evenly spread square windows that together cover every pixel, row by row."""
    rows, columns = (covering_offsets(side, size) for side in images.shape[1:3])
    return grid_crops(images, rows, columns, size)
