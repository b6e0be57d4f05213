"""What attacks in PyTorch are made of: one loop, its update rules, and where images may go.

Images are ``[batch, 3, height, width]`` in [0, 1]; where nothing else is said, an attack takes one at a time. What is
minimised is a function from images to one value for each. Weights that ask for gradients get them in every backward
pass, as in the repositories of the papers; who does not want them freezes them first.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

Images = Float[Tensor, "batch 3 height width"]
Loss = Callable[[Tensor], Tensor]
Rule = Callable[[Tensor, Tensor], Tensor]  # from a gradient, and where it was taken, to the step against it
Project = Callable[[Tensor], Tensor]


def gradient(loss: Loss, x: Tensor) -> tuple[Tensor, Tensor]:
    """Values of a loss, and the gradient of their sum."""
    x = x.detach().requires_grad_()
    values = loss(x)
    values.sum().backward()
    assert x.grad is not None
    return values.detach(), x.grad


def descend(
    loss: Loss, start: Images, rule: Rule, project: Project, steps: int, at: Callable[[Tensor], Tensor] = lambda x: x
) -> Images:
    """The loop: a gradient, a step, a projection.

    Args:
      loss: what to minimise.
      start: images before the first step.
      rule: how to step.
      project: back to where images may be.
      steps: number of steps.
      at: where to take the gradient, if not at the images themselves.
    """
    x = start
    for _ in range(steps):
        _, slope = gradient(loss, at(x))
        x = project(x - rule(slope, x))
    return x


def sign_rule(size: float) -> Rule:
    """Steps of one size for all pixel values."""
    return lambda slope, _: size * slope.sign()


def unit_rule(size: float) -> Rule:
    """Steps of one length for all images."""
    return lambda slope, _: size * slope / norms(slope)


class Momentum:
    """Signs of accumulated gradients, of unit mean magnitude each or as they are."""

    def __init__(self, size: float, decay: float, *, normalise: bool = True) -> None:
        """No gradients yet."""
        self.trace: Tensor | float = 0.0
        self._size, self._decay, self._normalise = size, decay, normalise

    def __call__(self, slope: Tensor, x: Tensor) -> Tensor:
        """A step."""
        if self._normalise:
            slope = slope / slope.abs().mean((1, 2, 3), keepdim=True)
        self.trace = self._decay * self.trace + slope
        return self._size * self.trace.sign()

    def ahead(self, x: Tensor) -> Tensor:
        """Where the momentum alone leads to."""
        return x - self._decay * self._size * self.trace


class Adam:
    """Adam with its usual constants."""

    def __init__(self, size: float) -> None:
        """No gradients yet."""
        self._size, self._steps = size, 0
        self._mean: Tensor | float = 0.0
        self._square: Tensor | float = 0.0

    def __call__(self, slope: Tensor, x: Tensor) -> Tensor:
        """A step."""
        self._steps += 1
        self._mean = 0.9 * self._mean + 0.1 * slope
        self._square = 0.999 * self._square + 0.001 * slope * slope
        mean, square = self._mean / (1 - 0.9**self._steps), self._square / (1 - 0.999**self._steps)
        return self._size * mean / (square.sqrt() + 1e-8)


def norms(x: Images) -> Float[Tensor, "batch 1 1 1"]:
    """Euclidean norm of each image, at least 1e-12."""
    return x.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]


def in_range(x: Images) -> Images:
    """The nearest images in [0, 1]."""
    return x.clamp(0, 1)


def in_ball(x0: Images, epsilon: float) -> Project:
    """The nearest images in [0, 1] with no value further than ``epsilon`` from that of the clean image."""
    return partial(torch.clamp, min=(x0 - epsilon).clamp(min=0), max=(x0 + epsilon).clamp(max=1))
