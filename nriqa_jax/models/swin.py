"""Window attention with shifts (Liu et al., Swin Transformer, ICCV 2021), in the arrangement that MANIQA has it."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from nriqa_jax.layers import Conv, Features, LayerNorm, relu
from nriqa_jax.models.vit import Attention, Mlp

Windows = Float[Array, "windows tokens channels"]

_BLOCKED = -100.0  # added to logits between regions that a shift made neighbours


class SwinBlock(nn.Module):
    """A pre-norm block with attention inside windows.

    Attributes:
      heads: of the attention.
      hidden: features inside the MLP.
      window: side of a window, in tokens; it divides the sides of the map.
      shift: rows and columns by which the windows are moved, around the border of the map.
      epsilon: of the layer norms.
    """

    heads: int
    hidden: int
    window: int
    shift: int
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Features) -> Features:
        """Apply the block."""
        batch, height, width = x.shape[:3]
        y = jnp.roll(LayerNorm(self.epsilon, name="norm1")(x), (-self.shift, -self.shift), (1, 2))
        offsets = (2 * self.window - 1) ** 2
        table = self.param("relative_position_bias_table", nn.initializers.normal(0.02), (offsets, self.heads))
        bias = jnp.moveaxis(table[relative_positions(self.window)], -1, 0)[:, None]  # for all windows
        if self.shift:
            mask = shift_mask(height, width, self.window, self.shift).astype(x.dtype)
            bias = jnp.tile(bias + mask, (1, batch, 1, 1))
        y = Attention(self.heads, name="attn")(to_windows(y, self.window), bias)
        x = x + jnp.roll(from_windows(y, height, width), (self.shift, self.shift), (1, 2))
        return x + Mlp(self.hidden, name="mlp")(LayerNorm(self.epsilon, name="norm2")(x))


class SwinLayer(nn.Module):
    """A block, a shifted block and a 3x3 convolution with ReLU."""

    heads: int
    hidden: int
    window: int

    @nn.compact
    def __call__(self, x: Features) -> Features:
        """Apply the layer."""
        for index, shift in enumerate((0, self.window // 2)):
            x = SwinBlock(self.heads, self.hidden, self.window, shift, name=f"blocks_{index}")(x)
        return relu(Conv(x.shape[-1], 3, padding=1, name="conv")(x))


class SwinStage(nn.Module):
    """Layers whose outputs, times ``scale``, are added to their inputs.

    Attributes:
      scale: factor of the outputs.
      hidden: features inside the MLPs.
      heads: of the attention.
      window: side of a window.
      depth: number of layers.
    """

    scale: float
    hidden: int = 768
    heads: int = 4
    window: int = 4
    depth: int = 2

    @nn.compact
    def __call__(self, x: Features) -> Features:
        """Apply the stage."""
        for index in range(self.depth):
            x = x + self.scale * SwinLayer(self.heads, self.hidden, self.window, name=f"layers_{index}")(x)
        return x


def to_windows(x: Features, size: int) -> Windows:
    """Square windows of each map, row by row, as sequences of tokens."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    return jnp.swapaxes(x, 2, 3).reshape(-1, size * size, channels)


def from_windows(windows: Windows, height: int, width: int) -> Features:
    """The maps that `to_windows` cut."""
    size = int(np.sqrt(windows.shape[1]))
    x = windows.reshape(-1, height // size, width // size, size, size, windows.shape[-1])
    return jnp.swapaxes(x, 2, 3).reshape(-1, height, width, windows.shape[-1])


def relative_positions(size: int) -> Int[np.ndarray, "tokens tokens"]:
    """Row of the table of biases for each pair (query, key) of tokens in a window: its offset, down then right."""
    y, x = np.divmod(np.arange(size * size), size)
    return (y[:, None] - y + size - 1) * (2 * size - 1) + (x[:, None] - x + size - 1)


def shift_mask(height: int, width: int, size: int, shift: int) -> Float[Array, "windows tokens tokens"]:
    """What to add to the logits in each shifted window: nothing within a region that was together before the shift."""
    rows, columns = (np.digitize(np.arange(side), [side - size, side - shift]) for side in (height, width))
    regions = jnp.asarray(rows[:, None] * 3 + columns, jnp.float32)
    labels = to_windows(regions[None, :, :, None], size)[..., 0]
    return jnp.where(labels[:, :, None] == labels[:, None], 0.0, _BLOCKED)
