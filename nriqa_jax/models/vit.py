"""Vision transformers (Dosovitskiy et al., ICLR 2021) and the parts that they share with other transformers.

Modules carry the names of timm's checkpoints (``blocks.0.attn.qkv`` is ``blocks_0/attn/qkv``).
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nriqa_jax.layers import Dense, LayerNorm, gelu, he_normal

Tokens = Float[Array, "batch tokens width"]
Mask = Float[Array, "..."]
Activation = Callable[[Float[Array, "..."]], Float[Array, "..."]]

_MANY_TOKENS = 256  # from here on, the logits of all heads together leave the caches and fill the memory


def attend(
    query: Float[Array, "*n q depth"],
    key: Float[Array, "*n k depth"],
    value: Float[Array, "*n k out"],
    mask: Mask | None = None,
) -> Float[Array, "*n q out"]:
    """Softmax attention of one head with the scale ``depth ** -0.5``, in float32 or better inside.

    Only the arguments are kept for the gradient, which computes the logits again.

    Args:
      query: what asks.
      key: what is compared to the queries.
      value: what is averaged.
      mask: added to the logits ``[*n, q, k]``.
    """

    def one_head(query: Array, key: Array, value: Array) -> Array:
        wide = jnp.promote_types(query.dtype, jnp.float32)
        logits = jnp.einsum("...qd,...kd->...qk", query, key, preferred_element_type=wide) * query.shape[-1] ** -0.5
        weights = jax.nn.softmax(logits if mask is None else logits + mask)
        return jnp.einsum("...qk,...kd->...qd", weights.astype(value.dtype), value)

    return jax.checkpoint(one_head)(query, key, value)


class Attention(nn.Module):
    """Self-attention with several heads."""

    heads: int

    @nn.compact
    def __call__(self, x: Tokens, mask: Mask | None = None) -> Tokens:
        """Mix tokens; ``mask`` is added to the logits ``[heads, batch, tokens, tokens]``."""
        batch, tokens, width = x.shape
        qkv = Dense(3 * width, name="qkv")(x).reshape(batch, tokens, 3, self.heads, -1)
        query, key, value = jnp.transpose(qkv, (2, 3, 0, 1, 4))
        if mask is None and tokens >= _MANY_TOKENS:
            mixed = jax.lax.map(lambda head: attend(*head), (query, key, value))
        else:
            mixed = attend(query, key, value, mask)
        mixed = jnp.transpose(mixed, (1, 2, 0, 3))
        return Dense(width, name="proj")(mixed.reshape(x.shape))


class Mlp(nn.Module):
    """Two dense layers for each token.

    Attributes:
      hidden: features between the layers.
      activation: between the layers.
    """

    hidden: int
    activation: Activation = gelu

    @nn.compact
    def __call__(self, x: Float[Array, "*n width"]) -> Float[Array, "*n width"]:
        """Apply both layers."""
        y = jax.checkpoint(self.activation)(Dense(self.hidden, name="fc1")(x))
        return Dense(x.shape[-1], name="fc2")(y)


class Block(nn.Module):
    """A pre-norm transformer block.

    Attributes:
      heads: of the attention.
      hidden: features inside the MLP.
      activation: of the MLP.
      epsilon: of the layer norms.
    """

    heads: int
    hidden: int
    activation: Activation = gelu
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Tokens, mask: Mask | None = None) -> Tokens:
        """Apply the block; ``mask`` is added to the logits of the attention."""
        x = x + Attention(self.heads, name="attn")(LayerNorm(self.epsilon, name="norm1")(x), mask)
        return x + Mlp(self.hidden, self.activation, name="mlp")(LayerNorm(self.epsilon, name="norm2")(x))


class PatchEmbedding(nn.Module):
    """The convolution of non-overlapping patches, as one matrix product; ``kernel`` is HWIO.

    Attributes:
      features: channels of a token.
      size: side of a patch.
    """

    features: int
    size: int

    @nn.compact
    def __call__(self, views: Float[Array, "batch rows columns 3"]) -> Tokens:
        """One token per patch, row by row."""
        kernel = self.param("kernel", he_normal, (self.size, self.size, 3, self.features))
        count, rows, columns = (len(views), *(side // self.size for side in views.shape[1:3]))
        patches = views.reshape(count, rows, self.size, columns, self.size, 3).swapaxes(2, 3)
        return patches.reshape(count, rows * columns, -1) @ kernel.reshape(-1, self.features)


class ViT(nn.Module):
    """A vision transformer up to the last block that is asked for, without final norm and classifier.

    Attributes:
      taps: blocks, counted from 0, whose outputs are returned.
      width: features of a token.
      heads: of the attention.
      patch: side of a patch, in pixels.
    """

    taps: tuple[int, ...]
    width: int = 768
    heads: int = 12
    patch: int = 8

    @nn.compact
    def __call__(self, views: Float[Array, "batch rows columns 3"]) -> tuple[Tokens, ...]:
        """Tokens after each tapped block: the class token, then the patches row by row."""
        tokens = PatchEmbedding(self.width, self.patch, name="patch_embed")(views)
        tokens = tokens + self.param("patch_embed_bias", nn.initializers.zeros, (self.width,))
        embedding = nn.initializers.normal(0.02)
        first = self.param("cls_token", embedding, (1, 1, self.width))
        tokens = jnp.concatenate([jnp.broadcast_to(first, (len(views), 1, self.width)), tokens], axis=1)
        tokens = tokens + self.param("pos_embed", embedding, (1, tokens.shape[1], self.width))
        features = []
        for index in range(max(self.taps) + 1):
            tokens = Block(self.heads, 4 * self.width, name=f"blocks_{index}")(tokens)
            if index in self.taps:
                features.append(tokens)
        return tuple(features)
