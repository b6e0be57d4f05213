"""The U-Net that draws perturbations, from fixed noise or from the image itself (Isola et al., CVPR 2017)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Key, PyTree

from nriqa_jax.layers import Conv, Features, Maps, instance_norm

WIDTHS = (64, 128, 256, 512, 512, 512, 512, 512)

_SPREAD = nn.initializers.normal(0.02)
_DROPOUT, _DROPPED_LEVELS = 0.5, 3


class UNet(nn.Module):
    """Halves the resolution once per width and doubles it again, with all resolutions handed across.

    Attributes:
      widths: channels after each halving; by default sides must be multiples of 256.
    """

    widths: tuple[int, ...] = WIDTHS

    @nn.compact
    def __call__(self, x: Features, dropout: bool = False) -> Maps:
        """Three channels in [-1, 1]; sides must be multiples of ``2 ** len(widths)``.

        Args:
          x: images or noise.
          dropout: whether to drop features of the deepest levels, by the random numbers called "dropout".
        """
        last = len(self.widths) - 1
        if any(side % multiple(self) for side in x.shape[1:3]):
            raise ValueError(f"sides must be multiples of {multiple(self)}, got {x.shape[1:3]}")
        skipped = []
        for level, width in enumerate(self.widths):
            x = nn.leaky_relu(x, 0.2) if level else x
            x = Conv(width, 4, stride=2, padding=1, name=f"down{level}")(x)
            x = instance_norm(x) if 0 < level < last else x
            skipped.append(x)
        for level in range(last, 0, -1):
            x = _doubled(self.widths[level - 1], f"up{level}")(nn.relu(x))
            x = instance_norm(x)
            dropped = dropout and last - level < _DROPPED_LEVELS
            x = nn.Dropout(_DROPOUT, deterministic=not dropped)(x)
            x = jnp.concatenate([x, skipped[level - 1]], axis=-1)
        return jnp.tanh(_doubled(3, "up0")(nn.relu(x)))


def multiple(network: UNet) -> int:
    """What the sides of its inputs are multiples of, in pixels."""
    return 2 ** len(network.widths)


def init(network: UNet, key: Array) -> PyTree:
    """Random weights."""
    return network.init(key, jnp.zeros((1, multiple(network), multiple(network), 3)))


def apply_of(network: UNet) -> Partial:
    """The network as ``(params, inputs, key) -> outputs``; without a key nothing is dropped."""
    return Partial(partial(_apply, network))


def drawing(network: UNet, params: PyTree) -> Partial:
    """A trained network as a pytree callable ``inputs -> outputs``; nothing is dropped."""
    return Partial(partial(_draw, network), params)


def _draw(network: UNet, params: PyTree, inputs: Features) -> Maps:
    return _apply(network, params, inputs, None)


def _apply(network: UNet, params: PyTree, inputs: Features, key: Key[Array, ""] | None) -> Maps:
    rngs = None if key is None else {"dropout": key}
    outputs: Any = network.apply(params, inputs, key is not None, rngs=rngs)
    return outputs


def _doubled(width: int, name: str) -> nn.ConvTranspose:
    return nn.ConvTranspose(width, (4, 4), (2, 2), "SAME", kernel_init=_SPREAD, name=name)
