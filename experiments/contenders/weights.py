"""Random weights in the layout of PyTorch state dicts, which all contenders share. No framework is imported here.

A tensor depends on its name and shape alone.
"""

import json
import math
import re
import subprocess
import sys
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

Tensors = dict[str, np.ndarray]

_EMBEDDINGS = {"cls_token", "pos_embed", "positional_embedding", "class_embedding", "relative_position_bias_table"}
_LAST_OF_BRANCH = re.compile(r"layer\d.*bn[23]\.weight$|downsample")
_OF_LOGITS = re.compile(
    r"\bc_[qk](\.weight|_kernel)$"
)  # without a norm before them; larger ones make errors of rounding grow


def of_model(name: str) -> Tensors:
    """Weights of a model that has a graph in ``weights_convert.torch_graphs``, without batch counters."""
    command = [sys.executable, "-m", "weights_convert.torch_graphs.shapes", name]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return draw_all(json.loads(printed))


def draw_all(shapes: Mapping[str, Sequence[int]]) -> Tensors:
    """Tensors by name."""
    return {name: draw(name, tuple(shape)) for name, shape in shapes.items()}


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor under which outputs depend on the input; default initialisation makes many nearly constant."""
    leaf, random = name.rpartition(".")[2], np.random.default_rng(zlib.crc32(name.encode()))
    if leaf == "logit_scale":
        values = np.full(shape, math.log(1 / 0.07))
    elif leaf == "running_var":
        values = random.uniform(0.5, 1.5, shape)
    elif leaf in _EMBEDDINGS:
        values = random.normal(0, 0.2, shape)
    elif len(shape) > 1:
        gain = 0.1 if _OF_LOGITS.search(name) else 2.0 if len(shape) == 4 else 1.0
        values = random.normal(0, math.sqrt(gain / math.prod(shape[1:])), shape)
    elif leaf == "weight":
        values = random.uniform(*((0.2, 0.5) if _LAST_OF_BRANCH.search(name) else (0.5, 1.5)), shape)
    else:
        values = random.normal(0, 0.1, shape)
    return values.astype(np.float32)
