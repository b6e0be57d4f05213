"""Random weights in the layout of PyTorch state dicts, which all contenders share. No framework is imported here."""

from collections.abc import Callable, Mapping

import numpy as np

Tensors = dict[str, np.ndarray]
Shape = tuple[int, ...]


def trunk_shapes() -> dict[str, Shape]:
    """Names and shapes of a ResNet-50 without classifier; a shape of one number stands for a whole batch norm."""
    shapes: dict[str, Shape] = {"conv1": (64, 3, 7, 7), "bn1": (64,)}
    inputs = 64
    for stage, (blocks, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512)), start=1):
        for block in range(blocks):
            name, out = f"layer{stage}.{block}", 4 * width
            convolutions = ((width, inputs, 1, 1), (width, width, 3, 3), (out, width, 1, 1))
            for index, shape in enumerate(convolutions, start=1):
                shapes |= {f"{name}.conv{index}": shape, f"{name}.bn{index}": (shape[0],)}
            if block == 0:
                shapes |= {f"{name}.downsample.0": (out, inputs, 1, 1), f"{name}.downsample.1": (out,)}
            inputs = out
    return shapes


def hyperiqa_head_shapes() -> dict[str, Shape]:
    """Names and shapes of what follows the trunk in HyperIQA, as its authors name it."""
    shapes: dict[str, Shape] = {f"res.lda{i + 1}_pool.0": (16 << i, 256 << i, 1, 1) for i in range(3)}
    shapes |= {f"res.lda{i + 1}_fc": (16, 1024 >> i) for i in range(3)} | {"res.lda4_fc": (176, 2048)}
    channels = (2048, 1024, 512, 112)
    shapes |= {f"conv1.{2 * i}": (channels[i + 1], channels[i], 1, 1) for i in range(3)}
    shapes |= {f"fc{i + 1}w_conv": (out, 112, 3, 3) for i, out in enumerate((512, 128, 32, 8))}
    return shapes | {"fc5w_fc": (14, 112)} | {f"fc{i + 1}b_fc": (n, 112) for i, n in enumerate((112, 56, 28, 14, 1))}


def hyperiqa(seed: int = 0) -> Tensors:
    """HyperIQA, scaled so that the score depends on the image."""
    draw = np.random.default_rng(seed)
    return _trunk(draw) | _layers(draw, hyperiqa_head_shapes(), 1.0)


def resnet50(seed: int = 0) -> Tensors:
    """A ResNet-50 trunk ``res`` and a linear layer ``fc`` to one score."""
    draw = np.random.default_rng(seed)
    return _trunk(draw) | _layers(draw, {"fc": (1, 2048)}, 1.0)


def cnniqa(seed: int = 0) -> Tensors:
    """CNNIQA."""
    shapes: dict[str, Shape] = {"conv1": (50, 1, 7, 7), "fc1": (800, 100), "fc2": (800, 800), "fc3": (1, 800)}
    return _layers(np.random.default_rng(seed), shapes, 2.0)


TENSORS: Mapping[str, Callable[[], Tensors]] = {"hyperiqa": hyperiqa, "resnet50": resnet50, "cnniqa": cnniqa}


def _trunk(draw: np.random.Generator) -> Tensors:
    """The trunk under the name ``res``; residual branches add little, so that activations keep their size."""
    tensors: Tensors = {}
    for name, shape in trunk_shapes().items():
        if len(shape) > 1:
            tensors[f"res.{name}.weight"] = _normal(draw, shape, 2.0)
            continue
        low, high = (0.2, 0.5) if name[-3:] == "bn3" or "downsample" in name else (0.5, 1.5)
        leaves = {"weight": draw.uniform(low, high, shape), "bias": draw.normal(0, 0.1, shape)}
        leaves |= {"running_mean": draw.normal(0, 0.1, shape), "running_var": draw.uniform(0.5, 1.5, shape)}
        tensors |= {f"res.{name}.{leaf}": value.astype(np.float32) for leaf, value in leaves.items()}
        tensors[f"res.{name}.num_batches_tracked"] = np.array(100)
    return tensors


def _layers(draw: np.random.Generator, shapes: Mapping[str, Shape], gain: float) -> Tensors:
    tensors: Tensors = {}
    for name, shape in shapes.items():
        tensors[f"{name}.weight"] = _normal(draw, shape, gain)
        if not name.endswith("_pool.0"):
            tensors[f"{name}.bias"] = draw.normal(0, 0.1, shape[0]).astype(np.float32)
    return tensors


def _normal(draw: np.random.Generator, shape: Shape, gain: float) -> np.ndarray:
    """Weights that multiply the variance of their inputs by ``gain``, about."""
    return draw.normal(0, np.sqrt(gain / np.prod(shape[1:])), shape).astype(np.float32)
