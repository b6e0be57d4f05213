"""Attacks that carry over, in PyTorch: MI-FGSM with Nesterov steps, random views or variance tuning.

The settings have the names and the defaults of the presets of this library. Random draws can be given instead.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from experiments.contenders.torch_steps import Images, Loss, Momentum, Rule, descend, gradient, in_ball

EPSILON, STEP, STEPS = 8 / 255, 2 / 255, 10

Placement = tuple[tuple[int, int], tuple[int, int]]  # height and width, top and left, in pixels


def nifgsm(
    loss: Loss, x0: Images, *, epsilon: float = EPSILON, step_size: float = STEP, steps: int = STEPS, decay: float = 1.0
) -> Images:
    """NI-FGSM: gradients where the momentum leads to."""
    rule = Momentum(step_size, decay)
    return descend(loss, x0, rule, in_ball(x0, epsilon), steps, at=rule.ahead)


def difgsm(
    loss: Loss,
    x0: Images,
    *,
    epsilon: float = EPSILON,
    step_size: float = STEP,
    steps: int = STEPS,
    decay: float = 0.0,
    tune: Callable[[Tensor], Tensor] = lambda slope: slope,
    draw: Callable[[int, int], Placement] | None = None,
) -> Images:
    """DI-FGSM on one image.

    Args:
      loss: what to minimise.
      x0: the clean image.
      epsilon: radius.
      step_size: of a step.
      steps: number of steps.
      decay: of the momentum.
      tune: what is done to gradients.
      draw: gives the placement of each view, for an image of this height and width; a random one by default.
    """
    momentum, draw = Momentum(step_size, decay), draw or random_placement
    rule: Rule = lambda slope, x: momentum(tune(slope), x)  # noqa: E731 - the name of the type says what it is
    return descend(lambda x: loss(view(x, *draw(*x.shape[2:]))), x0, rule, in_ball(x0, epsilon), steps)


def tifgsm(
    loss: Loss,
    x0: Images,
    *,
    epsilon: float = EPSILON,
    step_size: float = STEP,
    steps: int = STEPS,
    decay: float = 0.0,
    draw: Callable[[int, int], Placement] | None = None,
) -> Images:
    """TI-FGSM on one image: DI-FGSM with smoothed gradients."""
    taps = torch.exp(-(torch.linspace(-3, 3, 15, dtype=torch.float64) ** 2) / 2)
    kernel = (torch.outer(taps, taps) / taps.sum() ** 2).to(x0).expand(3, 1, 15, 15)

    def smooth(slope: Tensor) -> Tensor:
        return nn.functional.conv2d(slope, kernel, padding=7, groups=3)

    settings = {"epsilon": epsilon, "step_size": step_size, "decay": decay}
    return difgsm(loss, x0, steps=steps, tune=smooth, draw=draw, **settings)


def vmifgsm(
    loss: Loss,
    x0: Images,
    *,
    epsilon: float = EPSILON,
    step_size: float = STEP,
    steps: int = STEPS,
    decay: float = 1.0,
    neighbours: int = 5,
    reach: float = 1.5,
    noise: Callable[[Tensor], Tensor] = lambda x: torch.empty_like(x).uniform_(-1, 1),
) -> Images:
    """VMI-FGSM: gradients plus what those of random neighbours differed by at the last step."""
    momentum, variance = Momentum(step_size, decay), torch.zeros_like(x0)

    def rule(slope: Tensor, x: Tensor) -> Tensor:
        nonlocal variance
        step = momentum(slope + variance, x)
        around = [gradient(loss, x + reach * epsilon * noise(x))[1] for _ in range(neighbours)]
        variance = torch.stack(around).mean(0) - slope
        return step

    return descend(loss, x0, rule, in_ball(x0, epsilon), steps)


def view(x: Images, size: tuple[int, int], corner: tuple[int, int]) -> Images:
    """Images resized without antialiasing, on black canvases of their own size."""
    (height, width), (top, left) = x.shape[2:], corner
    small = nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)
    return nn.functional.pad(small, (left, width - size[1] - left, top, height - size[0] - top))


def random_placement(height: int, width: int) -> Placement:
    """The whole canvas every other time, else some place for 90 % or more of each side."""
    if torch.rand(()) < 0.5:
        return (height, width), (0, 0)
    size = _below(int(0.9 * height), height), _below(int(0.9 * width), width)
    return size, (_below(0, height - size[0] + 1), _below(0, width - size[1] + 1))


def _below(low: int, high: int) -> int:
    return int(torch.randint(low, high, ()))
