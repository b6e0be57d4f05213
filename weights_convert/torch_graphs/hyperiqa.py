"""HyperIQA (Su et al., CVPR 2020) with the names of its authors' checkpoints."""

import itertools

import torch
from torch import Tensor, nn

from weights_convert.torch_graphs.resnet import Bottleneck, ResNet


class LocalTrunk(ResNet):
    """A ResNet-50 with the layers that pool and project its features into the content vector."""

    def __init__(self, width: int, content: int) -> None:
        """Layers."""
        super().__init__(Bottleneck, (3, 4, 6, 3), width)
        for index, width in enumerate((16, 32, 64)):
            pool = nn.Sequential(nn.Conv2d(self.channels[index], width, 1, bias=False), nn.AvgPool2d(7, 7))
            self.add_module(f"lda{index + 1}_pool", pool)
            self.add_module(f"lda{index + 1}_fc", nn.Linear(1024 >> index, 16))
        self.lda4_pool, self.lda4_fc = nn.AvgPool2d(7, 7), nn.Linear(self.channels[3], content - 48)

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """The last features, and the content vector."""
        features = self.features(views)
        parts = []
        for index, x in enumerate(features, start=1):
            pooled = self.get_submodule(f"lda{index}_pool")(x).flatten(1)
            parts.append(self.get_submodule(f"lda{index}_fc")(pooled))
        return features[-1], torch.cat(parts, 1)


class HyperIQA(nn.Module):
    """HyperIQA on normalised 224x224 views.

    The target network is a batched matrix product per layer, which takes no longer than the authors' grouped
    convolution.
    """

    def __init__(
        self,
        width: int = 64,
        hyper: tuple[int, int, int] = (1024, 512, 112),
        target: tuple[int, ...] = (224, 112, 56, 28, 14, 1),
    ) -> None:
        """Layers; the arguments are the attributes of the network in JAX."""
        super().__init__()
        self.target, self.res = target, LocalTrunk(width, target[0])
        relu = nn.ReLU(inplace=True)
        channels = (self.res.channels[3], *hyper)
        convolutions = [nn.Conv2d(*pair, 1) for pair in itertools.pairwise(channels)]
        self.conv1 = nn.Sequential(*(part for convolution in convolutions for part in (convolution, relu)))
        for index, (fan_in, fan_out) in enumerate(itertools.pairwise(target), start=1):
            if fan_out > 1:
                self.add_module(f"fc{index}w_conv", nn.Conv2d(hyper[2], fan_in * fan_out // 49, 3, padding=1))
            else:
                self.add_module(f"fc{index}w_fc", nn.Linear(hyper[2], fan_in))
            self.add_module(f"fc{index}b_fc", nn.Linear(hyper[2], fan_out))

    def forward(self, views: Tensor) -> Tensor:
        """One score per view."""
        last, content = self.res(views)
        hyper = self.conv1(last)
        pooled = hyper.mean((2, 3))
        x = content[:, :, None]
        for index, (fan_in, fan_out) in enumerate(itertools.pairwise(self.target), start=1):
            last = fan_out == 1
            weight = self.get_submodule(f"fc{index}w_{'fc' if last else 'conv'}")(pooled if last else hyper)
            bias = self.get_submodule(f"fc{index}b_fc")(pooled)[:, :, None]
            x = torch.baddbmm(bias, weight.reshape(len(x), fan_out, fan_in), x)
            x = x if last else torch.sigmoid(x)
        return x[:, 0, 0]
