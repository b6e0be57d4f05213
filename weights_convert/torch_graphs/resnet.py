"""ResNet and ResNeXt trunks with the names of torchvision's checkpoints."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        """Layers."""
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride), 1x1 convolutions with a residual connection."""

    def __init__(self, inputs: int, width: int, stride: int, groups: int = 1, group_width: int = 64) -> None:
        """Layers; a 1x1 convolution carries the shortcut where the shape changes."""
        super().__init__()
        inner, outputs = width * group_width // 64 * groups, 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """A trunk without classifier.

    Attributes:
      channels: of the outputs of the four layers.
    """

    def __init__(
        self, block: Callable[..., nn.Module], depths: tuple[int, int, int, int], width: int = 64, expansion: int = 4
    ) -> None:
        """Stem and four layers; ``expansion`` is the ratio of the outputs of a block to its width."""
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        self.channels = [width * expansion << index for index in range(4)]
        inputs = width
        for index, (depth, outputs) in enumerate(zip(depths, self.channels)):
            blocks = []
            for number in range(depth):
                stride = 2 if index and not number else 1
                blocks.append(block(inputs, outputs // expansion, stride))
                inputs = outputs
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))

    def features(self, x: Tensor) -> list[Tensor]:
        """Outputs of the four layers on normalised images."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        outputs = []
        for index in range(4):
            x = self.get_submodule(f"layer{index + 1}")(x)
            outputs.append(x)
        return outputs


def resnet18(width: int = 64) -> ResNet:
    """ResNet-18."""
    return ResNet(BasicBlock, (2, 2, 2, 2), width, expansion=1)


def resnet34(width: int = 64) -> ResNet:
    """ResNet-34."""
    return ResNet(BasicBlock, (3, 4, 6, 3), width, expansion=1)


def resnet50(width: int = 64) -> ResNet:
    """ResNet-50."""
    return ResNet(Bottleneck, (3, 4, 6, 3), width)


def resnext101(width: int = 64) -> ResNet:
    """ResNeXt-101 32x8d."""
    return ResNet(partial(Bottleneck, groups=32, group_width=8), (3, 4, 23, 3), width)


class ResNetScore(nn.Module):
    """A ResNet, the average of its last features, and a linear layer to one score."""

    def __init__(self, trunk: Callable[[], ResNet] = resnet50) -> None:
        """Layers; ``trunk`` makes the ResNet."""
        super().__init__()
        self.res = trunk()
        self.fc = nn.Linear(self.res.channels[-1], 1)

    def forward(self, views: Tensor) -> Tensor:
        """One score per view."""
        return self.fc(self.res.features(views)[-1].mean((2, 3)))[:, 0]


def resnet18_score() -> ResNetScore:
    """With a ResNet-18."""
    return ResNetScore(resnet18)
