"""The convolutional part of VGG-16 with the names of torchvision's checkpoints."""

from torch import nn

_DEPTHS = (2, 2, 3, 3, 3)  # convolutions before each pool


def vgg16(last: int = 30, width: int = 64) -> nn.Sequential:
    """Layers 0 to ``last`` of ``features``; ``width`` is the number of channels of the first block."""
    layers: list[nn.Module] = []
    inputs = 3
    for block, depth in enumerate(_DEPTHS):
        outputs = width * min(2**block, 8)
        for _ in range(depth):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
            inputs = outputs
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers[: last + 1])
