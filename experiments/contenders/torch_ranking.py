"""Stage one of SMA (arXiv 2404.13277) in PyTorch, as attacks on rankings are usually written.

An eager loop over steps, in float64 on the CPU. Each step computes soft ranks (Blondel et al., ICML 2020) of the
targets by sorting and isotonic regression in NumPy and SciPy, outside of PyTorch, with a backward pass of its own. The
ranks of the clean scores are computed once.
"""

from importlib import metadata
from typing import Any

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

WEIGHT, LEARNING_RATE, LOW, HIGH = 1e-4, 0.005, 0.0, 100.0


class SoftRank(torch.autograd.Function):
    """Projection of the scaled values onto the permutahedron, the convex hull of all orders of 1..n."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, strength: float) -> Tensor:
        """Soft ranks, 1 for the smallest value."""
        scaled = values.detach().numpy() / strength
        order = np.argsort(-scaled)
        s = scaled[order]
        pooled = isotonic_regression(s - np.arange(len(s), 0, -1), increasing=False)
        ranks = np.empty_like(s)
        ranks[order] = s - pooled.x
        ctx.order, ctx.blocks, ctx.strength = order, pooled.blocks, strength
        return torch.from_numpy(ranks)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradient without its mean over each block."""
        g = gradients[0].numpy()[ctx.order]
        lengths = np.diff(ctx.blocks)
        means = np.add.reduceat(g, ctx.blocks[:-1]) / lengths
        gradient = np.empty_like(g)
        gradient[ctx.order] = (g - np.repeat(means, lengths)) / ctx.strength
        return torch.from_numpy(gradient), None


def run(scores: np.ndarray, start: np.ndarray, strength: float, steps: int) -> np.ndarray:
    """Targets after a number of steps of Adam on ``SROCC - 1e-4 * variance - 1e-4 * MSE``.

    Args:
      scores: of the clean images.
      start: targets before the first step.
      strength: of soft ranks.
      steps: number of steps.
    """
    clean = torch.tensor(scores, dtype=torch.float64)
    ranks = SoftRank.apply(clean, strength)
    targets = torch.tensor(start, dtype=torch.float64).requires_grad_()
    rule = torch.optim.Adam([targets], lr=LEARNING_RATE)
    for _ in range(steps):
        rule.zero_grad()
        agreement = _correlation(SoftRank.apply(targets, strength), ranks)
        error = torch.mean((targets - clean) ** 2)
        (agreement - WEIGHT * torch.var(targets) - WEIGHT * error).backward()
        with torch.no_grad():
            assert targets.grad is not None
            gradient = torch.where(torch.isnan(targets.grad), 0.0, targets.grad)
            targets.grad = gradient / torch.abs(gradient + 1e-12)
            rule.step()
            targets.clamp_(LOW, HIGH)
    return targets.detach().numpy().copy()


def facts() -> tuple[str, str]:
    """Version of PyTorch, and the device that it computes on."""
    return metadata.version("torch"), f"cpu, {torch.get_num_threads()} threads"


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    x, y = first - first.mean(), second - second.mean()
    return (x * y).sum() / (x.norm() * y.norm())
