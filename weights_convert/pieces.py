"""Pieces of rule tables: the layers and backbones that several checkpoints have.

Variables are named after the authors' checkpoints, so most rules only change the leaf: ``weight`` becomes ``kernel`` in
JAX's layout (HWIO for a convolution, (in, out) for a dense layer), the four leaves of a batch norm become ``scale``,
``bias``, ``mean`` and ``var``. The models flatten feature maps in PyTorch's NCHW order at run time, so that no columns
have to be permuted here.
"""

import numpy as np

from weights_convert.rules import Rule


def to_kernel(weight: np.ndarray) -> np.ndarray:
    """OIHW -> HWIO for a convolution, (out, in) -> (in, out) for a dense layer; other ranks are left alone."""
    order = {4: (2, 3, 1, 0), 2: (1, 0)}.get(weight.ndim)
    return weight if order is None else weight.transpose(order)


def layer(source: str, target: str) -> tuple[Rule, ...]:
    """A convolution or a dense layer; ``source`` is a pattern, ``target`` a path that may refer to its groups."""
    return (
        Rule(rf"{source}\.weight", f"params/{target}/kernel", to_kernel),
        Rule(rf"{source}\.bias", f"params/{target}/bias"),
    )


def norm(source: str, target: str) -> tuple[Rule, ...]:
    """A batch norm with its running statistics."""
    return (
        Rule(rf"{source}\.weight", f"params/{target}/scale"),
        Rule(rf"{source}\.bias", f"params/{target}/bias"),
        Rule(rf"{source}\.running_mean", f"batch_stats/{target}/mean"),
        Rule(rf"{source}\.running_var", f"batch_stats/{target}/var"),
    )


def resnet(source: str, target: str) -> tuple[Rule, ...]:
    """A ResNet without its classifier; timm and torchvision use the same names."""
    block = rf"{source}\.layer(\d)\.(\d+)\."
    return (
        *layer(rf"{source}\.conv1", f"{target}/conv1"),
        *norm(rf"{source}\.bn1", f"{target}/bn1"),
        *layer(block + r"(conv\d)", rf"{target}/layer\1_\2/\3"),
        *norm(block + r"(bn\d)", rf"{target}/layer\1_\2/\3"),
        *layer(block + r"downsample\.0", rf"{target}/layer\1_\2/downsample_0"),
        *norm(block + r"downsample\.1", rf"{target}/layer\1_\2/downsample_1"),
    )


def unused(pattern: str) -> Rule:
    """Tensors that a checkpoint carries and the model has no use for."""
    return Rule(pattern, None)
