"""The 25 kinds of distortion of KADID-10k (Lin, Hosu and Saupe, QoMEX 2019) at five levels, for any photographs.

Kinds and, where they are severities, levels are the published ones (MATLAB); the operations are those of scipy, Pillow
and scikit-image, so pixels differ. Where a published level changes nothing or goes both ways, ours grow: a higher level
is always a stronger distortion. Whatever is random is a function of the photograph and the kind alone. Sizes of patches
are shares of the shorter side, since KADID's photographs are 512x384.
"""

import io
import zlib
from collections.abc import Mapping

import numpy as np
import scipy
from jaxtyping import Float
from PIL import Image, ImageFilter

from experiments.distortions import Distortion, Pixels, gaussian_blur, jpeg, quantise_colours, to_pixels

Colours = Float[np.ndarray, "height width 3"]


def _rng(pixels: Pixels, kind: str) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(pixels.tobytes()), zlib.crc32(kind.encode())])


def _filtered(pixels: Pixels, kernel: Float[np.ndarray, "rows columns"]) -> Pixels:
    """Convolve each channel with a kernel of sum one."""
    return to_pixels(
        scipy.ndimage.convolve(pixels.astype(np.float64), (kernel / kernel.sum())[:, :, None], mode="nearest")
    )


def _to_lab(pixels: Pixels) -> Colours:
    from skimage import color  # only here: nothing else needs scikit-image

    return color.rgb2lab(pixels)


def _from_lab(lab: Colours) -> Pixels:
    import warnings

    from skimage import color

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*negative Z", category=UserWarning)  # colours outside RGB are cut
        return to_pixels(255.0 * color.lab2rgb(lab))


def lens_blur(pixels: Pixels, radius: float) -> Pixels:
    """Mean over a disk; ``radius`` in pixels."""
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return _filtered(pixels, (x**2 + y**2 <= radius**2).astype(np.float64))


def motion_blur(pixels: Pixels, radius: float) -> Pixels:
    """Mean along a line of ``2 radius + 1`` pixels, in a random direction."""
    line = np.zeros((int(2 * radius) + 1,) * 2)
    line[int(radius)] = 1.0
    angle = _rng(pixels, "motion").uniform(0.0, 180.0)
    return _filtered(pixels, np.clip(scipy.ndimage.rotate(line, angle, reshape=False, order=1), 0.0, None))


def colour_diffusion(pixels: Pixels, amount: float) -> Pixels:
    """Gaussian blur of the colours alone, in Lab; its sigma is ``1.5 amount + 2`` pixels."""
    lab = _to_lab(pixels)
    lab[:, :, 1:] = scipy.ndimage.gaussian_filter(lab[:, :, 1:], (1.5 * amount + 2.0,) * 2 + (0.0,))
    return _from_lab(lab)


def colour_shift(pixels: Pixels, amount: float) -> Pixels:
    """The green channel moved by ``amount`` pixels in a random direction, where the picture has edges."""
    angle = _rng(pixels, "shift").uniform(0.0, 2.0 * np.pi)
    values = pixels.astype(np.float64)
    edges = scipy.ndimage.gaussian_gradient_magnitude(values.mean(axis=2), 2.0)
    weight = np.clip(edges / max(np.percentile(edges, 95), 1e-9), 0.0, 1.0)
    moved = scipy.ndimage.shift(
        values[:, :, 1], (amount * np.sin(angle), amount * np.cos(angle)), order=1, mode="nearest"
    )
    values[:, :, 1] += weight * (moved - values[:, :, 1])
    return to_pixels(values)


def colour_quantisation(pixels: Pixels, colours: float) -> Pixels:
    """A palette of the best ``colours`` for the picture, dithered."""
    picture = Image.fromarray(pixels).quantize(int(colours), dither=Image.Dither.FLOYDSTEINBERG)
    return np.asarray(picture.convert("RGB"))


def saturation_hsv(pixels: Pixels, factor: float) -> Pixels:
    """Saturation in HSV times ``factor``; below zero, colours are those opposite."""
    values = pixels.astype(np.float64)
    value = values.max(axis=2, keepdims=True)
    return to_pixels(value + factor * (values - value))


def saturation_lab(pixels: Pixels, factor: float) -> Pixels:
    """Colours in Lab times ``factor``."""
    return _from_lab(_to_lab(pixels) * (1.0, factor, factor))


