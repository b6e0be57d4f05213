"""MANIQA (Yang et al., CVPR Workshops 2022): a ViT whose features attend to each other across channels and windows."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nriqa_jax.layers import Conv, Dense, he_normal, relu
from nriqa_jax.models import cards, protocols
from nriqa_jax.models.model import Model, Preprocess
from nriqa_jax.models.swin import SwinStage
from nriqa_jax.models.vit import ViT, attend
from nriqa_jax.types import Scores

_CROP, _COUNT = 224, 20
_TAPS = (6, 7, 8, 9)  # counted from 0, before the final norm

Channels = Float[Array, "n channels places"]
Sums = Float[Array, "batch views 2"]


class MANIQA(nn.Module):
    """The network on normalised square RGB views of one size.

    Attributes:
      width: features of the ViT; a quarter of the channels of the first stage.
      heads: of the ViT.
      hidden: features inside the Swin blocks.
      patch: side of a patch, in pixels.
      scale: of the Swin layers; 0.8 as trained on KonIQ-10k and KADID-10k, 0.13 on PIPAL.
    """

    width: int = 768
    heads: int = 12
    hidden: int = 768
    patch: int = 8
    scale: float = 0.8

    @nn.compact
    def __call__(self, views: Float[Array, "n height width 3"]) -> Float[Array, "n 2"]:
        """For each view, the sum of the weighted scores of its patches, and the sum of their weights."""
        side = views.shape[1] // self.patch
        features = ViT(_TAPS, self.width, self.heads, self.patch, name="vit")(views)
        x = jnp.concatenate([tokens[:, 1:] for tokens in features], axis=-1)
        for stage, width in enumerate((self.width, self.width // 2), start=1):
            x = jnp.swapaxes(x, 1, 2)
            for index in range(2):
                x = TransposedAttention(name=f"tablock{stage}_{index}")(x)
            maps = jnp.swapaxes(x, 1, 2).reshape(len(x), side, side, -1)
            maps = Conv(width, 1, name=f"conv{stage}")(maps)
            x = SwinStage(self.scale, self.hidden, name=f"swintransformer{stage}")(maps).reshape(len(x), -1, width)
        score, weight = relu(_head(x, "fc_score")), nn.sigmoid(_head(x, "fc_weight"))
        wide = jnp.promote_types(x.dtype, jnp.float32)
        return jnp.stack([jnp.sum(terms, axis=1, dtype=wide) for terms in (score * weight, weight)], axis=1)


class TransposedAttention(nn.Module):
    """Attention between channels.

    Logits are ``(x Wq + bq) (x Wk + bk)^T``. A softmax over keys does not see what all keys share, so the queries
    ``x Wq Wk^T + bq Wk^T`` and the keys ``x`` give the same weights with one product less, and ``bk`` has no effect.
    As weights add up to one, the values are projected after they are averaged.

    Attributes:
      chunks: groups of queries that are computed one after the other, so that their logits stay in the caches.
    """

    chunks: int = 8

    @nn.compact
    def __call__(self, x: Channels) -> Channels:
        """Mix channels."""
        places = x.shape[-1]
        to_query, to_key = (self.param(f"c_{n}_kernel", he_normal, (places, places)) for n in "qk")
        query_bias = self.param("c_q_bias", nn.initializers.zeros, (places,))
        queries = x @ (to_query @ to_key.T) + query_bias @ to_key.T
        parts = jnp.swapaxes(queries.reshape(len(x), self.chunks, -1, places), 0, 1)
        mixed = jnp.swapaxes(jax.lax.map(lambda part: attend(part, x, x), parts), 0, 1)
        y = Dense(places, name="c_v")(mixed.reshape(x.shape))
        return x + jnp.swapaxes(y, 1, 2).reshape(x.shape)  # places by channels, read as channels by places


def _head(x: Float[Array, "n places width"], name: str) -> Float[Array, "n places"]:
    """One number for each place. Call inside a compact module."""
    x = relu(Dense(x.shape[-1], name=f"{name}_0")(x))
    return Dense(1, name=f"{name}_3")(x)[..., 0]


def _mean_of_ratios(sums: Sums) -> Scores:
    """The weighted mean over the patches of each view, averaged over the views."""
    return jnp.mean(sums[..., 0] / sums[..., 1], axis=1)


def _joint_ratio(sums: Sums) -> Scores:
    """One weighted mean over the patches of all views, as in pyiqa."""
    total = jnp.sum(sums, axis=1)
    return total[:, 0] / (total[:, 1] + 1e-8)


GRID = dataclasses.replace(protocols.grid(protocols.HALF, _CROP), pool=_mean_of_ratios)
RANDOM = dataclasses.replace(protocols.random(protocols.HALF, _CROP, _COUNT), pool=_mean_of_ratios)
PUBLISHED = protocols.published(
    RANDOM,
    "mean over 20 random 224x224 crops as in the authors' demo, with corners drawn once from seed 0 per image size",
)
PYIQA = dataclasses.replace(
    protocols.uniform(protocols.HALF, _CROP, _COUNT),
    pool=_joint_ratio,
    description="one weighted mean over the patches of the first 20 224x224 crops of a regular grid from the top left, "
    "as in pyiqa",
)
MSU = Preprocess(
    name="msu",
    version=1,
    views=partial(protocols.resized, statistics=protocols.HALF, height=_CROP, width=_CROP),
    min_side=1,
    description="the whole image squashed to 224x224 (bilinear without antialias), as in the MSU benchmark of 2023",
    pool=_mean_of_ratios,
)


def maniqa() -> Model:
    """MANIQA for weights trained on KonIQ-10k or KADID-10k; scores about 0..1, higher is better."""
    return Model(
        name="maniqa",
        card=cards.MANIQA,
        network=MANIQA(),
        preprocess=GRID,
        protocols=(GRID, PUBLISHED, PYIQA, MSU, RANDOM),
        view_shape=(_CROP, _CROP, 3),
    )


def maniqa_pipal() -> Model:
    """MANIQA for weights trained on PIPAL."""
    return dataclasses.replace(maniqa(), name="maniqa_pipal", card=cards.MANIQA_PIPAL, network=MANIQA(scale=0.13))
