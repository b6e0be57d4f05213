"""StAdv and AdvCF in PyTorch: flows of pixels and colour curves, on one image at a time.

Losses are in units of the score range. The settings have the names and the defaults of the presets of this library.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from experiments.contenders.torch_steps import Images, Loss, gradient

PIECES = 64

Flow = Float[Tensor, "1 2 height width"]
Slopes = Float[Tensor, "3 pieces"]
MakeOptimizer = Callable[[list[Tensor]], torch.optim.Optimizer]


def stadv(
    loss: Loss,
    x0: Images,
    *,
    step_size: float = 2.5,
    steps: int = 3,
    smoothness: float = 1e-5,
    offset: float = 1.5,
    ceiling: float = 0.0,
) -> Images:
    """StAdv of the benchmark: L-BFGS on a flow."""

    def make(values: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(values, lr=step_size, max_iter=1, history_size=2)

    return _flow_steps(loss, x0, make, steps, smoothness, offset, ceiling)


def stadv_adam(
    loss: Loss,
    x0: Images,
    *,
    step_size: float = 0.1,
    steps: int = 10,
    smoothness: float = 1e-5,
    offset: float = 1.5,
    ceiling: float = 0.0,
) -> Images:
    """StAdv by Adam."""
    return _flow_steps(
        loss, x0, lambda values: torch.optim.Adam(values, lr=step_size), steps, smoothness, offset, ceiling
    )


def _flow_steps(
    loss: Loss, x0: Images, make: MakeOptimizer, steps: int, smoothness: float, offset: float, ceiling: float
) -> Images:
    flow = torch.zeros((1, 2, *x0.shape[2:]), dtype=x0.dtype, device=x0.device, requires_grad=True)
    rule = make([flow])

    def closure() -> Tensor:
        rule.zero_grad()
        value = ceiling - loss(sample(x0, flow)).sum()
        total = 50.0 * offset / (value + offset) + smoothness * roughness(flow)
        total.backward()
        return total

    for _ in range(steps):
        rule.step(closure)  # type: ignore[arg-type]  # the stubs want a float, which L-BFGS would make of it
    return sample(x0, flow).detach()


def sample(x: Images, flow: Flow) -> Images:
    """Bilinear samples of an image at (row + u0, column + u1), beyond the border from the border."""
    height, width = x.shape[2:]
    rows = (torch.arange(height, device=x.device).view(-1, 1) + flow[0, 0]).clamp(0, height - 1)
    columns = (torch.arange(width, device=x.device).view(1, -1) + flow[0, 1]).clamp(0, width - 1)
    top, left = rows.floor().long().clamp(0, height - 2), columns.floor().long().clamp(0, width - 2)
    down, across = rows - top, columns - left
    picture = x[0]
    above = picture[:, top, left] * (1 - across) + picture[:, top, left + 1] * across
    below = picture[:, top + 1, left] * (1 - across) + picture[:, top + 1, left + 1] * across
    return (above * (1 - down) + below * down)[None]


def roughness(flow: Flow) -> Float[Tensor, ""]:
    """Sum of the squared differences of a flow at diagonal neighbours."""
    padded = functional.pad(flow, (1, 1, 1, 1))
    total = torch.zeros((), dtype=flow.dtype, device=flow.device)
    for rows in (slice(2, None), slice(None, -2)):
        for columns in (slice(2, None), slice(None, -2)):
            total = total + (((flow - padded[:, :, rows, columns]) ** 2).sum(1) + 1e-8).sum()
    return total


def advcf(
    loss: Loss,
    x0: Images,
    *,
    steepness: float = 16.0,
    step_size: float | None = None,
    steps: int = 10,
    patience: int = 25,
) -> Images:
    """AdvCF with bounded slopes: normalised steps in a box, which end where a loss hardly falls."""
    size = (steepness - 1) / 15 if step_size is None else step_size
    slopes, last = _equal_slopes(x0), None
    for step in range(steps):
        values, slope = gradient(lambda slopes: loss(recolour(x0, slopes)), slopes)
        if step % patience == 0:
            if last is not None and values.item() > 0.9999 * last:
                break
            last = values.item()
        slopes = (slopes - size * slope / (slope.norm() + 1e-8)).clamp(1 / PIECES, steepness / PIECES)
    return recolour(x0, slopes)


def advcf_adam(loss: Loss, x0: Images, *, step_size: float = 0.01, steps: int = 500, weight: float = 5.0) -> Images:
    """AdvCF with a penalty on unequal slopes, by Adam."""
    slopes = _equal_slopes(x0).requires_grad_()
    rule = torch.optim.Adam([slopes], lr=step_size)
    for _ in range(steps):
        rule.zero_grad()
        shares = slopes / slopes.sum(1, keepdim=True)
        (loss(recolour(x0, slopes)).sum() + weight * ((shares - 1 / PIECES) ** 2).sum()).backward()
        rule.step()
        slopes.data.clamp_(min=0.0)
    return recolour(x0, slopes).detach()


def recolour(x: Images, slopes: Slopes) -> Images:
    """An image through a colour curve for each channel, piece by piece."""
    total = torch.zeros_like(x)
    for k in range(PIECES):
        total = total + (x - k / PIECES).clamp(0, 1 / PIECES) * slopes[:, k].view(1, 3, 1, 1)
    return total * (PIECES / slopes.sum(1)).view(1, 3, 1, 1)


def _equal_slopes(x0: Images) -> Slopes:
    return torch.full((3, PIECES), 1 / PIECES, dtype=x0.dtype, device=x0.device)
