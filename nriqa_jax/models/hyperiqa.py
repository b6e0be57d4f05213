"""HyperIQA (Su et al., CVPR 2020): a hyper-network writes, for each image, the weights of a small quality network."""

import itertools

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from nriqa_jax.layers import Conv, Dense, adaptive_avg_pool, flatten_nchw, relu
from nriqa_jax.models import cards, protocols
from nriqa_jax.models.model import Model
from nriqa_jax.models.resnet import resnet50
from nriqa_jax.types import Scores

_CROP = 224


class HyperIQA(nn.Module):
    """The network on normalised 224x224 RGB views.

    Attributes:
      width: of the ResNet-50 trunk.
      hyper: channels of the convolutions on its last features.
      target: widths of the target network, input to output.
    """

    width: int = 64
    hyper: tuple[int, int, int] = (1024, 512, 112)
    target: tuple[int, ...] = (224, 112, 56, 28, 14, 1)

    @nn.compact
    def __call__(self, views: Float[Array, "n 224 224 3"]) -> Scores:
        """One score per view."""
        _, *features = resnet50("res", self.width)(views)
        content, weights, biases = _distortion_vector(features, self.target[0]), [], []
        hyper = features[-1]
        for index, width in enumerate(self.hyper):
            hyper = relu(Conv(width, 1, name=f"conv1_{2 * index}")(hyper))
        pooled = jnp.mean(hyper, axis=(1, 2))
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(self.target), start=1):
            if fan_out > 1:
                flat = flatten_nchw(Conv(fan_in * fan_out // 49, 3, padding=1, name=f"fc{layer}w_conv")(hyper))
            else:
                flat = Dense(fan_in, name=f"fc{layer}w_fc")(pooled)
            weights.append(flat.reshape(-1, fan_out, fan_in))
            biases.append(Dense(fan_out, name=f"fc{layer}b_fc")(pooled))
        return _target_network(content, weights, biases)


def _distortion_vector(features: list[Float[Array, "n _ _ _"]], length: int) -> Float[Array, "n {length}"]:
    """The content vector: pooled and projected features of the four layers. Call inside a compact module."""
    parts = []
    for index, (x, width) in enumerate(zip(features[:3], (16, 32, 64)), start=1):
        x = Conv(width, 1, use_bias=False, name=f"lda{index}_pool")(x)
        x = adaptive_avg_pool(x, x.shape[1] // 7)
        parts.append(Dense(16, name=f"lda{index}_fc")(flatten_nchw(x)))
    parts.append(Dense(length - 48, name="lda4_fc")(jnp.mean(features[3], axis=(1, 2))))
    return jnp.concatenate(parts, axis=-1)


def _target_network(
    x: Float[Array, "n content"], weights: list[Float[Array, "n _ _"]], biases: list[Float[Array, "n _"]]
) -> Scores:
    """The per-image network: sigmoid layers and a linear output, as batched contractions."""
    for layer, (weight, bias) in enumerate(zip(weights, biases), start=1):
        x = jnp.einsum("noi,ni->no", weight, x) + bias
        x = nn.sigmoid(x) if layer < len(weights) else x
    return x[:, 0]


GRID = protocols.grid(protocols.IMAGENET, _CROP)
RANDOM = protocols.random(protocols.IMAGENET, _CROP, 25)
PUBLISHED = protocols.published(
    RANDOM, "25 random 224x224 crops as in the paper, with corners drawn once from seed 0 per image size"
)
PYIQA = protocols.uniform(protocols.IMAGENET, _CROP, 25)


def hyperiqa() -> Model:
    """HyperIQA with a ResNet-50 backbone; scores 0..100, higher is better."""
    return Model(
        name="hyperiqa",
        card=cards.HYPERIQA,
        network=HyperIQA(),
        preprocess=GRID,
        protocols=(GRID, PUBLISHED, RANDOM, PYIQA),
        view_shape=(_CROP, _CROP, 3),
    )
