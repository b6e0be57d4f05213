"""The U-Net that draws perturbations, from fixed noise or from the image itself (Isola et al., CVPR 2017)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Key, PyTree

from nriqa_jax.layers import Features, Maps, conv2d, he_normal, instance_norm
from nriqa_jax.patches import PatchKernel

WIDTHS = (64, 128, 256, 512, 512, 512, 512, 512)

_SPREAD = nn.initializers.normal(0.02)
_DROPOUT, _DROPPED_LEVELS = 0.5, 3


class Halving(nn.Module):
    """A 4x4 convolution of half the resolution, as a product of patches: its gradients are products, too."""

    features: int

    @nn.compact
    def __call__(self, x: Features) -> Maps:
        """Convolve with stride 2 and padding 1."""
        kernel = self.param("kernel", he_normal, (4, 4, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return conv2d(x, PatchKernel(kernel), stride=2, padding=1) + bias


class Doubling(nn.Module):
    """A transposed 4x4 convolution of twice the resolution, the kernel not mirrored (as ``nn.ConvTranspose``).

    Of the 4x4 taps, each output sees 2x2: which, its place in the 2x2 outputs of an input says. So this is a 2x2
    convolution with four times the features, and no product with the zeros of a dilated map.
    """

    features: int

    @nn.compact
    def __call__(self, x: Features) -> Maps:
        """Convolve with stride 1/2."""
        batch, height, width, channels = x.shape
        kernel = self.param("kernel", _SPREAD, (4, 4, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        apart = jnp.moveaxis(kernel.reshape(2, 2, 2, 2, channels, self.features), (1, 3), (3, 4))
        y = conv2d(x, PatchKernel(apart.reshape(2, 2, channels, -1)), padding=1)
        y = y.reshape(*y.shape[:3], 2, 2, self.features)
        rows = jnp.stack([y[:, :height, :, 0], y[:, 1:, :, 1]], axis=2)
        both = jnp.stack([rows[:, :, :, :width, 0], rows[:, :, :, 1:, 1]], axis=4)
        return both.reshape(batch, 2 * height, 2 * width, self.features) + bias


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
            x = Halving(width, name=f"down{level}")(x)
            x = instance_norm(x) if 0 < level < last else x
            skipped.append(x)
        for level in range(last, 0, -1):
            x = Doubling(self.widths[level - 1], name=f"up{level}")(nn.relu(x))
            x = instance_norm(x)
            dropped = dropout and last - level < _DROPPED_LEVELS
            x = nn.Dropout(_DROPOUT, deterministic=not dropped)(x)
            x = jnp.concatenate([x, skipped[level - 1]], axis=-1)
        return jnp.tanh(Doubling(3, name="up0")(nn.relu(x)))


def multiple(network: UNet) -> int:
    """What the sides of its inputs are multiples of, in pixels."""
    return 2 ** len(network.widths)


def init(network: UNet, key: Array) -> PyTree:
    """Random weights."""
    return jax.jit(network.init)(key, jnp.zeros((1, multiple(network), multiple(network), 3)))


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
