"""The toolbox torchattacks (Kim, 2020), whose BIM is I-FGSM; it needs torch, scipy and tqdm, and not torchvision."""

from importlib import metadata
from typing import Any

import numpy as np
import torch
import torchattacks
from torch import Tensor, nn

from experiments.contenders.torch_eager import Eager
from experiments.contenders.worker import Runner
from experiments.contenders.workloads import EPSILON, STEP_SIZE, STEPS, Workload


class ScoreAsLogits(nn.Module):
    """A score as two logits, since the toolbox attacks classifiers: raising the loss of class 1 raises the score."""

    def __init__(self, network: nn.Module) -> None:
        """Wrap a network."""
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """The score, and zero."""
        scores = self.network(images)
        return torch.stack((scores, torch.zeros_like(scores)), 1)


class Toolbox(Eager):
    """`torchattacks.BIM` on batches, weights frozen."""

    def facts(self) -> dict[str, Any]:
        """Device and versions."""
        facts = super().facts()
        return facts | {"versions": facts["versions"] | {"torchattacks": metadata.version("torchattacks")}}

    def prepare(self, workload: Workload) -> Runner:
        """See `worker.Contender`."""
        network, clean = self.model(workload.model), self.images(workload)
        attack = torchattacks.BIM(ScoreAsLogits(network), eps=EPSILON, alpha=STEP_SIZE, steps=STEPS)
        labels = torch.ones(len(clean), dtype=torch.long)

        def run() -> np.ndarray:
            images = attack(clean, labels)
            with torch.no_grad():
                return self.host(network(images))

        return run
