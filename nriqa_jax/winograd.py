"""Winograd convolution F(2x2, 3x3) (Lavin and Gray, CVPR 2016): 16 products where a 3x3 convolution has 36.

Exact to about 1e-6 relative in float32. On CPUs it pays for many channels, which ``nriqa_jax.prepare`` looks for, and
on maps that are not large, which `pays` tells.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from nriqa_jax.windows import split, taps

_EXPAND_KERNEL = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))

_LARGE_MAP, _CHANNELS_OF_LARGE_MAPS = 128 * 128, 256

Features = Float[Array, "batch height width channels"]


class WinogradKernel(NamedTuple):
    """A 3x3 kernel in the Winograd domain.

    Attributes:
      products: one matrix for each of the 4x4 positions of a transformed tile.
    """

    products: Float[Array, "16 fan_in out"]


def transform_kernel(kernel: Float[Array, "3 3 fan_in out"]) -> WinogradKernel:
    """Lay a kernel out for `convolve`; done once per run, or once per step of training."""
    expand = jnp.asarray(_EXPAND_KERNEL, kernel.dtype)
    flat = kernel.reshape(9, -1)
    products = jnp.kron(expand, expand) @ flat
    return WinogradKernel(products.reshape(16, *kernel.shape[2:]))


def restore_kernel(kernel: WinogradKernel) -> Float[Array, "3 3 fan_in out"]:
    """The kernel that `transform_kernel` got, up to rounding."""
    products = kernel.products.reshape(4, 4, *kernel.products.shape[1:])
    rows = jnp.stack([products[0], products[1] - products[2], products[3]])
    return jnp.stack([rows[:, 0], rows[:, 1] - rows[:, 2], rows[:, 3]], axis=1)


def pays(x: Features, kernel: WinogradKernel) -> bool:
    """Whether `convolve` is faster than a plain convolution: its transforms take four times the memory of a map."""
    return x.shape[1] * x.shape[2] < _LARGE_MAP or min(kernel.products.shape[1:]) >= _CHANNELS_OF_LARGE_MAPS


def convolve(x: Features, kernel: WinogradKernel) -> Float[Array, "batch height width out"]:
    """A 3x3 convolution with stride 1 and padding 1."""
    batch, height, width, channels = x.shape
    rows, columns = -(-height // 2), -(-width // 2)
    x = jnp.pad(x, ((0, 0), (1, 2 * rows - height + 1), (1, 2 * columns - width + 1), (0, 0)))
    tiles = [tile for row in _expand(taps(x, 1, 4, 2)) for tile in _expand(taps(row, 2, 4, 2))]
    # A product for each position, not one for a stack of all: stacking takes as long as a product of few channels.
    positions = zip(tiles, split(kernel.products, 0))
    products = [(tile.reshape(-1, channels) @ matrix).reshape(batch, rows, columns, -1) for tile, matrix in positions]
    by_row = [_contract(products[start : start + 4]) for start in range(0, 16, 4)]
    by_column = [_contract([row[column] for row in by_row]) for column in range(2)]
    pairs = [jnp.stack([column[row] for column in by_column], axis=3) for row in range(2)]
    y = jnp.stack(pairs, axis=2)  # batch, tile row, 2, tile column, 2, out
    return y.reshape(batch, 2 * rows, 2 * columns, -1)[:, :height, :width]


def _expand(d: list[Array]) -> list[Array]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _contract(m: list[Array]) -> list[Array]:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]
