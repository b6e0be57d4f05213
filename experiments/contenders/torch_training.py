"""Steps of training in PyTorch, with the penalty on gradients of the scores computed in several ways.

Batch norm is in training mode in every pass, since its layers know no other statistics for a further pass on the same
batch. Penalties are with respect to normalised views.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad, grad

from experiments.contenders.torch_models import OnImages
from experiments.contenders.worker import Runner
from experiments.contenders.workloads import LEARNING_RATE, PENALTY_STEP, PENALTY_WEIGHT, TRAINING, WEIGHT_DECAY

Views = Float[Tensor, "batch 3 height width"]
Scores = Float[Tensor, " batch"]
Score = Callable[[Tensor], Tensor]
Slopes = tuple[Scores, Scores | None]  # scores, and their slopes along the penalised direction


def plain(score: Score, views: Views) -> Slopes:
    """No penalty."""
    return score(views), None


def finite_difference(score: Score, views: Views) -> Slopes:
    """Two passes; the first serves the loss too."""
    scores, sign = _with_sign(score, views)
    return scores, (score(views + PENALTY_STEP * sign) - scores) / PENALTY_STEP


def published(score: Score, views: Views) -> Slopes:
    """Three passes, as in the published code: one for the loss, two for the penalty."""
    return score(views), finite_difference(score, views)[1]


def forward_mode(score: Score, views: Views) -> Slopes:
    """The derivative along the sign of the gradient, beside the scores of a second pass."""
    _, sign = _with_sign(score, views)
    with forward_ad.dual_level():
        scores, slopes = forward_ad.unpack_dual(score(forward_ad.make_dual(views, sign)))
    return scores, slopes


def double_backprop(score: Score, views: Views) -> Slopes:
    """The l1 norm of the gradient, differentiated once more."""
    views = views.requires_grad_()
    scores = score(views)
    (slope,) = grad(scores.sum(), views, create_graph=True)
    return scores, slope.abs().sum((1, 2, 3))


METHODS: Mapping[str | None, Callable[[Score, Views], Slopes]] = {
    None: plain,
    "finite_difference": finite_difference,
    "jvp": forward_mode,
    "double_backprop": double_backprop,
}


def _with_sign(score: Score, views: Views) -> tuple[Scores, Views]:
    """Scores, and the sign of their gradients, through which nothing flows."""
    inputs = views.detach().requires_grad_()
    scores = score(inputs)
    (slope,) = grad(scores.sum(), inputs, retain_graph=True)
    return scores, slope.sign()


def losses(
    model: OnImages, images: Views, labels: Scores, method: Callable[[Score, Views], Slopes]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The mean absolute error, and what is minimised."""
    views = ((images - model.mean) / model.std).to(next(model.parameters()).dtype)
    scores, slopes = method(lambda views: model.pool(model.network(views)), views)
    loss = (scores - labels).abs().mean()
    return loss, loss if slopes is None else loss + PENALTY_WEIGHT * (slopes**2).mean() / 2


def training_runner(model: OnImages, images: Views, labels: np.ndarray, task: str, *, literal: bool = False) -> Runner:
    """Steps on one batch; they give the loss.

    Args:
      model: to train.
      images: in [0, 1].
      labels: of the images.
      task: key of `TRAINING`.
      literal: compute finite differences in three passes.
    """
    method = published if literal else METHODS[TRAINING[task]]
    model.train()
    targets = torch.from_numpy(labels).to(images.device)
    optimiser = torch.optim.Adam(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=not literal)

    def run() -> np.ndarray:
        optimiser.zero_grad()
        loss, total = losses(model, images, targets, method)
        total.backward()
        optimiser.step()
        return loss.detach().float().cpu().numpy()

    return run
