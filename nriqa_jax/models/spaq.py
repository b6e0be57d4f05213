"""SPAQ (Fang et al., CVPR 2020): a ResNet-50 on overlapping patches of photographs, alone or taught other tasks too.

The other tasks are attributes of the picture (MT-A), EXIF tags (MT-E) and the kind of scene (MT-S).
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from nriqa_jax import image
from nriqa_jax.layers import Dense
from nriqa_jax.models import cards, protocols
from nriqa_jax.models.card import Card
from nriqa_jax.models.model import Model, Preprocess, Views
from nriqa_jax.models.protocols import Statistics
from nriqa_jax.models.resnet import resnet50
from nriqa_jax.resize import resize_pil, short_side
from nriqa_jax.types import Images, Scores

_PATCH, _STRIDE, _SHORT_SIDE = 224, 112, 512
_UNCHANGED: Statistics = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
_EXIF_MEAN, _EXIF_STD = 3.3985, 5.6570
_NO_EXIF = (0.0,) * 8


class SPAQ(nn.Module):
    """The network on RGB patches in [0, 1].

    Attributes:
      outputs: of the last layer; the first is the quality.
      exif: tags in the space of `normalized_exif`; None for a network without the branch for them.
      width: of the ResNet.
    """

    outputs: int = 1
    exif: tuple[float, ...] | None = None
    width: int = 64

    def __call__(self, patches: Float[Array, "n height width 3"]) -> Scores:
        """One score per patch."""
        return self.predict(patches)[:, 0]

    @nn.compact
    def predict(self, patches: Float[Array, "n height width 3"]) -> Float[Array, "n outputs"]:
        """All outputs of the last layer; those of MT-A are the quality and five attributes."""
        features = resnet50(name="backbone", width=self.width)(patches)[-1]
        scores = Dense(self.outputs, name="fc")(jnp.mean(features, axis=(1, 2)))
        if self.exif is None:
            return scores
        return scores + Dense(1, use_bias=False, name="exifCNN")(jnp.asarray(self.exif, scores.dtype))


def normalized_exif(tags: tuple[float | int, ...]) -> tuple[float, ...]:
    """The eight tags of a photograph, as numbers in the order of the data set, as the network takes them."""
    return tuple((tag - _EXIF_MEAN) / _EXIF_STD for tag in tags)


def patch_offsets(length: int) -> tuple[int, ...]:
    """Starts of the patches along a side: every 112 pixels, and flush with the end."""
    last = length - _PATCH
    return (*range(0, last, _STRIDE), last)


def _patches(images: Images) -> Views:
    images = protocols.enlarged(images, _PATCH)
    rows, columns = (patch_offsets(side) for side in images.shape[1:3])
    return image.grid_crops(images, rows, columns, _PATCH)


def _published_views(images: Images) -> Views:
    height, width = images.shape[1:3]
    if min(height, width) >= _SHORT_SIDE:
        images = resize_pil(images, *short_side(height, width, _SHORT_SIDE))
    return _patches(images)


PUBLISHED = Preprocess(
    name="published",
    version=1,
    views=_published_views,
    min_side=1,
    description="224x224 patches every 112 pixels and flush with the last row and column; before, the short side of "
    "images of at least 512x512 is resized to 512 as by Pillow (bilinear), and that of images below 224 is upscaled",
)
MSU = Preprocess(
    name="msu",
    version=1,
    views=_patches,
    min_side=1,
    description="224x224 patches every 112 pixels and flush with the last row and column, at the size of the image as "
    "MSU's benchmark takes them; the short side of images below 224 is upscaled",
)
GRID = protocols.grid(_UNCHANGED, _PATCH)


def _model(name: str, card: Card, network: SPAQ) -> Model:
    return Model(
        name=name,
        card=card,
        network=network,
        preprocess=PUBLISHED,
        protocols=(PUBLISHED, MSU, GRID),
        view_shape=(_PATCH, _PATCH, 3),
    )


def spaq_bl() -> Model:
    """SPAQ's baseline; scores 0..100, higher is better."""
    return _model("spaq_bl", cards.SPAQ_BL, SPAQ())


def spaq_mta() -> Model:
    """SPAQ's MT-A, which predicts five attributes too."""
    return _model("spaq_mta", cards.SPAQ_MTA, SPAQ(outputs=6))


def spaq_mte(exif: tuple[float, ...] = _NO_EXIF) -> Model:
    """SPAQ's MT-E, which adds a term for the tags of the photograph, as from `normalized_exif`; it is 0 by default."""
    return _model("spaq_mte", cards.SPAQ_MTE, SPAQ(exif=exif))


def spaq_mts() -> Model:
    """SPAQ's MT-S, whose first layers were taught to tell scenes apart too."""
    return _model("spaq_mts", cards.SPAQ_MTS, SPAQ())
