"""ResNet backbones (He et al., CVPR 2016), in the v1.5 form of the common PyTorch weights.

Modules carry the names of those checkpoints (``layer1.0.conv1`` is ``layer1_0/conv1``).
"""

from collections.abc import Callable

import flax.linen as nn
from jaxtyping import Array, Float

from nriqa_jax.layers import BatchNorm, Conv, Features, max_pool


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection."""

    width: int
    stride: int = 1
    expansion = 1

    @nn.compact
    def __call__(self, x: Features) -> Float[Array, "batch h w out"]:
        """Apply the block."""
        y = Conv(self.width, 3, self.stride, 1, use_bias=False, name="conv1")(x)
        y = nn.relu(BatchNorm(name="bn1")(y))
        y = Conv(self.width, 3, 1, 1, use_bias=False, name="conv2")(y)
        y = BatchNorm(name="bn2")(y)
        return nn.relu(y + _shortcut(x, y.shape[-1], self.stride))


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride), 1x1 convolutions with a residual connection."""

    width: int
    stride: int = 1
    expansion = 4

    @nn.compact
    def __call__(self, x: Features) -> Float[Array, "batch h w out"]:
        """Apply the block."""
        y = Conv(self.width, 1, use_bias=False, name="conv1")(x)
        y = nn.relu(BatchNorm(name="bn1")(y))
        y = Conv(self.width, 3, self.stride, 1, use_bias=False, name="conv2")(y)
        y = nn.relu(BatchNorm(name="bn2")(y))
        y = Conv(self.width * self.expansion, 1, use_bias=False, name="conv3")(y)
        y = BatchNorm(name="bn3")(y)
        return nn.relu(y + _shortcut(x, y.shape[-1], self.stride))


def _shortcut(x: Features, features: int, stride: int) -> Float[Array, "batch h w out"]:
    """The identity, or a strided 1x1 convolution where the shape changes. Call inside a compact module."""
    if stride == 1 and x.shape[-1] == features:
        return x
    y = Conv(features, 1, stride, use_bias=False, name="downsample_0")(x)
    return BatchNorm(name="downsample_1")(y)


class ResNet(nn.Module):
    """A ResNet without its classifier.

    Attributes:
      block: `BasicBlock` or `Bottleneck`.
      depths: number of blocks of each of the four layers.
    """

    block: Callable[..., nn.Module]
    depths: tuple[int, int, int, int]

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width 3"]) -> tuple[Float[Array, "batch _ _ _"], ...]:
        """Features after the stem (before pooling) and after each layer, at strides 2, 4, 8, 16, 32."""
        x = Conv(64, 7, 2, 3, use_bias=False, name="conv1")(x)
        x = nn.relu(BatchNorm(name="bn1")(x))
        features = [x]
        x = max_pool(x, 3, stride=2, padding=1)
        for layer, depth in enumerate(self.depths):
            for index in range(depth):
                stride = 2 if layer and not index else 1
                x = self.block(64 * 2**layer, stride, name=f"layer{layer + 1}_{index}")(x)
            features.append(x)
        return tuple(features)


def resnet18(name: str | None = None) -> ResNet:
    """ResNet-18."""
    return ResNet(BasicBlock, (2, 2, 2, 2), name=name)


def resnet50(name: str | None = None) -> ResNet:
    """ResNet-50."""
    return ResNet(Bottleneck, (3, 4, 6, 3), name=name)
