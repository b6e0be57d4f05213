"""JPEG as a differentiable function: as published, and as a codec's files come out. Both subsample chroma by 2x2."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from nriqa_jax.defenses import jpeg_colour as colour
from nriqa_jax.defenses.jpeg_colour import Planes, whole
from nriqa_jax.defenses.purifier import Deterministic, Gradient
from nriqa_jax.image import clip_unit, straight_through
from nriqa_jax.types import Images
from nriqa_jax.windows import repeat_last

Quality = int | Int[Array, ""]
Coefficients = Float[Array, "blocks 64"]
Table = Float[Array, " 64"]

# ITU-T T.81, Annex K.
_LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMA = np.full((8, 8), 99)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

_MCU = 16  # side of the smallest part of an image that is coded by itself


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DiffJpeg(Deterministic):
    """Differentiable JPEG of the published benchmark: nothing is rounded but the coefficients.

    Their rounding counts as a cubic, whose derivative is 0 at whole numbers and 3/4 half-way between them; a value that
    is cut off has a derivative of 0.001 (Diff-JPEG, Reich et al., WACV 2024, as in the MSU benchmark).

    Attributes:
      quality: 1 to 99, as of libjpeg.
      full_padding: mirror 16 more rows or columns where none are missing for whole blocks, as published; only pixels at
        the border tell.
    """

    quality: Quality = 50
    full_padding: bool = dataclasses.field(default=True, metadata={"static": True})
    presets = (10, 30, 50, 70, 90)
    limits = (1, 99)
    gradient = Gradient.SURROGATE

    def purify(self, images: Images) -> Images:
        """Compress and decompress each image."""
        _, height, width, _ = images.shape
        missing = [_MCU - side % _MCU if self.full_padding else -side % _MCU for side in (height, width)]
        border = [(0, 0), *((0, more) for more in missing), (0, 0)]
        luma, chroma = colour.to_ycc(jnp.pad(images * 255.0, border, mode="reflect"))
        luma_table, chroma_table = tables(self.quality)
        luma = _coded(luma, luma_table, _cubic_levels)
        chroma = colour.double(_coded(colour.halve(chroma), chroma_table, _cubic_levels))
        return _leaky_clip(colour.to_rgb(luma, chroma)[:, :height, :width]) / 255.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ExactJpeg(Deterministic):
    """JPEG as libjpeg encodes and decodes it: whole numbers at every step, and smooth upsampling of chroma.

    Nearly all values are those that Pillow reads from its own file. The gradient is that of the smooth steps without
    any rounding, the straight-through estimate.

    Attributes:
      quality: 1 to 100, as of libjpeg.
    """

    quality: Quality = 50
    presets = DiffJpeg.presets
    limits = (1, 100)
    gradient = Gradient.SURROGATE

    def purify(self, images: Images) -> Images:
        """Compress and decompress each image."""
        _, height, width, _ = images.shape
        luma, chroma = colour.to_whole_ycc(whole(images * 255.0 + 0.5))
        luma_table, chroma_table = tables(self.quality)
        luma = _coded_whole(luma, luma_table)[:, :height, :width]
        small = colour.halve_whole(_repeated(chroma, 2, _MCU))
        small = _coded_whole(small, chroma_table)[:, : -(-height // 2), : -(-width // 2)]
        chroma = colour.double_whole(small)[:, :height, :width]
        return clip_unit(colour.to_whole_rgb(luma, chroma) / 255.0)


def tables(quality: Quality) -> tuple[Table, Table]:
    """Quantisation steps of luma and chroma at a quality, by the integer formula of libjpeg."""
    scale = jnp.where(jnp.asarray(quality) < 50, 5000 // quality, 200 - 2 * quality)
    luma, chroma = (jnp.clip((basis.ravel() * scale + 50) // 100, 1, 255) for basis in (_LUMA, _CHROMA))
    return luma.astype(jnp.float32), chroma.astype(jnp.float32)


def _dct() -> Float[np.ndarray, "64 64"]:
    """The orthonormal DCT of 8x8 pixels, as a matrix on all 64 of them."""
    frequency, place = np.mgrid[:8, :8]
    one = np.cos((2 * place + 1) * frequency * np.pi / 16) * np.where(frequency == 0, np.sqrt(1 / 8), 0.5)
    return np.kron(one, one)


_DCT = _dct().astype(np.float32)


def _coded(planes: Planes, table: Table, levels: Callable[[Coefficients, Table], Coefficients]) -> Planes:
    """Planes of whole blocks after the quantisation of their coefficients."""
    count, height, width = planes.shape
    blocks = planes.reshape(count, height // 8, 8, width // 8, 8).transpose(0, 1, 3, 2, 4)
    coefficients = jnp.matmul(blocks.reshape(-1, 64) - 128.0, _DCT.T, precision="highest")
    restored = jnp.matmul(levels(coefficients, table) * table, _DCT, precision="highest") + 128.0
    return restored.reshape(blocks.shape).transpose(0, 1, 3, 2, 4).reshape(planes.shape)


def _coded_whole(planes: Planes, table: Table) -> Planes:
    """The same of planes of whole numbers, whose last rows and columns are repeated up to whole blocks."""
    decoded = _coded(_repeated(planes, 8, 8), table, _libjpeg_levels)
    return straight_through(jnp.clip(jnp.floor(decoded + 0.5), 0.0, 255.0), decoded)


def _cubic_levels(coefficients: Coefficients, table: Table) -> Coefficients:
    """Nearest levels, with the derivative of a cubic."""
    scaled = coefficients / table
    nearest = jax.lax.stop_gradient(jnp.round(scaled))
    return straight_through(nearest, nearest + (scaled - nearest) ** 3)


def _libjpeg_levels(coefficients: Coefficients, table: Table) -> Coefficients:
    """Nearest levels, half-way ones away from zero, of coefficients in eighths; straight-through."""
    eighths = jnp.floor(8.0 * coefficients + 0.5)
    nearest = jnp.sign(eighths) * jnp.floor((jnp.abs(eighths) + 4.0 * table) / (8.0 * table))
    return straight_through(nearest, coefficients / table)


def _leaky_clip(levels: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Cut off at 0 and 255, with a derivative of 0.001 outside."""
    kept = jax.lax.stop_gradient(jnp.clip(levels, 0.0, 255.0))
    return straight_through(kept, jnp.where(kept == levels, levels, kept + 0.001 * (levels - kept)))


def _repeated(planes: Planes, rows: int, columns: int) -> Planes:
    """Planes whose last row and column are repeated up to multiples of some numbers."""
    _, height, width = planes.shape
    return repeat_last(repeat_last(planes, 1, -height % rows), 2, -width % columns)
