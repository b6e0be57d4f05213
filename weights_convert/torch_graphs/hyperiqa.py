"""HyperIQA (Su et al., CVPR 2020) with the names of its authors' checkpoints."""

import torch
from torch import Tensor, nn

from weights_convert.torch_graphs.resnet import Bottleneck, ResNet

_WIDTHS = (224, 112, 56, 28, 14, 1)  # of the target network


class LocalTrunk(ResNet):
    """A ResNet-50 with the layers that pool and project its features into the content vector."""

    def __init__(self) -> None:
        """Layers."""
        super().__init__(Bottleneck, (3, 4, 6, 3))
        for index, width in enumerate((16, 32, 64)):
            pool = nn.Sequential(nn.Conv2d(256 << index, width, 1, bias=False), nn.AvgPool2d(7, 7))
            self.add_module(f"lda{index + 1}_pool", pool)
            self.add_module(f"lda{index + 1}_fc", nn.Linear(1024 >> index, 16))
        self.lda4_pool, self.lda4_fc = nn.AvgPool2d(7, 7), nn.Linear(2048, 176)

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

    def __init__(self) -> None:
        """Layers."""
        super().__init__()
        self.res = LocalTrunk()
        relu = nn.ReLU(inplace=True)
        convolutions = [nn.Conv2d(inputs, width, 1) for inputs, width in ((2048, 1024), (1024, 512), (512, 112))]
        self.conv1 = nn.Sequential(*(part for convolution in convolutions for part in (convolution, relu)))
        for index in range(1, 6):
            fan_in, fan_out = _WIDTHS[index - 1 : index + 1]
            if index < 5:
                self.add_module(f"fc{index}w_conv", nn.Conv2d(112, fan_in * fan_out // 49, 3, padding=1))
            self.add_module(f"fc{index}b_fc", nn.Linear(112, fan_out))
        self.fc5w_fc = nn.Linear(112, 14)

    def forward(self, views: Tensor) -> Tensor:
        """One score per view."""
        last, content = self.res(views)
        hyper = self.conv1(last)
        pooled = hyper.mean((2, 3))
        x = content[:, :, None]
        for index in range(1, 6):
            weight = self.get_submodule(f"fc{index}w_conv")(hyper) if index < 5 else self.fc5w_fc(pooled)
            bias = self.get_submodule(f"fc{index}b_fc")(pooled)[:, :, None]
            x = torch.baddbmm(bias, weight.reshape(len(x), _WIDTHS[index], _WIDTHS[index - 1]), x)
            x = torch.sigmoid(x) if index < 5 else x
        return x[:, 0, 0]
