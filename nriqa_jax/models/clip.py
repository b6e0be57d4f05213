"""CLIP (Radford et al., ICML 2021): the image and text towers of its vision transformers.

Modules carry the names of OpenAI's checkpoints (``visual.transformer.resblocks.0`` is
``visual/transformer/resblocks_0``); those inside a block are `vit.Block`'s.
"""

from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from nriqa_jax.layers import LayerNorm
from nriqa_jax.models.vit import Block, PatchEmbedding, Tokens

Mask: TypeAlias = Float[np.ndarray, "tokens tokens"]
TokenIds: TypeAlias = Int[np.ndarray, "texts tokens"]

_CONTEXT = 77  # tokens that a text may have
_SMALLEST_NORM = 1e-6


def quick_gelu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The sigmoid approximation of GELU that CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


def unit(x: Float[Array, "*n width"]) -> Float[Array, "*n width"]:
    """Vectors divided by their length; zero, with finite derivatives, for a zero vector."""
    squares = jnp.sum(x**2, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, _SMALLEST_NORM**2))


class Transformer(nn.Module):
    """A stack of blocks.

    Attributes:
      depth: number of blocks.
      head_width: channels of a head.
    """

    depth: int
    head_width: int

    @nn.compact
    def __call__(self, x: Tokens, mask: Mask | None = None) -> Tokens:
        """Apply the blocks."""
        heads, hidden = x.shape[-1] // self.head_width, 4 * x.shape[-1]
        added = None if mask is None else jnp.asarray(mask, x.dtype)
        for index in range(self.depth):
            x = Block(heads, hidden, quick_gelu, epsilon=1e-5, name=f"resblocks_{index}")(x, added)
        return x


class ImageTower(nn.Module):
    """The vision transformer; the defaults are those of ViT-B/32.

    Attributes:
      features: length of the result.
      width: channels of a token.
      depth: number of blocks.
      patch: side of a patch.
      head_width: channels of a head.
    """

    features: int = 512
    width: int = 768
    depth: int = 12
    patch: int = 32
    head_width: int = 64

    @nn.compact
    def __call__(self, views: Float[Array, "n rows columns 3"]) -> Float[Array, "n features"]:
        """Features of normalised views of the size that the position embedding was made for."""
        x = PatchEmbedding(self.width, self.patch, name="conv1")(views)
        normal = nn.initializers.normal(self.width**-0.5)
        first = self.param("class_embedding", normal, (self.width,))
        x = jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, self.width)), x], axis=1)
        x = x + self.param("positional_embedding", normal, x.shape[1:])
        x = Transformer(self.depth, self.head_width, name="transformer")(LayerNorm(name="ln_pre")(x))
        return LayerNorm(name="ln_post")(x[:, 0]) @ self.param("proj", normal, (self.width, self.features))


class TextTower(nn.Module):
    """The causal transformer of texts; the defaults are those beside ViT-B/32.

    Attributes:
      features: length of the result.
      width: channels of a token.
      depth: number of blocks.
      vocabulary: number of tokens that there are.
      head_width: channels of a head.
    """

    features: int = 512
    width: int = 512
    depth: int = 12
    vocabulary: int = 49408
    head_width: int = 64

    @nn.compact
    def __call__(self, ids: TokenIds) -> Float[Array, "texts features"]:
        """Features of texts, from their end token, which has the highest id.

        No token sees those behind it, so the zeros that fill a text up to the context length may be left out.
        """
        small = nn.initializers.normal(0.02)
        embedding = self.param("token_embedding", small, (self.vocabulary, self.width))
        positions = self.param("positional_embedding", small, (_CONTEXT, self.width))
        length = ids.shape[1]
        mask = np.triu(np.full((length, length), -np.inf, np.float32), 1)
        x = Transformer(self.depth, self.head_width, name="transformer")(embedding[ids] + positions[:length], mask)
        ends = LayerNorm(name="ln_final")(x[np.arange(len(ids)), ids.argmax(axis=1)])
        projection = self.param(
            "text_projection", nn.initializers.normal(self.width**-0.5), (self.width, self.features)
        )
        return ends @ projection
