"""The measured models in PyTorch, as functions of images; their networks are in ``weights_convert.torch_graphs``.

Images are ``[batch, 3, height, width]`` in [0, 1]; preprocessing is inside and differentiable. Networks compute in the
element type of their weights, preprocessing in that of the images.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from weights_convert import torch_graphs

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]

# Here again, because a process of PyTorch imports no JAX.
_IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF: Statistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_UNCHANGED: Statistics = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
_PATCH = 32
_LUMA = (19595.0, 38470.0, 7471.0)  # out of 65536


class OnImages(nn.Module):
    """A network on views, the views of images, and the scores of outputs."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, statistics: Statistics, pool: Callable[[Tensor], Tensor]) -> None:
        """The image is the only view, normalised by ``statistics``; ``pool`` turns outputs into scores."""
        super().__init__()
        self.network, self.pool = network, pool
        for name, values in zip(("mean", "std"), statistics):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """One score per image."""
        dtype = next(self.network.parameters()).dtype
        return self.pool(self.network(((images - self.mean) / self.std).to(dtype)))


class OnPatches(nn.Module):
    """The mean score of the locally normalised 32x32 patches of the luma."""

    luma: Tensor

    def __init__(self, network: nn.Module) -> None:
        """The network on patches."""
        super().__init__()
        self.network = network
        self.register_buffer("luma", torch.tensor(_LUMA)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """One score per image."""
        luma = (images * 255 * self.luma).sum(1)  # as integers, so that clean images round as 8-bit software rounds
        patches = normalized_patches(luma).to(next(self.network.parameters()).dtype)
        return self.network(patches).reshape(len(images), -1).mean(1)


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


def _same(outputs: Tensor) -> Tensor:
    return outputs


def _ratio(outputs: Tensor) -> Tensor:
    """Of the sums of weighted scores and of weights."""
    return outputs[:, 0] / outputs[:, 1]


_SURROUNDINGS: Mapping[str, tuple[Statistics, Callable[[Tensor], Tensor]]] = {
    "maniqa": (_HALF, _ratio),
    "spaq_bl": (_UNCHANGED, _same),
}


def build(name: str, tensors: Mapping[str, np.ndarray], dtype: torch.dtype = torch.float32) -> nn.Module:
    """A model in evaluation mode with the given weights, all of which must fit."""
    network = torch_graphs.build(name)
    drawn = {key: torch.from_numpy(array.copy()) for key, array in tensors.items()}
    network.load_state_dict({**network.state_dict(), **drawn})
    # Not `network.to(dtype)`, which would round the constants of the preprocessing too.
    for tensor in network.state_dict(keep_vars=True).values():
        tensor.data = tensor.data.to(dtype) if tensor.is_floating_point() else tensor.data
    if name == "cnniqa":
        return OnPatches(network).eval()
    return OnImages(network, *_SURROUNDINGS.get(name, (_IMAGENET, _same))).eval()
