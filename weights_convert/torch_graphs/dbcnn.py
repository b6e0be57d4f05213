"""DBCNN (Zhang et al., TCSVT 2020) with the names of its authors' checkpoints."""

from typing import Any

import torch
from torch import Tensor, nn

from weights_convert.torch_graphs.vgg import vgg16

_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 2)
_WIDTHS = (48, 48, 64, 64, 64, 64, 128, 128, 128)


def scnn(widths: tuple[int, ...] = _WIDTHS) -> nn.Sequential:
    """The branch for synthetic distortions."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in zip((3, *widths), widths, _STRIDES):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class DBCNN(nn.Module):
    """DBCNN on normalised views."""

    def __init__(
        self,
        limits: tuple[float, float] | None = None,
        width: int = 64,
        scnn_widths: tuple[int, ...] = _WIDTHS,
    ) -> None:
        """Layers; scores are clamped to ``limits``."""
        super().__init__()
        self.limits = limits
        self.features1, self.features2 = vgg16(29, width), scnn(scnn_widths)
        self.fc = nn.Linear(8 * width * scnn_widths[-1], 1)

    def forward(self, views: Tensor) -> Tensor:
        """One score per view."""
        a, b = self.features1(views), self.features2(views)
        if a.shape[2:] != b.shape[2:]:
            b = nn.functional.interpolate(b, a.shape[2:], mode="bilinear", align_corners=True)
        products = torch.bmm(a.flatten(2), b.flatten(2).transpose(1, 2)) / a[0, 0].numel()
        roots = torch.sqrt(products.flatten(1) + 1e-8)
        scores = self.fc(nn.functional.normalize(roots))[:, 0]
        return scores if self.limits is None else scores.clamp(*self.limits)


def dbcnn_sma(**options: Any) -> DBCNN:
    """DBCNN with scores clamped to 0..100, as SMA attacks it."""
    return DBCNN((0.0, 100.0), **options)