def jpeg2000(pixels: Pixels, ratio: float) -> Pixels:
    """JPEG 2000 compression to one in ``ratio`` bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG2000", quality_mode="rates", quality_layers=[ratio], irreversible=True)
    return np.asarray(Image.open(buffer).convert("RGB"))


def white_noise(pixels: Pixels, variance: float) -> Pixels:
    """Additive Gaussian noise in RGB; ``variance`` for values in [0, 1]."""
    return to_pixels(pixels + 255.0 * np.sqrt(variance) * _rng(pixels, "white").normal(size=pixels.shape))


def white_noise_of_colours(pixels: Pixels, variance: float) -> Pixels:
    """Additive Gaussian noise in YCbCr; ``variance`` for values in [0, 1]."""
    noise = 255.0 * np.sqrt(variance) * _rng(pixels, "colours").normal(size=pixels.shape)
    noisy = to_pixels(np.asarray(Image.fromarray(pixels).convert("YCbCr")) + noise)
    return np.asarray(Image.fromarray(noisy, "YCbCr").convert("RGB"))


def impulse_noise(pixels: Pixels, density: float) -> Pixels:
    """Salt and pepper: a share ``density`` of the values becomes black or white."""
    chance = _rng(pixels, "impulse").random(pixels.shape)
    return np.where(chance < density / 2, 0, np.where(chance > 1.0 - density / 2, 255, pixels)).astype(np.uint8)


def multiplicative_noise(pixels: Pixels, variance: float) -> Pixels:
    """Speckle: values times one plus Gaussian noise of a ``variance``."""
    return to_pixels(pixels * (1.0 + np.sqrt(variance) * _rng(pixels, "speckle").normal(size=pixels.shape)))


def denoised(pixels: Pixels, sigma: float) -> Pixels:
    """Gaussian noise of ``sigma``, for values in [0, 1], and what Wiener's adaptive filter leaves (KADID: a DnCNN)."""
    noisy = pixels + 255.0 * sigma * _rng(pixels, "denoise").normal(size=pixels.shape)
    channels = [scipy.signal.wiener(channel, 5, (255.0 * sigma) ** 2) for channel in np.moveaxis(noisy, 2, 0)]
    return to_pixels(np.stack(channels, axis=2))


def brighten(pixels: Pixels, amount: float) -> Pixels:
    """Lightness in Lab along a concave curve that keeps black and white: a power of ``1 / (1 + amount)``."""
    return _with_lightness(pixels, 1.0 / (1.0 + amount))


def darken(pixels: Pixels, amount: float) -> Pixels:
    """Lightness in Lab along a convex curve that keeps black and white: a power of ``1 + amount``."""
    return _with_lightness(pixels, 1.0 + amount)


def _with_lightness(pixels: Pixels, power: float) -> Pixels:
    lab = _to_lab(pixels)
    lab[:, :, 0] = 100.0 * (np.clip(lab[:, :, 0], 0.0, 100.0) / 100.0) ** power
    return _from_lab(lab)


def mean_shift(pixels: Pixels, amount: float) -> Pixels:
    """All values moved by ``amount`` of their range, up or down."""
    return to_pixels(pixels + 255.0 * amount * _rng(pixels, "mean").choice((-1.0, 1.0)))


def jitter(pixels: Pixels, amount: float) -> Pixels:
    """Pixels taken from random places nearby; ``amount`` is the standard deviation, in pixels."""
    grid = np.indices(pixels.shape[:2]).astype(np.float64)
    places = grid + amount * _rng(pixels, "jitter").normal(size=grid.shape)
    channels = [
        scipy.ndimage.map_coordinates(channel, places, order=1, mode="reflect") for channel in _channels(pixels)
    ]
    return to_pixels(np.stack(channels, axis=2))


def _channels(pixels: Pixels) -> list[np.ndarray]:
    return list(np.moveaxis(pixels.astype(np.float64), 2, 0))


def displaced_patches(pixels: Pixels, count: float) -> Pixels:
    """``count`` patches copied to places nearby (non-eccentricity patches)."""
    rng, changed = _rng(pixels, "patches"), pixels.copy()
    side = max(1, min(pixels.shape[:2]) // 24)
    room = np.array(pixels.shape[:2]) - side
    for _ in range(int(count)):
        start = rng.integers(0, room + 1)
        end = np.clip(start + rng.integers(-2 * side, 2 * side + 1, 2), 0, room)
        (y, x), (v, u) = start, end
        changed[v : v + side, u : u + side] = pixels[y : y + side, x : x + side]
    return changed


def pixelate(pixels: Pixels, amount: float) -> Pixels:
    """Fewer, larger pixels: the picture at ``0.95 - amount ** 0.6`` of its size and back, without interpolation."""
    height, width = pixels.shape[:2]
    scale = 0.95 - amount**0.6
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)
    return np.asarray(small.resize((width, height), Image.Resampling.NEAREST))


