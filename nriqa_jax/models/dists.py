"""DISTS (Ding et al., TPAMI 2020): similarity of the means and of the correlations of the features of two images."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nriqa_jax.image import normalize
from nriqa_jax.layers import Features, avg_pool
from nriqa_jax.models.distance import Distance
from nriqa_jax.models.protocols import IMAGENET
from nriqa_jax.models.vgg import VGG16
from nriqa_jax.types import Images, Scores
from nriqa_jax.windows import taps

_C1 = _C2 = 1e-6
_SLACK = 1e-12  # published; added to squares before the root
_SIDE = 256  # to which the benchmark's variant brings the short side, about


def l2_pool(x: Features) -> Float[Array, "batch h w channels"]:
    """Roots of the means of squares in 3x3 Hann windows, at half the size, rounded up: pooling without aliases."""
    x = jnp.pad(x**2, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for axis in (2, 1):
        before, here, after = taps(x, axis, 3, 2)
        x = 0.25 * before + 0.5 * here + 0.25 * after
    return jnp.sqrt(x + _SLACK)


class DISTS(nn.Module):
    """The distance; the pixels count as features, too.

    Attributes:
      net: backbone, from normalised images to several maps of features.
    """

    net: nn.Module

    @nn.compact
    def __call__(self, attacked: Images, images: Images) -> Scores:
        """One minus the weighted similarities, whose weights ``alpha`` and ``beta`` together are divided by their sum.

        Computed from the differences of the features, by ``1 - S = (a - b)^2 / ...``: the same number as published, but
        exactly 0 with gradient 0 for identical images.
        """
        features = [(batch, *self.net(normalize(batch, *IMAGENET))) for batch in (attacked, images)]
        channels = [x.shape[-1] for x in features[0]]
        weights = [_wide(self.param(name, _about_a_tenth, (sum(channels),))) for name in ("alpha", "beta")]
        total = jnp.sum(weights[0]) + jnp.sum(weights[1])
        parts = [jnp.split(w / total, np.cumsum(channels)[:-1].tolist()) for w in weights]
        losses = [_dissimilarities(x, y) for x, y in zip(*features, strict=True)]
        each = [texture @ a + structure @ b for (texture, structure), a, b in zip(losses, *parts, strict=True)]
        return sum(each[1:], each[0])


def _about_a_tenth(key: Array, shape: tuple[int, ...]) -> Float[Array, " features"]:
    """The published initial weights."""
    return 0.1 + 0.01 * jax.random.normal(key, shape)


def _dissimilarities(x: Features, y: Features) -> tuple[Float[Array, "batch channels"], Float[Array, "batch channels"]]:
    """One minus the similarity of means (texture), one minus that of variances and covariance (structure)."""
    x, y = _wide(x), _wide(y)
    (x_mean, x_var), (y_mean, y_var), (change, change_var) = map(_mean_and_variance, (x, y, x - y))
    texture = change**2 / (x_mean**2 + y_mean**2 + _C1)
    return texture, change_var / (x_var + y_var + _C2)


def _wide(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _mean_and_variance(x: Features) -> tuple[Float[Array, "batch channels"], Float[Array, "batch channels"]]:
    mean = jnp.mean(x, axis=(1, 2), keepdims=True)
    return mean[:, 0, 0], jnp.mean((x - mean) ** 2, axis=(1, 2))


def pooled(images: Images) -> Float[Array, "batch h w 3"]:
    """Means over squares that leave about 256 pixels of the short side; images of less than 384 as they are."""
    factor = max(1, round(min(images.shape[1:3]) / _SIDE))
    return images if factor == 1 else avg_pool(images, factor, stride=factor)


def dists() -> Distance:
    """DISTS on images as they are."""
    return Distance(
        name="dists",
        citation="K. Ding, K. Ma, S. Wang, E. P. Simoncelli: Image Quality Assessment: Unifying Structure and Texture "
        "Similarity. IEEE TPAMI 44(5), 2022 (online 2020)",
        network=DISTS(VGG16((3, 8, 15, 22, 29), pool=l2_pool)),
        min_side=1,
        code_licence="MIT",
        weights_licence="MIT (alpha and beta), not stated (backbone, trained on ImageNet)",
    )


def dists_pooled() -> Distance:
    """DISTS after `pooled`, as robustness benchmarks call it; its weights are those of `dists`."""
    return dataclasses.replace(dists(), view=pooled)
