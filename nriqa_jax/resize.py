"""Resizing as other libraries do it; each function is named after what it matches. All are differentiable."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nriqa_jax.image import straight_through

Pictures = Float[Array, "batch h w channels"]
Resized = Float[Array, "batch h2 w2 channels"]
Matrix = Float[np.ndarray, "out length"]

_PIL_BITS = 22  # of the fixed-point weights in Pillow
_LEVEL_SLACK = 2.0**-12  # by which an 8-bit level is off at most after a division and a product by 255


def resize_torch(images: Pictures, height: int, width: int, *, antialias: bool = False) -> Resized:
    """Bilinear, as ``torch.nn.functional.interpolate(size=..., align_corners=False, antialias=antialias)``."""
    shape = (images.shape[0], height, width, images.shape[-1])
    return jax.image.resize(images, shape, "linear", antialias=antialias)


def scale_torch(images: Pictures, scale: float) -> Resized:
    """Bilinear, as ``torch.nn.functional.interpolate(scale_factor=scale)``.

    Coordinates follow the given scale and not the ratio of the sizes, which are rounded down.
    """
    shape = (images.shape[0], int(images.shape[1] * scale), int(images.shape[2] * scale), images.shape[-1])
    factors = jnp.full(2, scale, images.dtype)
    return jax.image.scale_and_translate(images, shape, (1, 2), factors, jnp.zeros(2), "linear", antialias=False)


def resize_corners(images: Pictures, height: int, width: int) -> Resized:
    """Bilinear, as ``torch.nn.functional.interpolate(align_corners=True)``: corner pixels stay where they are."""
    return _separable(images, corner_matrix(images.shape[1], height), corner_matrix(images.shape[2], width))


def resize_cubic(images: Pictures, height: int, width: int) -> Resized:
    """Bicubic without antialias, as ``interpolate(mode="bicubic")`` of PyTorch and ``INTER_CUBIC`` of OpenCV."""
    return _separable(images, cubic_matrix(images.shape[1], height), cubic_matrix(images.shape[2], width))


def resize_pil(images: Pictures, height: int, width: int) -> Resized:
    """Bilinear with antialias and rounding to 8 bits after each axis, as ``PIL.Image.resize``.

    Equal to Pillow on 8-bit images. The gradient is that of the resizing without rounding.
    """
    for axis, size in ((2, width), (1, height)):  # the order of Pillow
        if images.shape[axis] != size:
            matrix = pil_matrix(images.shape[axis], size)
            smooth = _along(images, axis, matrix)
            images = straight_through(_pil_levels(images * 255.0, axis, matrix) / 255.0, smooth)
    return images


def _pil_levels(levels: Pictures, axis: int, matrix: Matrix) -> Resized:
    """Nearest integers of the products; exact for integer levels, because each half of a weight has 11 bits."""
    nearest = jnp.round(levels)
    levels = jnp.where(jnp.abs(levels - nearest) < _LEVEL_SLACK, nearest, levels)
    half = 2.0 ** (_PIL_BITS // 2)
    coarse = np.floor(matrix * half)
    upper, lower = (_along(levels, axis, part) for part in (coarse, (matrix * half - coarse) * half))
    whole = jnp.floor(upper / half)
    rest = (upper - whole * half + lower / half) / half
    return jnp.clip(whole + jnp.floor(rest + 0.5), 0.0, 255.0)


def _along(images: Pictures, axis: int, matrix: Matrix) -> Float[Array, "batch _ _ channels"]:
    """Products with a matrix along an axis."""
    product = jnp.tensordot(images, matrix.astype(images.dtype), (axis, 1), precision="highest")
    return jnp.moveaxis(product, -1, axis)


def short_side(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width after the short side was resized to ``size``, as torchvision's ``Resize(size)`` computes it."""
    if height <= width:
        return size, int(size * width / height)
    return int(size * height / width), size


def corner_matrix(length: int, size: int) -> Matrix:
    """Linear interpolation whose first and last points are those of the input."""
    position = np.arange(size) * (length - 1) / max(size - 1, 1)
    return _hat(position[:, None] - np.arange(length))


def cubic_matrix(length: int, size: int, sharpness: float = -0.75) -> Matrix:
    """Cubic convolution of half-pixel centres; taps outside of the input read its border."""
    position = (np.arange(size) + 0.5) * length / size - 0.5
    first = np.floor(position).astype(int) - 1
    matrix = np.zeros((size, length))
    for tap in range(4):
        weight = _cubic(np.abs(position - first - tap), sharpness)
        np.add.at(matrix, (np.arange(size), np.clip(first + tap, 0, length - 1)), weight)
    return matrix


def pil_matrix(length: int, size: int) -> Matrix:
    """The weights of Pillow's bilinear filter, in its fixed-point precision."""
    scale = length / size
    support = max(scale, 1.0)
    centre = (np.arange(size)[:, None] + 0.5) * scale
    pixel = np.arange(length)
    inside = (pixel >= np.floor(centre - support + 0.5)) & (pixel < np.floor(centre + support + 0.5))
    weight = np.where(inside, _hat((pixel + 0.5 - centre) / support), 0.0)
    weight /= weight.sum(axis=1, keepdims=True)
    return np.round(weight * 2**_PIL_BITS) / 2**_PIL_BITS


def _hat(distance: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    return np.maximum(0.0, 1.0 - np.abs(distance))


def _cubic(t: Float[np.ndarray, "*n"], a: float) -> Float[np.ndarray, "*n"]:
    """The cubic convolution kernel at distances ``t >= 0``."""
    near = ((a + 2) * t - (a + 3)) * t**2 + 1
    far = a * (((t - 5) * t + 8) * t - 4)
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def _separable(images: Pictures, rows: Float[np.ndarray, "h2 h"], columns: Float[np.ndarray, "w2 w"]) -> Resized:
    return _along(_along(images, 1, rows), 2, columns)
