"""Purifiers in PyTorch and in OpenCV, one image at a time, as the published benchmark and common code run them.

Defaults are those of this library. Images are [1, 3, height, width] in [0, 1] for PyTorch, and [height, width, 3] for
OpenCV, which has no float version of non-local means: that one rounds to 8 bits.
"""

import math
from collections.abc import Callable, Mapping
from importlib import metadata

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Image = Float[Tensor, "1 3 _ _"]
Pixels = Float[np.ndarray, "_ _ 3"]

_ANNEX_K = (  # of ITU-T T.81, luma and chroma
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99),
    *(47, 66, 99, 99, 99, 99, 99, 99, *[99] * 32),
)
_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def facts() -> tuple[str, str]:
    """Version, and where it runs."""
    return metadata.version("torch"), f"cpu, {torch.get_num_threads()} threads"


def one_by_one(purify: Callable[[Image], Image], images: Float[Tensor, "n 3 _ _"]) -> Float[Tensor, "n 3 _ _"]:
    """A batch, image by image."""
    with torch.no_grad():
        return torch.cat([purify(image[None]) for image in images])


def flip(x: Image) -> Image:
    """Both axes reversed."""
    return torch.flip(x, (2, 3))


def resize(x: Image, scale: float = 0.5) -> Image:
    """Smaller, bilinear, without antialias."""
    size = [int(side * scale) for side in x.shape[2:]]
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


def upscale(x: Image, scale: float = 0.5) -> Image:
    """Smaller and back to its size."""
    return functional.interpolate(resize(x, scale), size=x.shape[2:], mode="bilinear", align_corners=False)


