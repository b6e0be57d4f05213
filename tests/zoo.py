"""What the tests know of every converted model: its PyTorch graph, a narrow copy of both, and published counts."""

import dataclasses
import importlib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from nriqa_jax.models.dbcnn import dbcnn
from nriqa_jax.models.hyperiqa import hyperiqa
from nriqa_jax.models.metaiqa import metaiqa
from nriqa_jax.models.model import Model


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Attributes:
      build: the model.
      graph: ``module:callable`` under ``weights_convert.torch_graphs``; its state dict has the layout "original", and
        its ``forward`` maps normalised views ``[n, 3, h, w]`` to what the network of the model gives.
      parameters: trained numbers, as published.
      entries: tensors of a state dict, batch counters included.
      sides: heights and widths of views: the native size, and an odd one where the network takes any.
      narrow: attributes of the network, under which it is small enough for golden files.
      narrow_graph: the same for the graph, where they are others.
      narrow_sides: sizes of views for the narrow network; by default ``sides``.
      extra: entries of a file that are beside the state dict.
    """

    build: Callable[[], Model]
    graph: str
    parameters: int
    entries: int
    sides: tuple[tuple[int, int], ...]
    narrow: Mapping[str, Any] | None = None
    narrow_graph: Mapping[str, Any] | None = None
    narrow_sides: tuple[tuple[int, int], ...] | None = None
    extra: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def narrow_model(self) -> Model:
        """The model with a narrow network."""
        model = self.build()
        return dataclasses.replace(model, network=model.network.clone(**self.narrow))

    def make_narrow_graph(self) -> Any:
        """The PyTorch network of `narrow_model`."""
        return self.make_graph(**(self.narrow if self.narrow_graph is None else self.narrow_graph))

    def make_graph(self, **options: Any) -> Any:
        """The PyTorch network, in evaluation mode; the test is skipped where torch is absent."""
        pytest.importorskip("torch")
        module, _, name = self.graph.partition(":")
        graph = getattr(importlib.import_module(f"weights_convert.torch_graphs.{module}"), name)
        return graph(**options).eval()


ZOO: Mapping[str, Entry] = {
    "dbcnn": Entry(
        dbcnn,
        "dbcnn:DBCNN",
        15_311_345,
        91,
        ((224, 224), (161, 203)),
        narrow={"width": 4, "scnn_widths": (4, 4, 6, 6, 6, 6, 8, 8, 8)},
        narrow_sides=((64, 96), (49, 70)),
    ),
    "hyperiqa": Entry(
        hyperiqa,
        "hyperiqa:HyperIQA",
        27_375_369,
        355,
        ((224, 224),),
        narrow={"width": 4, "hyper": (16, 16, 16), "target": (56, 28, 14, 7, 7, 1)},
    ),
    "metaiqa": Entry(
        metaiqa,
        "metaiqa:MetaIQA",
        13_242_923,
        140,
        ((224, 224), (161, 203)),
        narrow={"width": 4, "classes": 20, "hidden": (16, 8)},
        narrow_sides=((64, 64), (49, 70)),
    ),
}
NARROW = [name for name, entry in ZOO.items() if entry.narrow is not None]

_KEPT = {"attn_mask", "filter", "mean", "std", "logit_scale"}
_EMBEDDINGS = {"cls_token", "pos_embed", "positional_embedding", "class_embedding", "relative_position_bias_table"}
_LAST_OF_BRANCH = re.compile(r"layer\d.*bn[23]\.weight$|downsample")


def randomize(net: Any, seed: int = 0) -> Any:
    """Weights under which the output depends on the input; default initialisation makes it nearly constant."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict(keep_vars=True).items():
            leaf = name.rpartition(".")[2]
            if not tensor.is_floating_point() or leaf in _KEPT:
                continue
            if leaf == "running_var":
                tensor.uniform_(0.5, 1.5, generator=draw)
            elif leaf in _EMBEDDINGS:
                tensor.normal_(0, 0.2, generator=draw)
            elif tensor.ndim > 1:
                gain = 2.0 if tensor.ndim == 4 else 1.0
                tensor.normal_(0, math.sqrt(gain / tensor[0].numel()), generator=draw)
            elif leaf == "weight":
                low, high = (0.2, 0.5) if _LAST_OF_BRANCH.search(name) else (0.5, 1.5)
                tensor.uniform_(low, high, generator=draw)
            else:
                tensor.normal_(0, 0.1, generator=draw)
    return net


def tensors_of(net: Any) -> dict[str, np.ndarray]:
    """The state dict of a PyTorch network as numpy arrays."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in net.state_dict().items()}


def views(batch: int, side: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Normalised views, of the size of photographs that were divided by their standard deviation."""
    return np.random.default_rng(seed).normal(0, 1, (batch, *side, 3)).astype(np.float32)
