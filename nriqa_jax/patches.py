"""Convolution as one product of patches with a matrix, whose derivatives of every order are products, too.

On CPUs, XLA computes gradients of a strided convolution by its kernel, and above all gradients of its gradients by the
images, which double backpropagation needs, many times slower than the convolution itself.
``nriqa_jax.prepare`` decides which convolutions become products.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from nriqa_jax.windows import taps

Features = Float[Array, "batch height width channels"]
Folded = Float[Array, "batch _ _ folded"]

_FEW_CHANNELS = 8  # up to so many, as in the first layer, longer patches of fewer taps are faster


class PatchKernel(NamedTuple):
    """A kernel as the matrix that patches are multiplied with.

    Attributes:
      taps: HWIO, as for any other convolution.
    """

    taps: Float[Array, "kh kw fan_in out"]


def convolve(x: Features, kernel: PatchKernel, *, stride: int, padding: int) -> Float[Array, "batch h w out"]:
    """A convolution, without dilation and groups."""
    weights = kernel.taps
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    if stride > 1 and x.shape[-1] <= _FEW_CHANNELS:
        x, weights, stride = *_folded(x, weights, stride), 1
    rows, columns, _, out = weights.shape
    patches = [tap for row in taps(x, 1, rows, stride) for tap in taps(row, 2, columns, stride)]
    values = jnp.concatenate(patches, axis=-1)
    flat = values.reshape(-1, values.shape[-1]) @ weights.reshape(-1, out)
    return flat.reshape(*values.shape[:-1], out)


def _folded(
    x: Features, weights: Float[Array, "kh kw channels out"], stride: int
) -> tuple[Folded, Float[Array, "_ _ folded out"]]:
    """Image and kernel of the same convolution with stride 1, over squares of pixels in place of pixels."""
    window = weights.shape[:2]
    blocks = [-(-taken // stride) for taken in window]
    sides = [((side - taken) // stride + more) * stride for side, taken, more in zip(x.shape[1:3], window, blocks)]
    x = jnp.pad(x, ((0, 0), *((0, max(0, side - have)) for side, have in zip(sides, x.shape[1:3])), (0, 0)))
    missing = [(0, more * stride - taken) for more, taken in zip(blocks, window)]
    weights = jnp.pad(jnp.moveaxis(weights, -1, 0), ((0, 0), *missing, (0, 0)))
    return _to_depth(x[:, : sides[0], : sides[1]], stride), jnp.moveaxis(_to_depth(weights, stride), 0, -1)


def _to_depth(x: Features, side: int) -> Folded:
    """The pixels of each square as channels of one."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // side, side, width // side, side, channels)
    return jnp.moveaxis(x, 3, 2).reshape(batch, height // side, width // side, -1)