def gaussian_blur(x: Image, size: int = 3, sigma: float | None = None) -> Image:
    """Separable blur by depthwise convolutions."""
    sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8 if sigma is None else sigma
    taps = torch.exp(-0.5 * ((torch.arange(size) - size // 2) / sigma) ** 2)
    taps = (taps / taps.sum()).expand(3, 1, size)
    x = functional.pad(x, [size // 2] * 4, mode="reflect")
    x = functional.conv2d(x, taps[:, :, None, :], groups=3)
    return functional.conv2d(x, taps[:, :, :, None], groups=3)


def unsharp(x: Image, size: int = 5, sigma: float = 1.0, amount: float = 1.0) -> Image:
    """Unsharp masking."""
    return (x + amount * (x - gaussian_blur(x, size, sigma))).clamp(0, 1)


def median_blur(x: Image, size: int = 3) -> Image:
    """Medians of unfolded windows."""
    x = functional.pad(x, [size // 2] * 4, mode="reflect")
    return x.unfold(2, size, 1).unfold(3, size, 1).flatten(4).median(4).values


def bilateral(x: Image, colour: float = 0.1, space: float = 2.0, size: int = 5) -> Image:
    """Sums over shifted images."""
    radius = size // 2
    padded = functional.pad(x, [radius] * 4, mode="reflect")
    total, weights = torch.zeros_like(x), torch.zeros_like(x[:, :1])
    for row, column in _window(radius):
        square = (row - radius) ** 2 + (column - radius) ** 2
        if square <= radius**2:
            other = padded[:, :, row : row + x.shape[2], column : column + x.shape[3]]
            difference = (x - other).abs().sum(1, keepdim=True)
            weight = torch.exp(-0.5 * ((difference / colour) ** 2 + square / space**2))
            total, weights = total + weight * other, weights + weight
    return total / weights


def non_local_means(x: Image, h: float = 4 / 255, patch: int = 3, search: int = 11) -> Image:
    """Sums over shifted images, with distances by box filters."""
    radius, margin = search // 2, patch // 2
    padded = functional.pad(x, [radius + margin] * 4, mode="reflect")
    around = [side + 2 * margin for side in x.shape[2:]]
    own = padded[:, :, radius : radius + around[0], radius : radius + around[1]]
    total, weights = torch.zeros_like(x), torch.zeros_like(x[:, :1])
    for row, column in _window(radius):
        other = padded[:, :, row : row + around[0], column : column + around[1]]
        distance = functional.avg_pool2d(((own - other) ** 2).mean(1, keepdim=True), patch, 1)
        weight = torch.exp(-distance / h**2)
        total = total + weight * other[:, :, margin : margin + x.shape[2], margin : margin + x.shape[3]]
        weights = weights + weight
    return total / weights


def total_variation(x: Image, weight: float = 0.05, steps: int = 30) -> Image:
    """Chambolle's projection."""
    down, right, estimate = torch.zeros_like(x), torch.zeros_like(x), x
    for step in range(steps):
        if step:
            divergence = -down - right
            divergence[:, :, 1:] += down[:, :, :-1]
            divergence[:, :, :, 1:] += right[:, :, :, :-1]
            estimate = x + divergence
        if step == steps - 1:
            break
        slope_down, slope_right = torch.zeros_like(x), torch.zeros_like(x)
        slope_down[:, :, :-1] = estimate[:, :, 1:] - estimate[:, :, :-1]
        slope_right[:, :, :, :-1] = estimate[:, :, :, 1:] - estimate[:, :, :, :-1]
        scale = 1 + 0.25 / weight * (slope_down**2 + slope_right**2).sqrt()
        down, right = (down - 0.25 * slope_down) / scale, (right - 0.25 * slope_right) / scale
    return estimate


def wavelet_shrinkage(x: Image, sigma: float = 0.04) -> Image:
    """BayesShrink on Haar bands, from strided convolutions."""
    haar = 0.5 * torch.tensor([[[1, 1], [1, 1]], [[1, -1], [1, -1]], [[1, 1], [-1, -1]], [[1, -1], [-1, 1]]])
    haar = haar[:, None].repeat(3, 1, 1, 1)
    sizes: list[torch.Size] = []
    details: list[Tensor] = []
    levels = max(int(math.log2(min(x.shape[2:]))) - 3, 1)
    for _ in range(levels):
        sizes.append(x.shape[2:])
        x = functional.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2), mode="replicate")
        bands = functional.conv2d(x, haar, stride=2, groups=3).unflatten(1, (3, 4))
        x, details = bands[:, :, 0], [*details, bands[:, :, 1:]]
    for size, detail in zip(reversed(sizes), reversed(details)):
        variance = (detail**2).mean((3, 4), keepdim=True) - sigma**2
        threshold = sigma**2 / variance.clamp(min=torch.finfo(x.dtype).eps).sqrt()
        detail = detail.sign() * (detail.abs() - threshold).clamp(min=0)
        bands = torch.cat([x[:, :, None], detail], 2).flatten(1, 2)
        x = functional.conv_transpose2d(bands, haar, stride=2, groups=3)[:, :, : size[0], : size[1]]
    return x


def diffjpeg(x: Image, quality: int = 50) -> Image:
    """JPEG in floating point, as the published benchmark has it."""
    height, width = x.shape[2:]
    levels = functional.pad(255 * x, (0, 16 - width % 16, 0, 16 - height % 16), mode="reflect")
    ycc = torch.einsum("ij,bjhw->bihw", _YCC, levels) + torch.tensor([0.0, 128.0, 128.0]).view(1, 3, 1, 1)
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    tables = ((torch.tensor(_ANNEX_K) * scale + 50) // 100).clamp(1, 255).view(2, 8, 8)
    chroma = functional.avg_pool2d(_three_taps(ycc[:, 1:]), 2)
    luma, chroma = _coded(ycc[:, :1], tables[0]), _coded(chroma, tables[1])
    chroma = functional.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    ycc = torch.cat([luma, chroma - 128], 1)
    rgb = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(_YCC), ycc)
    return rgb[:, :, :height, :width].clamp(0, 255) / 255


def color_quantization(x: Image, levels: int = 16) -> Image:
    """The nearest of evenly spaced levels."""
    return torch.round(x * (levels - 1)) / (levels - 1)


PURIFIERS: Mapping[str, Callable[[Image], Image]] = {
    "flip": flip,
    "resize": resize,
    "upscale": upscale,
    "gaussian_blur": gaussian_blur,
    "unsharp": unsharp,
    "median_blur": median_blur,
    "bilateral": bilateral,
    "non_local_means": non_local_means,
    "total_variation": total_variation,
    "wavelet_shrinkage": wavelet_shrinkage,
    "diffjpeg": diffjpeg,
    "color_quantization": color_quantization,
}


def _window(radius: int) -> list[tuple[int, int]]:
    return [(row, column) for row in range(2 * radius + 1) for column in range(2 * radius + 1)]


def _three_taps(planes: Float[Tensor, "1 2 _ _"]) -> Float[Tensor, "1 2 _ _"]:
    """A Gaussian of sigma 1/2."""
    taps = torch.exp(-2.0 * torch.tensor([-1.0, 0.0, 1.0]) ** 2)
    taps = (taps / taps.sum()).expand(2, 1, 3)
    planes = functional.pad(planes, (1, 1, 1, 1), mode="reflect")
    return functional.conv2d(functional.conv2d(planes, taps[:, :, None, :], groups=2), taps[:, :, :, None], groups=2)


def _coded(planes: Float[Tensor, "1 c h w"], table: Tensor) -> Float[Tensor, "1 c h w"]:
    """Quantised DCT coefficients of 8x8 blocks, and back."""
    frequency, place = torch.arange(8.0)[:, None], torch.arange(8.0)
    dct = torch.cos((2 * place + 1) * frequency * math.pi / 16) * torch.where(frequency == 0, 0.125**0.5, 0.5)
    _, channels, height, width = planes.shape
    blocks = (planes - 128).view(channels, height // 8, 8, width // 8, 8).transpose(2, 3)
    levels = torch.round(dct @ blocks @ dct.T / table)
    blocks = dct.T @ (levels * table) @ dct + 128
    return blocks.transpose(2, 3).reshape(planes.shape)
