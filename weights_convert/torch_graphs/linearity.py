"""LinearityIQA (Li et al., ACM MM 2020) with the names of its authors' checkpoints."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from weights_convert.torch_graphs import resnet
from weights_convert.torch_graphs.resnet import Bottleneck, ResNet


class LinearityIQA(nn.Module):
    """LinearityIQA on normalised views.

    ``k`` and ``b`` are the lines from heads to scores, which checkpoints hold beside the weights.
    """

    k: Tensor
    b: Tensor

    def __init__(
        self, trunk: ResNet, hidden: tuple[int, int, int] = (1024, 256, 64), levels: tuple[int, int] = (1, 1)
    ) -> None:
        """Layers; ``levels`` are those of the pyramids that pool the last two maps, on maps that they divide."""
        super().__init__()
        layers = [trunk.get_submodule(f"layer{index}") for index in range(1, 5)]
        self.features = nn.Sequential(trunk.conv1, trunk.bn1, trunk.relu, trunk.maxpool, *layers)
        self.levels = levels
        bins = [sum(p * p for p in range(1, level + 1)) for level in levels]
        inputs = [channels * count for channels, count in zip(trunk.channels[-2:], bins)]
        self.dr6, self.dr7 = (_reduction(count, hidden) for count in inputs)
        self.regr6, self.regr7 = nn.Linear(hidden[-1], 1), nn.Linear(hidden[-1], 1)
        self.regression = nn.Linear(2 * hidden[-1], 1)
        self.register_buffer("k", torch.ones(3))
        self.register_buffer("b", torch.zeros(3))

    def heads(self, views: Tensor) -> Tensor:
        """Scores of the head that sees both maps, of that of the first and of that of the last."""
        last_but_one = self.features[:7](views)
        last = self.features[7](last_but_one)
        f6 = self.dr6(_pooled(last_but_one, self.levels[0]))
        f7 = self.dr7(_pooled(last, self.levels[1]))
        q = torch.cat((self.regression(torch.cat((f6, f7), 1)), self.regr6(f6), self.regr7(f7)), 1)
        return self.k * q + self.b

    def forward(self, views: Tensor) -> Tensor:
        """One score per view."""
        return self.heads(views)[:, 0]


def _reduction(inputs: int, hidden: tuple[int, int, int]) -> nn.Sequential:
    parts: list[nn.Module] = []
    for width in hidden:
        parts += [nn.Linear(inputs, width), nn.BatchNorm1d(width)]
        inputs = width
    return nn.Sequential(*parts, nn.ReLU())


def _pooled(x: Tensor, levels: int) -> Tensor:
    windows = [(x.shape[2] // level, x.shape[3] // level) for level in range(1, levels + 1)]
    return torch.cat([functional.avg_pool2d(x, window).flatten(1) for window in windows], 1)


def linearity(
    width: int = 64,
    depths: tuple[int, int, int, int] = (3, 4, 23, 3),
    groups: int = 32,
    group_width: int = 8,
    **options: Any,
) -> LinearityIQA:
    """With a ResNeXt-101 32x8d."""

    def block(inputs: int, width: int, stride: int) -> Bottleneck:
        return Bottleneck(inputs, width, stride, groups, group_width)

    return LinearityIQA(ResNet(block, depths, width), **options)


def linearity_resnet18(width: int = 64, **options: Any) -> LinearityIQA:
    """With a ResNet-18."""
    return LinearityIQA(resnet.resnet18(width), **options)


def linearity_resnet34(width: int = 64, **options: Any) -> LinearityIQA:
    """With a ResNet-34."""
    return LinearityIQA(resnet.resnet34(width), **options)


def linearity_resnet50(width: int = 64, **options: Any) -> LinearityIQA:
    """With a ResNet-50."""
    return LinearityIQA(resnet.resnet50(width), **options)
