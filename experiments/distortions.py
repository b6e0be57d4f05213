"""Distorted copies of photographs, and their quality labels.

Five kinds of distortion at four levels each, from just visible to severe. They make a labelled data set out of
any pristine photographs, with no download: see `labelled_set`.
"""

import io
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import UInt8
from PIL import Image

from nriqa_jax.metrics.fidelity import ms_ssim
from nriqa_jax.parallel import call

Pixels = UInt8[np.ndarray, "height width 3"]

_TOGETHER = 21  # images that are compared at a time


def to_pixels(values: np.ndarray) -> Pixels:
    """Grey levels as 8-bit numbers: rounded, and cut to their range."""
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def gaussian_blur(pixels: Pixels, sigma: float) -> Pixels:
    """Gaussian blur; ``sigma`` in pixels."""
    return to_pixels(scipy.ndimage.gaussian_filter(pixels.astype(np.float64), (sigma, sigma, 0)))


def white_noise(pixels: Pixels, sigma: float) -> Pixels:
    """Additive Gaussian noise; ``sigma`` in grey levels. The noise is a function of the image alone."""
    rng = np.random.default_rng(zlib.crc32(pixels.tobytes()))
    return to_pixels(pixels + rng.normal(0.0, sigma, pixels.shape))


def jpeg(pixels: Pixels, quality: float) -> Pixels:
    """JPEG compression; ``quality`` as Pillow counts it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=int(quality))
    return np.asarray(Image.open(buffer).convert("RGB"))


def dim(pixels: Pixels, contrast: float) -> Pixels:
    """Lower contrast around a dark grey: brightness falls with it."""
    return to_pixels(pixels * contrast + 64.0 * (1.0 - contrast))


def quantise_colours(pixels: Pixels, levels: float) -> Pixels:
    """Keep ``levels`` evenly spaced values per channel, without dithering."""
    step = 255.0 / (levels - 1)
    return to_pixels(np.round(pixels / step) * step)


class Distortion(NamedTuple):
    """A distortion and its levels, mildest first."""

    apply: Callable[[Pixels, float], Pixels]
    levels: tuple[float, ...]


DISTORTIONS: Mapping[str, Distortion] = {
    "blur": Distortion(gaussian_blur, (0.8, 1.5, 2.5, 4.0)),
    "noise": Distortion(white_noise, (8.0, 18.0, 35.0, 60.0)),
    "jpeg": Distortion(jpeg, (50.0, 20.0, 10.0, 5.0)),
    "contrast": Distortion(dim, (0.7, 0.5, 0.3, 0.15)),
    "colours": Distortion(quantise_colours, (12.0, 7.0, 4.0, 3.0)),
}


def labelled_set(
    pristine: Mapping[str, Pixels], distortions: Mapping[str, Distortion] = DISTORTIONS
) -> dict[str, tuple[Pixels, float]]:
    """Each photograph and its distorted copies, 20 of them by default, as ``name -> (pixels, label)``.

    Labels are in [0, 100]: 100 (1 - sqrt(1 - MS-SSIM)) to the pristine photograph. The root spreads the mild
    distortions, whose MS-SSIM crowds near one, and leaves ranks as they are.
    """
    copies: dict[str, tuple[Pixels, float]] = {}
    for name, pixels in pristine.items():
        variants = {f"{name}_pristine": pixels}
        for kind, (apply, levels) in distortions.items():
            variants |= {f"{name}_{kind}{level}": apply(pixels, value) for level, value in enumerate(levels, 1)}
        labels = quality_labels(np.stack(list(variants.values())), pixels)
        copies |= {key: (variants[key], float(label)) for key, label in zip(variants, labels)}
    return copies


def quality_labels(distorted: UInt8[np.ndarray, "n height width 3"], pristine: Pixels) -> np.ndarray:
    """Labels of distorted copies of one photograph."""
    parts = (distorted[start : start + _TOGETHER] for start in range(0, len(distorted), _TOGETHER))
    loss = 1.0 - np.concatenate([_similarity(part, pristine) for part in parts])
    return 100.0 * (1.0 - np.sqrt(np.clip(loss, 0.0, 1.0)))


def _similarity(distorted: UInt8[np.ndarray, "n height width 3"], pristine: Pixels) -> np.ndarray:
    images = jnp.asarray(distorted, jnp.float32) / 255.0
    reference = jnp.broadcast_to(jnp.asarray(pristine, jnp.float32) / 255.0, images.shape)
    return np.asarray(call(ms_ssim, images, reference), np.float64)
