"""Colours in JPEG: luma and chroma (ITU-R BT.601, full range), and chroma at half the size and back.

Levels are 0 to 255. Chroma planes are Cb and Cr of the first image, then those of the next, so that images stay on
their devices. The functions in whole numbers do what libjpeg does; all their products and sums stay below 2^24, and so
are exact in float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nriqa_jax.image import straight_through
from nriqa_jax.types import Images
from nriqa_jax.windows import split

Planes = Float[Array, "_ _ _"]

_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_RGB = np.linalg.inv(_YCC)

# The same out of 65536, by libjpeg, which rounds chroma half down.
_WHOLE_YCC = ((19595.0, 38470.0, 7471.0), (-11059.0, -21709.0, 32768.0), (32768.0, -27439.0, -5329.0))
_RED, _GREEN, _BLUE = 91881.0, (-22554.0, -46802.0), 116130.0
_ONE, _HALF = 65536.0, 32768.0

# Weights of a Gaussian of sigma 1/2 and three taps, and then of means of two pixels.
_SIDE = 0.5 / (2.0 + np.exp(2.0))
_CENTRE = 0.5 - _SIDE


def whole(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Whole numbers, rounded down, with the derivative of what they are of."""
    return straight_through(jnp.floor(x), x)


def to_ycc(levels: Images) -> tuple[Planes, Planes]:
    """Luma, and chroma around 128."""
    channels = split(levels, -1)
    luma, blue, red = (_weighted(weights, channels) for weights in _YCC.tolist())
    return luma, _joined(blue, red) + 128.0


def to_rgb(luma: Planes, chroma: Planes) -> Images:
    """The inverse of `to_ycc`."""
    blue, red = _parted(chroma - 128.0)
    return jnp.stack([_weighted(weights, (luma, blue, red)) for weights in _RGB.tolist()], axis=-1)


def to_whole_ycc(levels: Images) -> tuple[Planes, Planes]:
    """Luma and chroma in whole numbers."""
    channels = split(levels, -1)
    luma, blue, red = (_weighted(weights, channels) for weights in _WHOLE_YCC)
    chroma = _joined(blue, red) + 128.0 * _ONE
    return whole((luma + _HALF) / _ONE), whole((chroma + (_HALF - 1.0)) / _ONE)


def to_whole_rgb(luma: Planes, chroma: Planes) -> Images:
    """Red, green and blue in whole numbers, not cut off yet."""
    blue, red = _parted(chroma - 128.0)
    shares = (_RED * red, _weighted(_GREEN, (blue, red)), _BLUE * blue)
    return jnp.stack([luma + whole((share + _HALF) / _ONE) for share in shares], axis=-1)


def halve(planes: Planes) -> Planes:
    """A light blur, and means of two by two pixels; the border is mirrored without its own pixel."""
    for axis in (1, 2):
        even, odd = _pairs(planes, axis)
        before, after = _before(odd, axis), _after(even, axis)
        planes = _CENTRE * (even + odd) + _SIDE * (before + after)
    return planes


def double(planes: Planes) -> Planes:
    """Bilinear interpolation; beyond the border is what lies at the border."""
    for axis in (1, 2):
        planes = _interleaved(*_towards_neighbours(planes, axis), axis) / 4.0
    return planes


def halve_whole(planes: Planes) -> Planes:
    """Means of two by two pixels, whose halves are rounded up and down in turn."""
    top, bottom = _pairs(planes, 1)
    left, right = _pairs(top + bottom, 2)
    sums = left + right
    return straight_through(jnp.floor((sums + 1.0 + np.arange(sums.shape[2]) % 2) / 4.0), sums / 4.0)


def double_whole(planes: Planes) -> Planes:
    """Bilinear interpolation in whole numbers: the "fancy upsampling" of libjpeg."""
    rows = _interleaved(*_towards_neighbours(planes, 1), 1)
    even, odd = _towards_neighbours(rows, 2)
    return _interleaved(whole((even + 8.0) / 16.0), whole((odd + 7.0) / 16.0), 2)


def _joined(blue: Planes, red: Planes) -> Planes:
    """Planes of both, image by image."""
    return jnp.stack([blue, red], axis=1).reshape(-1, *blue.shape[1:])


def _parted(chroma: Planes) -> list[Planes]:
    """The inverse of `_joined`."""
    return split(chroma.reshape(-1, 2, *chroma.shape[1:]), 1)


def _weighted(weights: tuple[float, ...] | list[float], planes: tuple[Planes, ...] | list[Planes]) -> Planes:
    first, *others = (weight * plane for weight, plane in zip(weights, planes))
    return sum(others, first)


def _pairs(planes: Planes, axis: int) -> list[Planes]:
    """Even and odd entries along an axis."""
    shape = planes.shape
    return split(planes.reshape(*shape[:axis], shape[axis] // 2, 2, *shape[axis + 1 :]), axis + 1)


def _interleaved(even: Planes, odd: Planes, axis: int) -> Planes:
    """Entries of both in turn along an axis."""
    shape = even.shape
    return jnp.stack([even, odd], axis + 1).reshape(*shape[:axis], 2 * shape[axis], *shape[axis + 1 :])


def _towards_neighbours(planes: Planes, axis: int) -> tuple[Planes, Planes]:
    """Four times the values a quarter of the way to the entries before and after."""
    return 3.0 * planes + _before(planes, axis), 3.0 * planes + _after(planes, axis)


def _before(planes: Planes, axis: int) -> Planes:
    """What lies before each entry along an axis; before the first lies its own."""
    first, rest = (jax.lax.slice_in_dim(planes, 0, end, axis=axis) for end in (1, planes.shape[axis] - 1))
    return jnp.concatenate([first, rest], axis)


def _after(planes: Planes, axis: int) -> Planes:
    """What lies after each entry along an axis; after the last lies its own."""
    rest, last = (jax.lax.slice_in_dim(planes, start, None, axis=axis) for start in (1, planes.shape[axis] - 1))
    return jnp.concatenate([rest, last], axis)
