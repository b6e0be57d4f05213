"""Attacks that hide their change, in PyTorch: MADC, Korhonen & You, perceptual attacks, SSAH; on one image at a time.

Losses are in units of the score range. The settings have the names and the defaults of the presets of this library.
Random starts can be given instead.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import scipy.ndimage
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from experiments.contenders.torch_steps import (
    Adam,
    Images,
    Loss,
    Rule,
    descend,
    gradient,
    in_range,
    sign_rule,
    unit_rule,
)

Distance = Callable[[Tensor, Tensor], Tensor]

_LUMA = (0.299, 0.587, 0.114)
_NEIGHBOURS = np.ones((5, 5), bool)
_NEIGHBOURS[::4, ::4] = False


class Tangent:
    """Signs of the part of a gradient that leaves a distance as it is; of all of the first gradient."""

    def __init__(self, size: float, distance: Loss) -> None:
        """No step yet."""
        self._size, self._distance, self._first = size, distance, True

    def __call__(self, slope: Tensor, x: Tensor) -> Tensor:
        """A step."""
        if not self._first:
            _, normal = gradient(self._distance, x)
            slope = slope - (normal * slope).sum() / (normal * normal).sum() * normal
        self._first = False
        return self._size * slope.sign()


def madc(loss: Loss, x0: Images, *, step_size: float = 1e-3, epsilon: float = 10 / 255, steps: int = 8) -> Images:
    """MADC of the benchmark: along the surface of equal mean squared error, then back into the ball by small steps."""

    def size(x: Tensor) -> Tensor:
        return ((x - x0) ** 2).mean().sqrt()

    def project(x: Tensor) -> Tensor:
        while size(x) > epsilon:
            x = in_range(x - 0.0005 * torch.sign(x - x0))
        return in_range(x)

    return descend(loss, x0, Tangent(step_size, size), project, steps)


def madc_linf(
    loss: Loss,
    x0: Images,
    *,
    step_size: float = 0.01,
    epsilon: float = 7 / 255,
    steps: int = 30,
    deviation: float = 3 / 255,
    limit: float = 6 / 255,
    start: Images | None = None,
) -> Images:
    """MADC with the largest change of a pixel value for the error, from a noisy start."""

    def project(x: Tensor) -> Tensor:
        for _ in range(150):
            change = x - x0
            if change.abs().max() <= epsilon:
                break
            x = in_range(x - 0.001 * torch.sign(change) * (change.abs() > epsilon))
        return in_range(x)

    if start is None:
        start = in_range(x0 + (deviation * torch.randn_like(x0)).clamp(-limit, limit))
    return descend(loss, start, Tangent(step_size, partial(chebyshev, x0=x0)), project, steps)


def korhonen(loss: Loss, x0: Images, *, step_size: float = 0.5 / 255, steps: int = 50, patience: int = 2) -> Images:
    """Adam on gradients weighted by edge energy; ends after ``patience`` losses without a new lowest one."""
    weight, rule = _pixel_weights(x0, signed=False), Adam(step_size)
    x, kept, lowest, waited = x0, x0, np.inf, 0
    for _ in range(steps):
        values, slope = gradient(loss, x)
        x, value = in_range(x - rule(slope * weight, x)), values.item()
        if value < lowest:
            kept, lowest, waited = x, value, 0
        else:
            waited += 1
        if waited >= patience:
            break
    return kept


def korhonen_msu(loss: Loss, x0: Images, *, step_size: float = 0.005, steps: int = 10) -> Images:
    """The attack of Korhonen & You in the benchmark: signed edges, all steps."""
    weight, adam = _pixel_weights(x0, signed=True), Adam(step_size)
    return descend(loss, x0, lambda slope, x: adam(slope * weight, x), in_range, steps)


def activity_map(image: Float[np.ndarray, "height width 3"], *, signed: bool) -> Float[np.ndarray, "height width"]:
    """Edges of the luma, largest value 1, each spread over its neighbourhood.

    Args:
      image: the clean image.
      signed: horizontal edges with their sign, instead of the energy of all.
    """
    luma = np.asarray(image, np.float64) @ np.array(_LUMA)
    edges = scipy.ndimage.sobel(luma, -1)
    edges = edges if signed else edges**2 + scipy.ndimage.sobel(luma, 0) ** 2
    edges[[0, -1]] = edges[:, [0, -1]] = 0.0
    edges = edges / edges.max() if edges.max() > 0 else edges + 1.0
    return scipy.ndimage.grey_dilation(edges, footprint=_NEIGHBOURS, mode="constant", cval=-np.inf)


def _pixel_weights(x0: Images, *, signed: bool) -> Float[Tensor, "height width"]:
    activity = activity_map(x0[0].permute(1, 2, 0).cpu().numpy(), signed=signed)
    return torch.tensor(activity, dtype=x0.dtype, device=x0.device) / 255


def chebyshev(x: Images, x0: Images) -> Float[Tensor, ""]:
    """Largest change of a pixel value."""
    return (x - x0).abs().amax()


def dissimilarity(x: Images, x0: Images) -> Float[Tensor, ""]:
    """One minus SSIM, the mean over RGB, with an 11x11 Gaussian window."""
    taps = torch.exp(-((torch.arange(11, dtype=x.dtype, device=x.device) - 5.0) ** 2) / (2 * 1.5**2))
    taps = taps / taps.sum()
    window = (taps[:, None] * taps).expand(3, 1, 11, 11)
    mean = partial(functional.conv2d, weight=window, groups=3)
    mx, my = mean(x), mean(x0)
    vx, vy, cov = mean(x * x) - mx * mx, mean(x0 * x0) - my * my, mean(x * x0) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    ssim = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return 1 - ssim.mean()


def priced(loss: Loss, x0: Images, distance: Distance, weight: float, start: Images, rule: Rule, steps: int) -> Images:
    """What all perceptual attacks are: steps on a loss plus the price of a distance."""
    return descend(lambda x: loss(x) + weight * distance(x, x0), start, rule, in_range, steps)


def perceptual(
    loss: Loss,
    x0: Images,
    *,
    distance: Distance = dissimilarity,
    step_size: float = 1e-3,
    weight: float = 1.0,
    steps: int = 200,
    rule: Callable[[float], Rule] = unit_rule,
    start: Images | None = None,
) -> Images:
    """Perceptual attack of the paper, from a start that is up to a grey level off."""
    return priced(
        loss, x0, distance, weight, _levels_off(x0, -1, 2) if start is None else start, rule(step_size), steps
    )


def perceptual_linf(
    loss: Loss, x0: Images, *, step_size: float = 1e-3, weight: float = 1.0, steps: int = 200
) -> Images:
    """Perceptual attack that keeps the largest change small."""
    return perceptual(loss, x0, distance=chebyshev, rule=sign_rule, step_size=step_size, weight=weight, steps=steps)


def perceptual_ssim(
    loss: Loss, x0: Images, *, step_size: float = 1e-3, weight: float = 1.0, steps: int = 200
) -> Images:
    """Perceptual attack that keeps the structural similarity high."""
    return perceptual(loss, x0, distance=dissimilarity, step_size=step_size, weight=weight, steps=steps)


def perceptual_code(
    loss: Loss,
    x0: Images,
    *,
    distance: Distance = dissimilarity,
    step_size: float = 0.005,
    weight: float = 1.0,
    steps: int = 200,
    start: Images | None = None,
) -> Images:
    """Perceptual attack as its code runs: Adams that are made anew step by the sign."""
    noisy = _levels_off(x0, -1, 1) if start is None else start
    return priced(loss, x0, distance, weight, noisy, sign_rule(step_size), steps)


def perceptual_msu(
    loss: Loss,
    x0: Images,
    *,
    distance: Distance = dissimilarity,
    step_size: float = 0.005,
    weight: float = 1.0,
    steps: int = 10,
) -> Images:
    """Perceptual attack of the benchmark: Adam from the clean image."""
    return priced(loss, x0, distance, weight, x0, Adam(step_size), steps)


def ssah(loss: Loss, x0: Images, *, step_size: float = 1e-3, weight: float = 0.1, steps: int = 10) -> Images:
    """SSAH of the benchmark: Adam with a penalty on low frequencies."""

    def change(x: Tensor, x0: Tensor) -> Tensor:
        return functional.smooth_l1_loss(low_frequencies(x), low_frequencies(x0), reduction="sum")

    return priced(loss, x0, change, weight, x0, Adam(step_size), steps)


def low_frequencies(x: Images) -> Images:
    """Means of blocks of 2x2 pixels, in their places; the last row or column of an odd size is repeated."""
    height, width = x.shape[2:]
    even = functional.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
    return functional.interpolate(functional.avg_pool2d(even, 2), scale_factor=2)[:, :, :height, :width]


def _levels_off(x0: Images, low: int, high: int) -> Images:
    """An image whose values differ by whole grey levels, from ``low`` up to below ``high``."""
    return in_range(x0 + torch.randint(low, high, x0.shape, device=x0.device) / 255)
