"""Grouped convolutions as dense ones of bundles of neighbouring groups: faster on CPUs than what XLA has for groups.

``nriqa_jax.prepare`` decides. Bundles of narrow groups compute products with zeros, which costs less than narrowness.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from nriqa_jax.patches import PatchKernel

Dense = Float[Array, "kh kw fan_in out"] | PatchKernel

_CHANNELS = 16  # of a bundle, at most, unless a group has more


class BundledKernel(NamedTuple):
    """The kernel of a grouped convolution, divided by bundles of groups.

    Attributes:
      bundles: kernels of dense convolutions, zero where input and output are of different groups. They are arrays
        of their own, because each slice of one array is a program to compile.
    """

    bundles: tuple[Dense, ...]


def bundle(kernel: Float[Array, "kh kw fan_in out"], groups: int) -> BundledKernel:
    """Lay the kernel of a grouped convolution out for `layers.conv2d`; done once per run."""
    height, width, fan_in, out = kernel.shape
    size = max(n for n in range(1, groups + 1) if groups % n == 0 and (n == 1 or n * fan_in <= _CHANNELS))
    kernel = kernel.reshape(height, width, fan_in, groups // size, size, out // groups)
    blocks = jnp.einsum("hwibgo,fg->bhwfigo", kernel, jnp.eye(size, dtype=kernel.dtype))
    return BundledKernel(tuple(blocks.reshape(-1, height, width, size * fan_in, size * out // groups)))
