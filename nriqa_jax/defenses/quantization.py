"""Purification by fewer levels per colour channel."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from nriqa_jax.defenses.purifier import Deterministic, Gradient, Number
from nriqa_jax.types import Images

Count = int | Int[Array, ""] | Number


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ColorQuantization(Deterministic):
    """The nearest of evenly spaced levels, half-way values to the even one; no dithering.

    Attributes:
      levels: number per channel, at least 2. NIC-RobustBench has 255 times as many steps, which leaves 8-bit images as
        they are: its 16 are 15 * 255 + 1 here.
    """

    levels: Count = 16
    presets = (2, 5, 16, 20, 25)
    limits = (2, math.inf)
    gradient = Gradient.NONE

    def purify(self, images: Images) -> Images:
        """Round each value."""
        return nearest_level(images, self.levels)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BitDepth(Deterministic):
    """Fewer bits per channel (feature squeezing, Xu et al., NDSS 2018, who keep 4 or 5; Guo et al., ICLR 2018, keep 3).

    Attributes:
      bits: kept of each channel.
    """

    bits: Count = 5
    presets = (2, 3, 4, 5, 6)
    limits = (1, 16)
    gradient = Gradient.NONE

    def purify(self, images: Images) -> Images:
        """Round each value."""
        return nearest_level(images, 2.0**self.bits)


def nearest_level(images: Images, levels: Count) -> Images:
    """The nearest of evenly spaced levels in [0, 1]; its derivative is zero."""
    steps = levels - 1
    return jnp.round(images * steps) / steps
