"""The VGG-16 backbone (Simonyan and Zisserman, ICLR 2015).

Layers count as in the common PyTorch weights, where ReLUs and pools have numbers, too (``features.2`` is ``conv2``).
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
from jaxtyping import Array, Float

from nriqa_jax.layers import Conv, Features, max_pool, relu

_DEPTHS = (2, 2, 3, 3, 3)  # convolutions before each pool


class VGG16(nn.Module):
    """The convolutions of VGG-16, up to the last layer that is asked for.

    Attributes:
      taps: numbers of the layers whose outputs are returned: the ReLUs of a block are 1, 3; 6, 8; 11, 13, 15;
        18, 20, 22; 25, 27, 29, and the pools that end blocks are 4, 9, 16, 23, 30.
      width: channels of the first block; twice as many in the second and so on, eight times as many in the last two.
      pool: what halves the maps between blocks.
    """

    taps: tuple[int, ...]
    width: int = 64
    pool: Callable[[Features], Features] = partial(max_pool, window=2, stride=2)

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width 3"]) -> tuple[Float[Array, "batch _ _ _"], ...]:
        """Outputs of the layers ``taps``, in that order."""
        outputs, number = {}, 0
        for block, depth in enumerate(_DEPTHS):
            for _ in range(depth):
                x = relu(Conv(self.width * min(2**block, 8), 3, 1, 1, name=f"conv{number}")(x))
                outputs[number + 1] = x
                number += 2
            if number > max(self.taps):
                break
            x = outputs[number] = self.pool(x)
            number += 1
        return tuple(outputs[tap] for tap in self.taps)
