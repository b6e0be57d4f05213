"""Convolution as one product of patches with a matrix, whose derivatives of every order are products, too.

On CPUs, XLA computes the gradient by a kernel of the gradient by the images of a strided convolution, which double
backpropagation needs, up to fifty times slower than the convolution itself. In lower orders, plain convolutions are
faster; ``nriqa_jax.prepare`` decides.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from nriqa_jax.windows import taps

Features = Float[Array, "batch height width channels"]


class PatchKernel(NamedTuple):
    """A kernel as the matrix that patches are multiplied with.

    Attributes:
      taps: HWIO, as for any other convolution.
    """

    taps: Float[Array, "kh kw fan_in out"]


def convolve(x: Features, kernel: PatchKernel, *, stride: int, padding: int) -> Float[Array, "batch h w out"]:
    """A convolution, without dilation and groups."""
    rows, columns, _, out = kernel.taps.shape
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    patches = [tap for row in taps(x, 1, rows, stride) for tap in taps(row, 2, columns, stride)]
    values = jnp.concatenate(patches, axis=-1)
    flat = values.reshape(-1, values.shape[-1]) @ kernel.taps.reshape(-1, out)
    return flat.reshape(*values.shape[:-1], out)
