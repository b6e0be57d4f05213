"""LIQE (Zhang et al., CVPR 2023): CLIP ViT-B/32 compares views of an image with texts that name qualities.

In the multitask form (LIQE-mix) the texts also name scenes and distortions, which the score sums out.
"""

import dataclasses
import itertools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nriqa_jax import image
from nriqa_jax.models import cards, liqe_prompts, protocols
from nriqa_jax.models.card import Card
from nriqa_jax.models.clip import ImageTower, TextTower, TokenIds, unit
from nriqa_jax.models.model import Model, Preprocess, Views
from nriqa_jax.prepare import Variables
from nriqa_jax.resize import resize_pil, short_side
from nriqa_jax.types import Images, Scores

_CROP = 224
_VIEWS = 15
_QUALITIES = 5


class LIQE(nn.Module):
    """The network on normalised 224x224 RGB views.

    Attributes:
      prompts: to token ids of the texts.
      features: length of the vectors that views and texts are compared by.
      width: channels of a token of the image tower.
      depth: blocks of the image tower.
      text_width: channels of a token of the text tower.
      text_depth: blocks of the text tower.
      vocabulary: number of tokens that there are.
      head_width: channels of an attention head, in both towers.
    """

    prompts: Callable[[], TokenIds] = liqe_prompts.quality_only
    features: int = 512
    width: int = 768
    depth: int = 12
    text_width: int = 512
    text_depth: int = 12
    vocabulary: int = 49408
    head_width: int = 64

    def setup(self) -> None:
        """The towers, and the logarithm of the scale of the logits."""
        self.visual = ImageTower(self.features, self.width, self.depth, head_width=self.head_width)
        self.text = TextTower(self.features, self.text_width, self.text_depth, self.vocabulary, self.head_width)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(np.log(1 / 0.07)), ())

    def __call__(self, views: Float[Array, "n 224 224 3"]) -> Float[Array, "n prompts"]:
        """Scaled cosines of the angles between each view and the texts, in float32 or better."""
        features, texts = self.visual(views), self.text_features()
        wide = jnp.promote_types(features.dtype, jnp.float32)  # the scale is about 100
        return jnp.exp(self.logit_scale.astype(wide)) * unit(features.astype(wide)) @ texts.astype(wide).T

    def text_features(self) -> Float[Array, "prompts features"]:
        """Unit features of the texts: the stored ones, or else what the text tower gives."""
        if self.has_variable("texts", "features"):
            return self.get_variable("texts", "features")
        ids = self.prompts()
        return unit(self.text(ids[:1] if self.is_initializing() else ids))  # one text shows all shapes


def with_stored_texts(network: nn.Module, variables: Variables) -> Variables:
    """Variables with the features of the texts in place of the text tower."""
    if "texts" in variables:
        return variables
    params = {name: value for name, value in variables["params"].items() if name != "text"}
    features = network.apply(variables, method="text_features")
    return {**variables, "params": params, "texts": {"features": features}}


def expected_quality(logits: Float[Array, "batch views prompts"]) -> Scores:
    """Mean logits as probabilities of the texts; then the mean of the qualities 1..5 that these name."""
    probabilities = jax.nn.softmax(jnp.mean(logits, axis=1))
    qualities = jnp.sum(probabilities.reshape(len(logits), _QUALITIES, -1), axis=-1)
    return qualities @ jnp.arange(1, 1 + _QUALITIES, dtype=logits.dtype)


def _sliding(images: Float[Array, "batch _ _ 3"], stride: int, select: Callable[[int], range]) -> Views:
    """Normalised windows at some of the positions of a sliding window, row by row."""
    rows, columns = (range(0, side - _CROP + 1, stride) for side in images.shape[1:3])
    corners = list(itertools.product(rows, columns))
    chosen = tuple(corners[index] for index in select(len(corners)))
    return image.normalize(image.crops(images, chosen, _CROP), *protocols.CLIP)


def _evenly(count: int) -> range:
    """At most 15 indices with the largest equal distance."""
    chosen = min(_VIEWS, count)
    return range(0, chosen * (count // chosen), count // chosen)


def _evenly_or_first(count: int) -> range:
    """Fifteen indices with the largest equal distance; the first where there are fewer windows."""
    return _evenly(count) if count >= _VIEWS else range(1)


def _pyiqa_views(images: Images) -> Views:
    return _sliding(protocols.enlarged(images, _CROP), 32, _evenly)


def _published_views(images: Images) -> Views:
    height, width = images.shape[1:3]
    if min(height, width) >= 768:
        images = resize_pil(images, *short_side(height, width, 768))
    images = protocols.enlarged(images, _CROP)
    return _sliding(images, 48 if max(images.shape[1:3]) >= 1024 else 32, _evenly_or_first)


GRID = dataclasses.replace(protocols.grid(protocols.CLIP, _CROP), pool=expected_quality)
PUBLISHED = Preprocess(
    name="published",
    version=1,
    views=_published_views,
    min_side=1,
    description="image of which both sides have 768 pixels or more resized to a short side of 768 (as PIL does), then "
    "15 of the sliding 224x224 windows with stride 32, or 48 from a side of 1024 on; the first window alone where "
    "there are fewer than 15; images smaller than 224 are upscaled (bilinear)",
    pool=expected_quality,
)
PYIQA = Preprocess(
    name="pyiqa",
    version=1,
    views=_pyiqa_views,
    min_side=1,
    description="up to 15 of the sliding 224x224 windows with stride 32, as pyiqa takes them; images smaller than 224, "
    "which pyiqa refuses, are upscaled (bilinear)",
    pool=expected_quality,
)
RANDOM = dataclasses.replace(protocols.random(protocols.CLIP, _CROP, _VIEWS), pool=expected_quality)


def _model(name: str, card: Card, prompts: Callable[[], TokenIds]) -> Model:
    return Model(
        name=name,
        card=card,
        network=LIQE(prompts),
        preprocess=GRID,
        protocols=(GRID, PUBLISHED, PYIQA, RANDOM),
        view_shape=(_CROP, _CROP, 3),
        precompute=with_stored_texts,
    )


def liqe() -> Model:
    """LIQE as pyiqa trained it on KonIQ-10k, with five texts; scores 1..5, higher is better."""
    return _model("liqe", cards.LIQE, liqe_prompts.quality_only)


def liqe_mix() -> Model:
    """LIQE as in the paper, with 495 texts; scores 1..5, higher is better."""
    return _model("liqe_mix", cards.LIQE_MIX, liqe_prompts.multitask)
