"""ResNet and ResNeXt backbones (He et al., CVPR 2016; Xie et al., CVPR 2017), v1.5 as in the common PyTorch weights.

Modules carry the names of those checkpoints (``layer1.0.conv1`` is ``layer1_0/conv1``).
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
from jaxtyping import Array, Float

from nriqa_jax.layers import BatchNorm, Conv, Features, max_pool, relu


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection."""

    width: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Features) -> Float[Array, "batch h w out"]:
        """Apply the block."""
        y = Conv(self.width, 3, self.stride, 1, use_bias=False, name="conv1")(x)
        y = relu(BatchNorm(name="bn1")(y))
        y = Conv(self.width, 3, 1, 1, use_bias=False, name="conv2")(y)
        y = BatchNorm(name="bn2")(y)
        return relu(y + _shortcut(x, y.shape[-1], self.stride))


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride), 1x1 convolutions with a residual connection.

    Attributes:
      width: a quarter of the number of output channels.
      stride: of the 3x3 convolution.
      groups: of the 3x3 convolution.
      group_width: channels of a group for each 64 of ``width``.
    """

    width: int
    stride: int = 1
    groups: int = 1
    group_width: int = 64

    @nn.compact
    def __call__(self, x: Features) -> Float[Array, "batch h w out"]:
        """Apply the block."""
        inner = self.width * self.group_width // 64 * self.groups
        y = Conv(inner, 1, use_bias=False, name="conv1")(x)
        y = relu(BatchNorm(name="bn1")(y))
        y = Conv(inner, 3, self.stride, 1, groups=self.groups, use_bias=False, name="conv2")(y)
        y = relu(BatchNorm(name="bn2")(y))
        y = Conv(4 * self.width, 1, use_bias=False, name="conv3")(y)
        y = BatchNorm(name="bn3")(y)
        return relu(y + _shortcut(x, y.shape[-1], self.stride))


def _shortcut(x: Features, features: int, stride: int) -> Float[Array, "batch h w out"]:
    """The identity, or a strided 1x1 convolution where the shape changes. Call inside a compact module."""
    if stride == 1 and x.shape[-1] == features:
        return x
    y = Conv(features, 1, stride, use_bias=False, name="downsample_0")(x)
    return BatchNorm(name="downsample_1")(y)


class ResNet(nn.Module):
    """A ResNet without its classifier.

    Attributes:
      block: `BasicBlock` or `Bottleneck`, with its options.
      depths: number of blocks of each of the four layers.
      width: channels of the stem, and ``width`` of the blocks of the first layer.
    """

    block: Callable[..., nn.Module]
    depths: tuple[int, int, int, int]
    width: int = 64

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width 3"]) -> tuple[Float[Array, "batch _ _ _"], ...]:
        """Features after the stem (before pooling) and after each layer, at strides 2, 4, 8, 16, 32."""
        x = Conv(self.width, 7, 2, 3, use_bias=False, name="conv1")(x)
        x = relu(BatchNorm(name="bn1")(x))
        features = [x]
        x = max_pool(x, 3, stride=2, padding=1)
        for layer, depth in enumerate(self.depths):
            for index in range(depth):
                stride = 2 if layer and not index else 1
                x = self.block(self.width * 2**layer, stride, name=f"layer{layer + 1}_{index}")(x)
            features.append(x)
        return tuple(features)


def resnet18(name: str | None = None, width: int = 64) -> ResNet:
    """ResNet-18."""
    return ResNet(BasicBlock, (2, 2, 2, 2), width, name=name)


def resnet34(name: str | None = None, width: int = 64) -> ResNet:
    """ResNet-34."""
    return ResNet(BasicBlock, (3, 4, 6, 3), width, name=name)


def resnet50(name: str | None = None, width: int = 64) -> ResNet:
    """ResNet-50."""
    return ResNet(Bottleneck, (3, 4, 6, 3), width, name=name)


def resnext101(name: str | None = None, width: int = 64) -> ResNet:
    """ResNeXt-101 32x8d: 32 groups of 8 channels in the first layer, at full width."""
    return ResNet(partial(Bottleneck, groups=32, group_width=8), (3, 4, 23, 3), width, name=name)
