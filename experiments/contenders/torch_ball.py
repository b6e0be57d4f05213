"""I-FGSM, PGD and their relatives in PyTorch: signs of gradients, in a ball around the clean image.

The settings have the names and the defaults of the presets of this library. Random draws can be given instead.
"""

import numpy as np
import torch
from torch import Tensor

from experiments.contenders.torch_steps import (
    Images,
    Loss,
    Momentum,
    Project,
    descend,
    gradient,
    in_ball,
    in_range,
    norms,
    sign_rule,
    unit_rule,
)

EPSILON, STEPS = 4 / 255, 10


def ifgsm(
    loss: Loss, x0: Images, *, epsilon: float = EPSILON, step_size: float | None = None, steps: int = STEPS
) -> Images:
    """I-FGSM, on any number of images."""
    return descend(loss, x0, sign_rule(_step(epsilon, step_size, steps)), in_ball(x0, epsilon), steps)


def mifgsm(
    loss: Loss,
    x0: Images,
    *,
    epsilon: float = EPSILON,
    step_size: float | None = None,
    steps: int = STEPS,
    decay: float = 1.0,
    normalise: bool = True,
) -> Images:
    """MI-FGSM, on any number of images."""
    rule = Momentum(_step(epsilon, step_size, steps), decay, normalise=normalise)
    return descend(loss, x0, rule, in_ball(x0, epsilon), steps)


def mifgsm_raw(
    loss: Loss,
    x0: Images,
    *,
    epsilon: float = EPSILON,
    step_size: float | None = None,
    steps: int = STEPS,
    decay: float = 1.0,
) -> Images:
    """MI-FGSM with gradients as they are, on any number of images."""
    return mifgsm(loss, x0, epsilon=epsilon, step_size=step_size, steps=steps, decay=decay, normalise=False)


def amifgsm(loss: Loss, x0: Images, *, epsilon: float = EPSILON, steps: int = STEPS) -> Images:
    """AMI-FGSM of the benchmark: steps that add up to the radius."""
    return mifgsm_raw(loss, x0, epsilon=epsilon, step_size=epsilon / steps, steps=steps)


def pgd_linf(
    loss: Loss,
    x0: Images,
    *,
    epsilon: float = EPSILON,
    step_size: float | None = None,
    steps: int = STEPS,
    start: Images | None = None,
) -> Images:
    """PGD from a random start."""
    project, rule = in_ball(x0, epsilon), sign_rule(_step(epsilon, step_size, steps))
    return descend(loss, project(_somewhere(x0, epsilon) if start is None else start), rule, project, steps)


def pgd_l2(
    loss: Loss,
    x0: Images,
    *,
    epsilon: float = 1.0,
    step_size: float | None = None,
    steps: int = STEPS,
    start: Images | None = None,
) -> Images:
    """PGD in the Euclidean ball, from a random direction at a random distance."""
    if start is None:
        direction = torch.randn_like(x0)
        start = x0 + epsilon * torch.rand_like(x0[:, :1, :1, :1]) * direction / norms(direction)
    project = _in_euclidean_ball(x0, epsilon)
    return descend(loss, project(start), unit_rule(_step(epsilon, step_size, steps)), project, steps)


def apgd(
    loss: Loss, x0: Images, *, epsilon: float = EPSILON, steps: int = STEPS, start: Images | None = None
) -> Images:
    """Auto-PGD on one image: halved steps from the best point where progress is slow; the best point at the end."""
    project, checkpoints = in_ball(x0, epsilon), _checkpoints(steps)
    x = before = best = project(_somewhere(x0, epsilon) if start is None else start)
    slope = best_slope = torch.zeros_like(x)
    size, last, lowest, lowest_then = 2 * epsilon, np.inf, np.inf, np.inf
    falls, since, halved = 0, 0, False
    for step in range(steps):
        values, slope = gradient(loss, x)
        value = values.item()
        falls, since, last = falls + (value < last), since + 1, value
        if value < lowest:
            best, best_slope, lowest = x, slope, value
        if step in checkpoints:
            halved = falls < 0.75 * since or (not halved and lowest_then <= lowest)
            if halved:
                size, x, slope = size / 2, best, best_slope
            falls, since, lowest_then = 0, 0, lowest
        target, share = project(x - size * slope.sign()), 1.0 if step == 0 else 0.75
        x, before = project(x + share * (target - x) + (1 - share) * (x - before)), x
    with torch.no_grad():
        return x if loss(x).item() <= lowest else best


def _somewhere(x0: Images, epsilon: float) -> Images:
    return x0 + epsilon * torch.empty_like(x0).uniform_(-1, 1)


def _in_euclidean_ball(x0: Images, epsilon: float) -> Project:
    def project(x: Tensor) -> Tensor:
        change = x - x0
        return in_range(x0 + change * (epsilon / norms(change)).clamp(max=1))

    return project


def _step(epsilon: float, step_size: float | None, steps: int) -> float:
    return 2.5 * epsilon / steps if step_size is None else step_size


def _checkpoints(steps: int) -> set[int]:
    """Where Auto-PGD reviews its steps: at shares 0.22, 0.41, 0.57, ... of them, whose gaps shrink by 0.03 to 0.06."""
    percent, gap, found = 22, 22, set()
    while percent < 100:
        found.add(-(-percent * steps // 100))
        gap = max(gap - 3, 6)
        percent += gap
    return found
