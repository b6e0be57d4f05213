"""Sliding windows along an axis, taken apart so that gradients are concatenations: fast on every backend."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Features = Float[Array, "batch height width channels"]
Tap = Float[Array, "batch _ _ channels"]


def taps(x: Features, axis: int, window: int, stride: int) -> list[Tap]:
    """For each position in a sliding window along an axis, its values in all windows, ``x[t::stride]``.

    Strides are taken as lanes of a split, whose gradient is a concatenation instead of a sum of dilated arrays.
    """
    count = (x.shape[axis] - window) // stride + 1
    length = (count + (window - 1) // stride) * stride
    missing = [(0, 0)] * x.ndim
    missing[axis] = (0, max(0, length - x.shape[axis]))
    x = jax.lax.slice_in_dim(jnp.pad(x, missing), 0, length, axis=axis)
    lanes = split(x.reshape(*x.shape[:axis], -1, stride, *x.shape[axis + 1 :]), axis + 1)
    return [jax.lax.slice_in_dim(lanes[t % stride], t // stride, t // stride + count, axis=axis) for t in range(window)]


def repeat_last(x: Float[Array, "*_"], axis: int, count: int) -> Float[Array, "*_"]:
    """Repeat the last entry along an axis.

    As ``jnp.pad`` in its mode "edge", whose gradient moves rows from device to device where a batch is on several.
    """
    last = jax.lax.slice_in_dim(x, x.shape[axis] - 1, None, axis=axis)
    return jnp.concatenate([x, *[last] * count], axis) if count else x


def split(x: Float[Array, "*_"], axis: int) -> list[Float[Array, "*_"]]:
    """The entries along an axis, without it."""
    return [jnp.squeeze(part, axis) for part in jax.lax.split(x, (1,) * x.shape[axis], axis)]
