"""Neighbours of pixels as shifted views, and sums of them.

Borders are mirrored without their own pixel. Where channels do not mix, rows are taken as they lie in memory, one
value after the other: loops over them vectorise, and loops over three channels do not. Sums of shifted views have
rules of their own for reverse mode, which shift the other way; those that JAX finds take ten times as long on CPUs.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from nriqa_jax.types import Images

Rows = Float[Array, "batch _ _"]
Taps = Float[Array, " size"]


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


def correlate(images: Images, taps: Taps, axis: int) -> Images:
    """Weighted sums of neighbours along an axis.

    Args:
      images: the images.
      taps: an odd number of weights, that of the pixel itself in the middle.
      axis: 1 or 2.
    """
    padded = mirrored(images, reach(len(taps)), (axis,))
    rows = padded.reshape(*padded.shape[:2], -1)
    return windowed_sum(axis, 1 if axis == 1 else images.shape[3], rows, taps).reshape(images.shape)


def shifts(x: Array, size: int, axis: int, stride: int = 1) -> list[Array]:
    """For each position in a sliding window along an axis, its values in all windows; entries are ``stride`` apart."""
    length = x.shape[axis] - (size - 1) * stride
    return [jax.lax.slice_in_dim(x, i * stride, i * stride + length, axis=axis) for i in range(size)]


def bordered(x: Array, border: int, axis: int, value: float = 0.0) -> Array:
    """An array with a border of one value along an axis. Unlike padding, XLA does not merge it into loops over it."""
    shape = list(x.shape)
    shape[axis] = border
    edge = jnp.full(shape, value, x.dtype)
    return jnp.concatenate([edge, x, edge], axis)


def _windowed_sum(axis: int, stride: int, x: Array, taps: Taps) -> Array:
    """Weighted sums over all whole windows along an axis."""
    first, *others = (tap * view for tap, view in zip(taps, shifts(x, len(taps), axis, stride)))
    return sum(others, first)


def _windowed_sum_fwd(axis: int, stride: int, x: Array, taps: Taps) -> tuple[Array, tuple[Array, Taps]]:
    return _windowed_sum(axis, stride, x, taps), (x, taps)


def _windowed_sum_bwd(axis: int, stride: int, kept: tuple[Array, Taps], g: Array) -> tuple[Array, Taps]:
    x, taps = kept
    around = bordered(g, (len(taps) - 1) * stride, axis)
    slopes = [jnp.vdot(g, view) for view in shifts(x, len(taps), axis, stride)]
    return windowed_sum(axis, stride, around, taps[::-1]), jnp.stack(slopes)


windowed_sum = jax.custom_vjp(_windowed_sum, nondiff_argnums=(0, 1))
windowed_sum.defvjp(_windowed_sum_fwd, _windowed_sum_bwd)


def at_once(active: Bool[Array, ""], compute: Callable[[], PyTree]) -> PyTree:
    """What a function computes, or zeros where it is not active, once for all that use it.

    XLA would merge it into each of them, and compute it anew for each; but not across the border of a condition.
    """
    zeros = jax.tree.map(lambda result: jnp.zeros(result.shape, result.dtype), jax.eval_shape(compute))
    return jax.lax.cond(active, compute, lambda: zeros)
