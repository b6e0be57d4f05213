"""DBCNN (Zhang et al., TCSVT 2020): bilinear pooling of features for authentic and for synthetic distortions."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from nriqa_jax.layers import BatchNorm, Conv, Features, relu
from nriqa_jax.models import cards, protocols
from nriqa_jax.models.heads import Regression
from nriqa_jax.models.model import Model, Preprocess, Views
from nriqa_jax.models.vgg import VGG16
from nriqa_jax.resize import resize_corners, resize_pil
from nriqa_jax.types import Images, Scores

_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 2)  # of the convolutions of the SCNN
_SLACK = 1e-8  # published; the root of a pair of channels that never respond together has a slope of 5000
_STRIDE = 16
_SMA_SIZE = (512, 384)


class SCNN(nn.Module):
    """The branch for synthetic distortions, which its authors trained to tell their kinds and levels.

    Attributes:
      widths: channels of the convolutions.
    """

    widths: tuple[int, ...] = (48, 48, 64, 64, 64, 64, 128, 128, 128)

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width 3"]) -> Float[Array, "batch h w out"]:
        """Features at a sixteenth of the size, rounded up."""
        for index, (width, stride) in enumerate(zip(self.widths, _STRIDES, strict=True)):
            x = Conv(width, 3, stride, 1, name=f"conv{3 * index}")(x)
            x = relu(BatchNorm(name=f"norm{3 * index + 1}")(x))
        return x


class DBCNN(nn.Module):
    """The network on normalised RGB views of any size from 16x16.

    Attributes:
      limits: lowest and highest score, where scores are clamped; beyond them the gradient is zero.
      width: channels of the first block of VGG-16.
      scnn_widths: channels of the convolutions of the SCNN.
    """

    limits: tuple[float, float] | None = None
    width: int = 64
    scnn_widths: tuple[int, ...] = SCNN.widths

    @nn.compact
    def __call__(self, views: Float[Array, "n height width 3"]) -> Scores:
        """One score per view."""
        (authentic,) = VGG16((29,), self.width, name="features1")(views)
        synthetic = SCNN(self.scnn_widths, name="features2")(views)
        if synthetic.shape[1:3] != authentic.shape[1:3]:  # the one rounds sizes up, the other down
            synthetic = resize_corners(synthetic, *authentic.shape[1:3])
        start = 0.0 if self.limits is None else sum(self.limits) / 2
        scores = Regression(start, name="fc")(_bilinear_pool(authentic, synthetic))
        return scores if self.limits is None else _clamp(scores, *self.limits)


def _bilinear_pool(a: Features, b: Float[Array, "batch height width others"]) -> Float[Array, "batch products"]:
    """Roots of the mean products of all pairs of channels, as vectors of length one."""
    products = jnp.einsum("bhwc,bhwd->bcd", a, b) / (a.shape[1] * a.shape[2])
    squares = products.reshape(len(a), -1) + _SLACK
    return jnp.sqrt(squares / jnp.sum(squares, axis=1, keepdims=True))


def _clamp(x: Scores, low: float, high: float) -> Scores:
    """Clamp with the gradient of PyTorch: one at the limits and between, zero beyond."""
    return jnp.where(x < low, low, jnp.where(x > high, high, x))


def _sma_views(images: Images) -> Views:
    return protocols.whole(resize_pil(images, *_SMA_SIZE), protocols.IMAGENET)


PUBLISHED = protocols.native("published", protocols.IMAGENET, "the whole image in its own size", min_side=_STRIDE)
SMA = Preprocess(
    name="sma",
    version=1,
    views=_sma_views,
    min_side=1,
    description="the image squashed to 512 rows and 384 columns as Pillow resizes it, as SMA tests it",
)


def dbcnn() -> Model:
    """DBCNN; scores 0..100, higher is better."""
    return Model(
        name="dbcnn",
        card=cards.DBCNN,
        network=DBCNN(),
        preprocess=PUBLISHED,
        protocols=(PUBLISHED, SMA),
        view_shape=(64, 64, 3),
    )


def dbcnn_sma() -> Model:
    """DBCNN with scores clamped to 0..100, the target of the published rank attack SMA."""
    return Model(
        name="dbcnn_sma",
        card=cards.DBCNN_SMA,
        network=DBCNN(limits=(0.0, 100.0)),
        preprocess=PUBLISHED,
        protocols=(PUBLISHED, SMA),
        view_shape=(64, 64, 3),
    )
