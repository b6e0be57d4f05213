"""The AlexNet backbone in its one-tower form (Krizhevsky, arXiv:1404.5997, 2014).

Layers count as in the common PyTorch weights, where ReLUs and pools have numbers, too (``features.3`` is ``conv3``).
"""

from typing import NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float

from nriqa_jax.layers import Conv, max_pool, relu


class _Layer(NamedTuple):
    number: int
    widths: int  # channels, in multiples of those of the first layer
    window: int
    stride: int
    padding: int


_LAYERS = (
    _Layer(0, 1, 11, 4, 2),
    _Layer(3, 3, 5, 1, 2),
    _Layer(6, 6, 3, 1, 1),
    _Layer(8, 4, 3, 1, 1),
    _Layer(10, 4, 3, 1, 1),
)
_POOLED = (3, 6)  # convolutions with a pool before them


class AlexNet(nn.Module):
    """The convolutions of AlexNet, up to the last layer that is asked for; images of at least 31x31.

    Attributes:
      taps: numbers of the ReLUs whose outputs are returned, some of 1, 4, 7, 9, 11.
      width: channels of the first layer; 3, 6, 4 and 4 times as many in the others.
    """

    taps: tuple[int, ...] = (1, 4, 7, 9, 11)
    width: int = 64

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width 3"]) -> tuple[Float[Array, "batch _ _ _"], ...]:
        """Outputs of the layers ``taps``, in that order."""
        outputs = {}
        for number, widths, window, stride, padding in _LAYERS:
            if number > max(self.taps):
                break
            x = max_pool(x, 3, stride=2) if number in _POOLED else x
            x = relu(Conv(self.width * widths, window, stride, padding, name=f"conv{number}")(x))
            outputs[number + 1] = x
        return tuple(outputs[tap] for tap in self.taps)
