"""MetaIQA (Zhu et al., CVPR 2020) with the names of its authors' checkpoints."""

from torch import Tensor, nn

from weights_convert.torch_graphs.resnet import BasicBlock, ResNet


class Classifier(ResNet):
    """ResNet-18 with its classifier."""

    def __init__(self, width: int, classes: int) -> None:
        """Layers."""
        super().__init__(BasicBlock, (2, 2, 2, 2), width, expansion=1)
        self.fc = nn.Linear(self.channels[-1], classes)

    def forward(self, views: Tensor) -> Tensor:
        """Logits."""
        return self.fc(self.features(views)[-1].mean((2, 3)))


class Head(nn.Module):
    """The regression from logits to a score in (0, 1)."""

    def __init__(self, inputs: int, hidden: tuple[int, int]) -> None:
        """Layers."""
        super().__init__()
        self.fc1, self.bn1, self.relu1 = nn.Linear(inputs, hidden[0]), nn.BatchNorm1d(hidden[0]), nn.PReLU()
        self.fc2, self.bn2, self.relu2 = nn.Linear(*hidden), nn.BatchNorm1d(hidden[1]), nn.PReLU()
        self.fc3 = nn.Linear(hidden[1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        x = self.relu1(self.bn1(self.fc1(x)))
        x = self.relu2(self.bn2(self.fc2(x)))
        return self.fc3(x).sigmoid()[:, 0]


class MetaIQA(nn.Module):
    """MetaIQA on normalised views."""

    def __init__(self, width: int = 64, classes: int = 1000, hidden: tuple[int, int] = (1024, 512)) -> None:
        """Layers."""
        super().__init__()
        self.resnet_layer, self.net = Classifier(width, classes), Head(classes, hidden)

    def forward(self, views: Tensor) -> Tensor:
        """One score per view."""
        return self.net(self.resnet_layer(views))
