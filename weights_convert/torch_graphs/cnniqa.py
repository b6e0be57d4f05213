"""CNNIQA (Kang et al., CVPR 2014) with the names of its PyTorch checkpoint."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class CNNIQA(nn.Module):
    """One score for each locally normalised 32x32 grey patch."""

    def __init__(self) -> None:
        """Layers."""
        super().__init__()
        self.conv1 = nn.Conv2d(1, 50, 7)
        self.fc1, self.fc2, self.fc3 = nn.Linear(100, 800), nn.Linear(800, 800), nn.Linear(800, 1)

    def forward(self, patches: Tensor) -> Tensor:
        """Scores of patches ``[n, 1, 32, 32]``."""
        maps = self.conv1(patches).flatten(2)
        x = torch.cat((maps.max(2).values, maps.min(2).values), 1)
        x = functional.relu(self.fc2(functional.relu(self.fc1(x))))
        return self.fc3(x)[:, 0]
