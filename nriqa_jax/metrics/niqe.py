"""NIQE (Mittal, Soundararajan and Bovik, IEEE Signal Processing Letters 2013): how unnatural an image looks.

A measure without training on opinions: statistics of the blocks of an image are compared with those of sharp blocks of
good photographs (`Pristine`). It is used to score images and to choose budgets; its gradient is of no use, because
shapes of distributions are looked up in a table.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nriqa_jax.image import luma_8bit
from nriqa_jax.types import Images, Scores

BLOCK = 96
FEATURES = 36  # 18 at each of two scales
_SHARP = 0.75  # of the sharpest block of a photograph
_SINGULAR = 1e-12  # smallest variance of a model along any direction, by the largest
_SHAPES = np.linspace(0.2, 10.0, 9801)
_GAMMA_1, _GAMMA_2, _GAMMA_3 = (np.vectorize(math.gamma)(k / _SHAPES) for k in (1, 2, 3))
_RATIOS = _GAMMA_2**2 / (_GAMMA_1 * _GAMMA_3)
_WINDOW = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
_HALVING = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256  # cubic convolution (a = -1/2), stretched by 2
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))

Luma = Float[Array, "batch height width"]
Measured = Float[Array, "kinds batch blocks"]


class Pristine(NamedTuple):
    """The model of natural images: a Gaussian of the features of sharp blocks. `pristine_of` makes one.

    Attributes:
      mean: of each feature.
      covariance: of the features.
      whitening: matrix W for which ``W' covariance W`` is the identity, found in float64.
    """

    mean: Float[Array | np.ndarray, " 36"]
    covariance: Float[Array | np.ndarray, "36 36"]
    whitening: Float[Array | np.ndarray, "36 36"]


class Blocks(NamedTuple):
    """What is measured in the blocks of images.

    Attributes:
      features: of each block; 0 where it has none.
      textured: whether a block has features: a flat one has not.
      sharpness: mean local standard deviation of a block, in grey levels.
    """

    features: Float[Array, "batch blocks 36"]
    textured: Bool[Array, "batch blocks"]
    sharpness: Float[Array, "batch blocks"]


def niqe(images: Images, pristine: Pristine) -> Scores:
    """The distance of images to natural ones: about 2 to 5 for good photographs, more for worse images.

    As published: 8-bit luma, cut to whole 96x96 blocks from the top left, and an antialiased bicubic copy at half the
    size. Blocks without texture (saturated ones, say) are left out, where the published code takes in rounding errors;
    an image of nothing else is infinitely far. The distance is computed in coordinates in which the model's covariance
    is the identity, because float32 could not invert the mean of two covariances otherwise.

    Args:
      images: at least 96 pixels a side.
      pristine: the model of natural images.

    Raises:
      ValueError: the images are too small.
    """
    blocks = block_features(images)
    mean, whitening = (jnp.asarray(x, images.dtype) for x in (pristine.mean, pristine.whitening))
    weights = blocks.textured.astype(images.dtype)[..., None]
    count = jnp.maximum(jnp.sum(weights, axis=1), 1)
    white = jnp.matmul(blocks.features - mean, whitening, precision="highest") * weights
    centre = jnp.sum(white, axis=1) / count
    rest = (white - centre[:, None]) * weights
    own = jnp.einsum("bni,bnj->bij", rest, rest, precision="highest") / jnp.maximum(count - 1, 1)[..., None]
    both = (jnp.eye(FEATURES, dtype=images.dtype) + own) / 2
    distance = jnp.sqrt(jnp.sum(centre * _solved(both, centre), axis=1))
    return jnp.where(jnp.any(blocks.textured, axis=1), distance, jnp.inf)


def pristine_of(mean: Float[np.ndarray, " 36"], covariance: Float[np.ndarray, "36 36"]) -> Pristine:
    """The model with a mean and a covariance of features, on the host.

    Raises:
      ValueError: the numbers are not finite or the matrix is none of a distribution over all features.
    """
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all() and (np.diag(covariance) > 0).all()):
        raise ValueError("the covariance is none, or numbers are not finite")
    spread = np.sqrt(np.diag(covariance))
    values, vectors = np.linalg.eigh(covariance / np.outer(spread, spread))
    if values[0] < _SINGULAR * values[-1]:
        raise ValueError("the covariance is singular: it is that of too few blocks")
    return Pristine(mean, covariance, vectors / np.sqrt(values) / spread[:, None])


def fit_pristine(photographs: Iterable[Images]) -> Pristine:
    """Fit the model of natural images, on the host.

    Blocks count whose sharpness exceeds 0.75 of that of the sharpest block of their photograph.

    Args:
      photographs: batches of good photographs, at least 96 pixels a side; each batch may have its own size.

    Raises:
      ValueError: the sharp blocks are fewer than the features, so that they span no distribution.
    """
    measure, chosen = jax.jit(block_features), []
    for batch in photographs:
        blocks = jax.tree.map(np.asarray, measure(batch))
        sharp = blocks.sharpness > _SHARP * blocks.sharpness.max(axis=1, keepdims=True)
        chosen.append(blocks.features[sharp & blocks.textured].astype(np.float64))
    features = np.concatenate(chosen) if chosen else np.zeros((0, FEATURES))
    if len(features) <= FEATURES:
        raise ValueError(f"a model of natural images needs more than {FEATURES} sharp blocks, got {len(features)}")
    return pristine_of(features.mean(axis=0), np.cov(features, rowvar=False))


def _solved(matrices: Float[Array, "batch n n"], right: Float[Array, "batch n"]) -> Float[Array, "batch n"]:
    """Solutions of linear equations with positive definite matrices, which need no pivots.

    Not by LAPACK: its calls on several CPU devices of a process can wait for each other for ever.
    """

    def eliminate(k: Int[Array, ""], system: Array) -> Array:
        row = system[:, k] / system[:, k, k, None]
        return (system - system[:, :, k, None] * row[:, None]).at[:, k].set(row)

    system = jnp.concatenate([matrices, right[..., None]], axis=-1)
    return jax.lax.fori_loop(0, right.shape[1], eliminate, system)[..., -1]


def block_features(images: Images) -> Blocks:
    """Features of the whole 96x96 blocks of each image.

    Raises:
      ValueError: the images are smaller than a block.
    """
    height, width = images.shape[1:3]
    if min(height, width) < BLOCK:
        raise ValueError(f"niqe needs images of at least {BLOCK} pixels a side, got {height}x{width}")
    luma = 255.0 * luma_8bit(images)[:, : height // BLOCK * BLOCK, : width // BLOCK * BLOCK, 0]
    fine, deviation = _normalized(luma)
    coarse, _ = _normalized(_halved(luma))
    scales = [_features(_tiles(fine, BLOCK)), _features(_tiles(coarse, BLOCK // 2))]
    features = jnp.concatenate(scales, axis=-1)
    textured = jnp.all(jnp.isfinite(features), axis=-1)
    sharpness = jnp.mean(_tiles(deviation, BLOCK), axis=(2, 3))
    return Blocks(jnp.where(textured[..., None], features, 0), textured, sharpness)


def _normalized(luma: Luma) -> tuple[Luma, Luma]:
    """Luma minus its local mean, divided by its local deviation plus 1; and that deviation."""
    centred = luma - 128.0  # for precision of the squares
    mean = _smooth(centred)
    deviation = jnp.sqrt(jnp.abs(_smooth(centred**2) - mean**2))
    return (centred - mean) / (deviation + 1.0), deviation


def _smooth(x: Luma) -> Luma:
    """Gaussian 7x7 means, borders repeated. Summed as changes from the centre, so that flat areas stay exact."""
    weights = _WINDOW / _WINDOW.sum()
    for axis in (1, 2):
        length = x.shape[axis]
        padded = jnp.pad(x, [(3, 3) if i == axis else (0, 0) for i in range(3)], mode="edge")
        shifted = (jax.lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(7))
        x = x + sum(float(weight) * (y - x) for weight, y in zip(weights, shifted))
    return x


def _halved(x: Luma) -> Float[Array, "batch half_height half_width"]:
    """Half the size (of even sides), bicubic with antialias; borders mirrored, their pixels included."""
    for axis in (1, 2):
        length = x.shape[axis]
        padded = jnp.pad(x, [(3, 3) if i == axis else (0, 0) for i in range(3)], mode="symmetric")
        lanes = [jax.lax.slice_in_dim(padded, i, i + length - 1, 2, axis) for i in range(8)]
        x = jnp.tensordot(jnp.asarray(_HALVING, x.dtype), jnp.stack(lanes), 1, precision="highest")
    return x


def _tiles(x: Luma, size: int) -> Float[Array, "batch blocks size size"]:
    batch, height, width = x.shape
    grid = x.reshape(batch, height // size, size, width // size, size)
    return jnp.moveaxis(grid, 3, 2).reshape(batch, -1, size, size)


def _features(tiles: Float[Array, "batch blocks size size"]) -> Float[Array, "batch blocks 18"]:
    """Shape and scale of the values of each block, and four numbers each for the products of neighbours.

    Neighbours are taken around the edges of a block.
    """
    products = [tiles * jnp.roll(tiles, shift, axis=(2, 3)) for shift in _SHIFTS]
    index, left, right = _asymmetric_gaussian(jnp.stack([tiles, *products]))
    shape = _looked_up(_SHAPES, index, tiles.dtype)
    offset = (right - left) * _looked_up(_GAMMA_2 / _GAMMA_1, index, tiles.dtype)
    features = [shape[0], (left[0] + right[0]) / 2]
    for i in range(1, 5):
        features += [shape[i], offset[i], left[i], right[i]]
    return jnp.stack(features, axis=-1)


def _asymmetric_gaussian(
    x: Float[Array, "kinds batch blocks size size"],
) -> tuple[Int[Array, "kinds batch blocks"], Measured, Measured]:
    """Asymmetric generalised Gaussians by moments: indices of the shapes, left and right scales.

    The scales are NaN for values that are not on both sides of 0.
    """
    squares = x**2
    left, right = (
        jnp.sqrt(jnp.sum(jnp.where(side, squares, 0), axis=(3, 4)) / jnp.sum(side, axis=(3, 4)).astype(x.dtype))
        for side in (x < 0, x > 0)
    )
    ratio = left / right
    moments = jnp.mean(jnp.abs(x), axis=(3, 4)) ** 2 / jnp.mean(squares, axis=(3, 4))
    index = _nearest(moments * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2)
    scale = _looked_up(np.sqrt(_GAMMA_1 / _GAMMA_3), index, x.dtype)
    return index, left * scale, right * scale


def _nearest(ratios: Measured) -> Int[Array, "kinds batch blocks"]:
    """Index of the published shape (0.2 to 10 in steps of 0.001) whose ratio of moments is nearest."""
    table = jnp.asarray(_RATIOS, ratios.dtype)
    above = jnp.clip(jnp.searchsorted(table, ratios), 1, len(_SHAPES) - 1)
    return jnp.where(ratios - table[above - 1] <= table[above] - ratios, above - 1, above)


def _looked_up(table: np.ndarray, index: Int[Array, "*n"], dtype: Any) -> Float[Array, "*n"]:
    return jnp.asarray(table, dtype)[index]