def colour_blocks(pixels: Pixels, count: float) -> Pixels:
    """``count`` squares of random colours at random places."""
    rng, changed = _rng(pixels, "blocks"), pixels.copy()
    side = max(1, min(pixels.shape[:2]) // 12)
    for _ in range(int(count)):
        y, x = rng.integers(0, np.array(pixels.shape[:2]) - side + 1)
        changed[y : y + side, x : x + side] = rng.integers(0, 256, 3)
    return changed


def sharpen(pixels: Pixels, amount: float) -> Pixels:
    """Unsharp masking, far too strong."""
    mask = ImageFilter.UnsharpMask(radius=3, percent=int(100 * amount), threshold=0)
    return np.asarray(Image.fromarray(pixels).filter(mask))


def lower_contrast(pixels: Pixels, amount: float) -> Pixels:
    """All values closer to mid-grey, by a share ``amount`` of their distance."""
    return to_pixels(127.5 + (1.0 - amount) * (pixels - 127.5))


KADID: Mapping[str, Distortion] = {
    "01_gaussian_blur": Distortion(gaussian_blur, (0.4, 0.7, 1.0, 2.0, 5.0)),
    "02_lens_blur": Distortion(lens_blur, (1.0, 2.0, 4.0, 6.0, 8.0)),
    "03_motion_blur": Distortion(motion_blur, (1.0, 2.0, 4.0, 6.0, 10.0)),
    "04_colour_diffusion": Distortion(colour_diffusion, (1.0, 3.0, 6.0, 8.0, 12.0)),
    "05_colour_shift": Distortion(colour_shift, (1.0, 3.0, 6.0, 8.0, 12.0)),
    "06_colour_quantisation": Distortion(colour_quantisation, (64.0, 48.0, 32.0, 16.0, 8.0)),
    "07_saturation_hsv": Distortion(saturation_hsv, (0.4, 0.2, 0.1, 0.0, -0.4)),
    "08_saturation_lab": Distortion(saturation_lab, (1.5, 2.0, 3.0, 6.0, 9.0)),
    "09_jpeg2000": Distortion(jpeg2000, (16.0, 32.0, 45.0, 120.0, 400.0)),
    "10_jpeg": Distortion(jpeg, (43.0, 36.0, 24.0, 7.0, 4.0)),
    "11_white_noise": Distortion(white_noise, (0.001, 0.002, 0.003, 0.005, 0.01)),
    "12_white_noise_of_colours": Distortion(white_noise_of_colours, (0.0001, 0.0005, 0.001, 0.002, 0.003)),
    "13_impulse_noise": Distortion(impulse_noise, (0.001, 0.005, 0.01, 0.02, 0.03)),
    "14_multiplicative_noise": Distortion(multiplicative_noise, (0.001, 0.005, 0.01, 0.02, 0.05)),
    "15_denoised": Distortion(denoised, (0.01, 0.03, 0.05, 0.1, 0.15)),
    "16_brighten": Distortion(brighten, (0.1, 0.2, 0.4, 0.7, 1.1)),
    "17_darken": Distortion(darken, (0.05, 0.1, 0.2, 0.4, 0.8)),
    "18_mean_shift": Distortion(mean_shift, (0.03, 0.06, 0.1, 0.15, 0.2)),
    "19_jitter": Distortion(jitter, (0.2, 0.4, 0.8, 1.5, 2.5)),
    "20_displaced_patches": Distortion(displaced_patches, (20.0, 40.0, 60.0, 80.0, 100.0)),
    "21_pixelate": Distortion(pixelate, (0.01, 0.05, 0.1, 0.2, 0.5)),
    "22_quantisation": Distortion(quantise_colours, (20.0, 16.0, 13.0, 10.0, 7.0)),
    "23_colour_blocks": Distortion(colour_blocks, (2.0, 4.0, 6.0, 8.0, 10.0)),
    "24_sharpen": Distortion(sharpen, (1.0, 2.0, 3.0, 6.0, 12.0)),
    "25_lower_contrast": Distortion(lower_contrast, (0.15, 0.3, 0.45, 0.6, 0.75)),
}
