"""SPAQ's models (Fang et al., CVPR 2020) with the names of their authors' checkpoints."""

import torch
from torch import Tensor, nn

from weights_convert.torch_graphs.resnet import Bottleneck, ResNet


class Backbone(ResNet):
    """ResNet-50 with a linear layer on the average of its last features."""

    def __init__(self, width: int, outputs: int) -> None:
        """Layers."""
        super().__init__(Bottleneck, (3, 4, 6, 3), width)
        self.fc = nn.Linear(self.channels[-1], outputs)

    def forward(self, patches: Tensor) -> Tensor:
        """All outputs."""
        return self.fc(self.features(patches)[-1].mean((2, 3)))


class Baseline(nn.Module):
    """BL, and MT-A with six outputs, the first of which is the quality; on patches in [0, 1]."""

    def __init__(self, width: int = 64, outputs: int = 1) -> None:
        """Layers."""
        super().__init__()
        self.backbone = Backbone(width, outputs)

    def forward(self, patches: Tensor) -> Tensor:
        """One score per patch."""
        return self.backbone(patches)[:, 0]


class WithTags(Baseline):
    """MT-E: the baseline and a linear term of eight normalised EXIF tags, zeros for a picture without any."""

    def __init__(self, width: int = 64, exif: tuple[float, ...] = (0.0,) * 8) -> None:
        """Layers."""
        super().__init__(width)
        self.exifCNN = nn.Linear(8, 1, bias=False)
        self.register_buffer("exif", torch.tensor(exif), persistent=False)

    def forward(self, patches: Tensor) -> Tensor:
        """One score per patch."""
        return super().forward(patches) + self.exifCNN(self.exif)


class WithScenes(nn.Module):
    """MT-S: two networks that share all but their last layer; that for scenes has no part in the score."""

    def __init__(self, width: int = 64) -> None:
        """Layers."""
        super().__init__()
        self.backbone_semantic, self.backbone_quality = Backbone(width, 9), Backbone(width, 1)

    def forward(self, patches: Tensor) -> Tensor:
        """One score per patch."""
        return self.backbone_quality(patches)[:, 0]


def attributes(width: int = 64) -> Baseline:
    """MT-A."""
    return Baseline(width, 6)
