"""Wavelet shrinkage."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nriqa_jax.defenses.purifier import Deterministic, Number
from nriqa_jax.types import Images
from nriqa_jax.windows import repeat_last

Planes = Float[Array, "batch channels height width"]
Band = Float[Array, "batch channels half_height half_width"]
Bands = tuple[Band, Band, Band, Band]

_FLOOR = float(jnp.finfo(jnp.float32).eps)  # of the variance of a signal


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WaveletShrinkage(Deterministic):
    """Haar wavelets, softly thresholded by BayesShrink (Chang, Yu & Vetterli, IEEE Trans. Image Process., 2000).

    Each band of each channel has the threshold ``sigma^2 / std of the signal in the band``. As scikit-image's
    ``denoise_wavelet`` in RGB; pixel deflection (Prakash et al., CVPR 2018) ends with it, at a sigma of 0.04.

    Attributes:
      sigma: standard deviation of the noise that is to go, in units of the pixel range.
      levels: number of times that the means are divided further; by default all but the three coarsest.
    """

    sigma: Number = 0.04
    levels: int | None = dataclasses.field(default=None, metadata={"static": True})
    presets = (0.01, 0.02, 0.04, 0.08, 0.16)

    def purify(self, images: Images) -> Images:
        """Shrink the details of each image."""
        shortest = min(images.shape[1:3])
        levels = max(shortest.bit_length() - 1 - 3, 1) if self.levels is None else self.levels
        return jnp.moveaxis(self._shrink(jnp.moveaxis(images, 3, 1), levels), 1, 3)

    def _shrink(self, planes: Planes, levels: int) -> Planes:
        if levels == 0:
            return planes
        means, *details = haar(planes)
        first, second, third = (bayes_shrink(band, self.sigma) for band in details)
        height, width = planes.shape[2:]
        return inverse_haar((self._shrink(means, levels - 1), first, second, third))[:, :, :height, :width]


def haar(planes: Planes) -> Bands:
    """One level of the orthonormal Haar transform: means, and horizontal, vertical and diagonal details.

    The last row or column of an odd size is repeated.
    """
    height, width = planes.shape[2:]
    planes = repeat_last(repeat_last(planes, 2, height % 2), 3, width % 2)
    top, bottom = planes[:, :, ::2], planes[:, :, 1::2]
    low, high = top + bottom, top - bottom
    (a, b), (c, d) = ((part[..., ::2], part[..., 1::2]) for part in (low, high))
    return (a + b) / 2, (a - b) / 2, (c + d) / 2, (c - d) / 2


def inverse_haar(bands: Bands) -> Planes:
    """The inverse of `haar`, of even height and width."""
    means, horizontal, vertical, diagonal = bands
    low = _interleaved(means + horizontal, means - horizontal, 3)
    high = _interleaved(vertical + diagonal, vertical - diagonal, 3)
    return _interleaved((low + high) / 2, (low - high) / 2, 2)


def bayes_shrink(band: Band, sigma: Number) -> Band:
    """Soft thresholding of a band of details, with a threshold for each image and channel."""
    variance = sigma**2
    power = jnp.mean(band**2, axis=(2, 3), keepdims=True)
    threshold = variance / jnp.sqrt(jnp.maximum(power - variance, _FLOOR))
    return band - jnp.clip(band, -threshold, threshold)


def _interleaved(even: Array, odd: Array, axis: int) -> Array:
    """Entries of both in turn along an axis."""
    shape = list(even.shape)
    shape[axis] *= 2
    return jnp.stack([even, odd], axis=axis + 1).reshape(shape)
