"""Gaussian blur, and sharpening by what it takes away."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nriqa_jax.defenses.neighbours import correlate
from nriqa_jax.defenses.purifier import Deterministic, Number
from nriqa_jax.image import clip_unit
from nriqa_jax.types import Images


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GaussianBlur(Deterministic):
    """A Gaussian of few taps; the border is mirrored, its own pixel not repeated.

    Attributes:
      size: taps along each axis, an odd number.
      sigma: standard deviation in pixels; by default it follows the size, as in OpenCV and torchvision.
    """

    size: int = dataclasses.field(default=3, metadata={"static": True})
    sigma: Number | None = None
    presets = (3, 5, 7, 9, 11)

    def purify(self, images: Images) -> Images:
        """Blur each image."""
        return gaussian_blur(images, self.size, usual_sigma(self.size) if self.sigma is None else self.sigma)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Unsharp(Deterministic):
    """Unsharp masking: what a Gaussian blur takes away is added instead, and the result cut off at the pixel range.

    Attributes:
      size: taps of the blur along each axis, an odd number.
      sigma: standard deviation of the blur in pixels.
      amount: 0 changes nothing, 1 doubles the details.
    """

    size: int = dataclasses.field(default=5, metadata={"static": True})
    sigma: Number = 1.0
    amount: Number = 1.0
    presets = (3, 5, 7, 9, 11)

    def purify(self, images: Images) -> Images:
        """Sharpen each image."""
        return clip_unit(images + self.amount * (images - gaussian_blur(images, self.size, self.sigma)))


def usual_sigma(size: int) -> float:
    """The standard deviation that OpenCV and torchvision take for a number of taps."""
    return 0.3 * ((size - 1) * 0.5 - 1) + 0.8


def gaussian_blur(images: Images, size: int, sigma: Number) -> Images:
    """Separable Gaussian blur; the border is mirrored, its own pixel not repeated.

    Args:
      images: the images.
      size: taps along each axis, an odd number.
      sigma: standard deviation in pixels.
    """
    taps = _taps(size, sigma)
    return correlate(correlate(images, taps, 1), taps, 2)


def _taps(size: int, sigma: Number) -> Float[Array, " {size}"]:
    offsets = np.arange(size) - size // 2
    taps = jnp.exp(-0.5 * (offsets / sigma) ** 2)
    return taps / jnp.sum(taps)
