"""Purification by noise."""

import dataclasses

import jax
from jaxtyping import Array, Float

from nriqa_jax.defenses.purifier import Number, Random
from nriqa_jax.image import clip_unit

Image = Float[Array, "height width 3"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RandomNoise(Random):
    """White Gaussian noise, cut off at the ends of the pixel range.

    Attributes:
      sigma: standard deviation, in units of the pixel range [0, 1].
    """

    sigma: Number = 0.01
    presets = (0.01, 0.025, 0.05, 0.075, 0.1)

    def purify_one(self, image: Image, key: Array) -> Image:
        """Add noise to one image."""
        return clip_unit(image + self.sigma * jax.random.normal(key, image.shape, image.dtype))
