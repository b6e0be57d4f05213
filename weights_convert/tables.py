"""Rule tables, one per model and checkpoint layout.

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


CNNIQA = layer(r"(conv1|fc[123])", r"\1")

# Su et al., CVPR 2020; the gradient-norm training release (DefenseIQA-NT) has the same names in a container `model`.
HYPERIQA = (
    *resnet("res", "res"),
    *layer(r"res\.(lda[123]_pool)\.0", r"\1"),
    *layer(r"res\.(lda[1234]_fc)", r"\1"),
    *layer(r"conv1\.([024])", r"conv1_\1"),
    *layer(r"(fc[1234]w_conv|fc5w_fc|fc[12345]b_fc)", r"\1"),
)

# The same network in pyiqa; its lists count from 0, and its weights give scores of about 0..1 instead of 0..100.
HYPERIQA_PYIQA = (
    *resnet("base_model", "res"),
    *(rule for i in range(3) for rule in layer(rf"lda_modules\.{i}\.0", f"lda{i + 1}_pool")),
    *(rule for i in range(3) for rule in layer(rf"lda_modules\.{i}\.3", f"lda{i + 1}_fc")),
    *layer(r"lda_modules\.3\.2", "lda4_fc"),
    *layer(r"conv1\.([024])", r"conv1_\1"),
    *(rule for i in range(4) for rule in layer(rf"fc_w_modules\.{i}", f"fc{i + 1}w_conv")),
    *layer(r"fc_w_modules\.4\.2", "fc5w_fc"),
    *(rule for i in range(5) for rule in layer(rf"fc_b_modules\.{i}\.2", f"fc{i + 1}b_fc")),
)

LAYOUTS: dict[str, dict[str, tuple[Rule, ...]]] = {
    "cnniqa": {"original": CNNIQA},
    "hyperiqa": {"original": HYPERIQA, "pyiqa": HYPERIQA_PYIQA},
}
