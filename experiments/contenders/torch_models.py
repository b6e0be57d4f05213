"""The measured networks in PyTorch, with the names of the authors' checkpoints, as their eager code would be written.

Images are ``[batch, 3, height, width]`` in [0, 1]; preprocessing is inside and differentiable. Networks compute in the
element type of their weights, preprocessing in that of the images.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_PATCH = 32
_WIDTHS = (224, 112, 56, 28, 14, 1)  # of the target network of HyperIQA
_LUMA = (19595.0, 38470.0, 7471.0)  # out of 65536


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride), 1x1 convolutions with a residual connection."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        """Layers; a 1x1 convolution carries the shortcut where the shape changes."""
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class Trunk(nn.Module):
    """A ResNet-50 without classifier."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        """Stem and four layers."""
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for index, (blocks, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512))):
            strides = (2 if index else 1, *(1,) * (blocks - 1))
            channels = (inputs, *(4 * width,) * (blocks - 1))
            layer = nn.Sequential(*(Bottleneck(count, width, stride) for count, stride in zip(channels, strides)))
            self.add_module(f"layer{index + 1}", layer)
            inputs = 4 * width
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Outputs of the four layers on normalised images."""
        x = ((images - self.mean) / self.std).to(self.conv1.weight.dtype)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        outputs = []
        for index in range(4):
            x = self.get_submodule(f"layer{index + 1}")(x)
            outputs.append(x)
        return outputs


class ResNetScore(nn.Module):
    """The trunk, the average of its last features, and a linear layer to one score."""

    def __init__(self) -> None:
        """Layers."""
        super().__init__()
        self.res, self.fc = Trunk(), nn.Linear(2048, 1)

    def forward(self, images: Tensor) -> Tensor:
        """One score per image."""
        return self.fc(self.res.features(images)[-1].mean((2, 3)))[:, 0]


class LocalTrunk(Trunk):
    """The trunk with the layers that pool and project its features into the content vector of HyperIQA."""

    def __init__(self) -> None:
        """Layers."""
        super().__init__()
        for index, width in enumerate((16, 32, 64)):
            pool = nn.Sequential(nn.Conv2d(256 << index, width, 1, bias=False), nn.AvgPool2d(7, 7))
            self.add_module(f"lda{index + 1}_pool", pool)
            self.add_module(f"lda{index + 1}_fc", nn.Linear(1024 >> index, 16))
        self.lda4_pool, self.lda4_fc = nn.AvgPool2d(7, 7), nn.Linear(2048, 176)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The last features, and the content vector."""
        features = self.features(images)
        parts = []
        for index, x in enumerate(features, start=1):
            pooled = self.get_submodule(f"lda{index}_pool")(x).flatten(1)
            parts.append(self.get_submodule(f"lda{index}_fc")(pooled))
        return features[-1], torch.cat(parts, 1)


class HyperIQA(nn.Module):
    """HyperIQA (Su et al., CVPR 2020) on 224x224 images.

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

    def forward(self, images: Tensor) -> Tensor:
        """One score per image."""
        last, content = self.res(images)
        hyper = self.conv1(last)
        pooled = hyper.mean((2, 3))
        x = content[:, :, None]
        for index in range(1, 6):
            weight = self.get_submodule(f"fc{index}w_conv")(hyper) if index < 5 else self.fc5w_fc(pooled)
            bias = self.get_submodule(f"fc{index}b_fc")(pooled)[:, :, None]
            x = torch.baddbmm(bias, weight.reshape(len(x), _WIDTHS[index], _WIDTHS[index - 1]), x)
            x = torch.sigmoid(x) if index < 5 else x
        return x[:, 0, 0]


class CNNIQA(nn.Module):
    """CNNIQA (Kang et al., CVPR 2014): mean score of the locally normalised 32x32 patches of the luma."""

    luma: Tensor

    def __init__(self) -> None:
        """Layers."""
        super().__init__()
        self.conv1 = nn.Conv2d(1, 50, 7)
        self.fc1, self.fc2, self.fc3 = nn.Linear(100, 800), nn.Linear(800, 800), nn.Linear(800, 1)
        self.register_buffer("luma", torch.tensor(_LUMA)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """One score per image."""
        luma = (images * 255 * self.luma).sum(1)  # as integers, so that clean images round as 8-bit software rounds
        patches = normalized_patches(luma).to(self.conv1.weight.dtype)
        maps = self.conv1(patches).flatten(2)
        x = torch.cat((maps.max(2).values, maps.min(2).values), 1)
        x = functional.relu(self.fc2(functional.relu(self.fc1(x))))
        return self.fc3(x).reshape(len(images), -1).mean(1)


def normalized_patches(luma: Tensor) -> Tensor:
    """Locally normalised patches ``[images * patches, 1, 32, 32]`` of the nearest 8-bit levels, straight through."""
    grey = luma / (255 * 65536)
    grey = grey + (torch.floor((luma.detach() + 32768) / 65536) / 255 - grey).detach()
    # As in the published loop, which stops one patch early on a side that 32 divides.
    rows, columns = ((side - 1) // _PATCH for side in grey.shape[1:])
    tiles = grey[:, : rows * _PATCH, : columns * _PATCH].reshape(len(grey), rows, _PATCH, columns, _PATCH)
    patches = tiles.transpose(2, 3).reshape(-1, 1, _PATCH, _PATCH)
    mean = _box_mean(patches)
    variance = (_box_mean(patches**2) - mean**2).clamp(min=0)
    positive = variance > 0  # the square root has no gradient at zero
    std = torch.where(positive, torch.where(positive, variance, 1).sqrt(), 0)
    return (patches - mean) / (std + 1)


def _box_mean(x: Tensor) -> Tensor:
    """Mean over 3x3 neighbourhoods; mirroring a border of one pixel is repeating it."""
    return functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {"hyperiqa": HyperIQA, "resnet50": ResNetScore, "cnniqa": CNNIQA}


def build(name: str, tensors: Mapping[str, np.ndarray], dtype: torch.dtype = torch.float32) -> nn.Module:
    """A network in evaluation mode with the given weights, all of which must fit."""
    network = NETWORKS[name]()
    network.load_state_dict({key: torch.from_numpy(array.copy()) for key, array in tensors.items()})
    # Not `network.to(dtype)`, which would round the constants of the preprocessing too.
    for tensor in network.state_dict(keep_vars=True).values():
        tensor.data = tensor.data.to(dtype) if tensor.is_floating_point() else tensor.data
    return network.eval()
