"""The networks in PyTorch, one file a model: what conversions are verified against, and speed is measured against.

Only the modules of this folder import torch; the table here can be read without it.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

GRAPHS: Mapping[str, str] = {
    "cnniqa": "cnniqa:CNNIQA",
    "dbcnn": "dbcnn:DBCNN",
    "dbcnn_sma": "dbcnn:dbcnn_sma",
    "hyperiqa": "hyperiqa:HyperIQA",
    "linearity": "linearity:linearity",
    "linearity_resnet18": "linearity:linearity_resnet18",
    "linearity_resnet34": "linearity:linearity_resnet34",
    "linearity_resnet50": "linearity:linearity_resnet50",
    "liqe": "liqe:LIQE",
    "liqe_mix": "liqe:liqe_mix",
    "maniqa": "maniqa:MANIQA",
    "maniqa_pipal": "maniqa:maniqa_pipal",
    "metaiqa": "metaiqa:MetaIQA",
    "resnet18": "resnet:resnet18_score",
    "resnet50": "resnet:ResNetScore",
    "spaq_bl": "spaq:Baseline",
    "spaq_mta": "spaq:attributes",
    "spaq_mte": "spaq:WithTags",
    "spaq_mts": "spaq:WithScenes",
}


def build(name: str, **options: Any) -> Any:
    """The network of a model, in evaluation mode, with PyTorch's own random weights.

    Its state dict has the layout "original" of the model (``resnet18`` and ``resnet50`` are no models, but what speed
    is measured with). It maps normalised views ``[n, 3, h, w]`` to what the network in JAX gives for them.

    Args:
      name: of the model.
      **options: attributes of the network, such as its width.

    Raises:
      KeyError: for a model without a graph.
      ModuleNotFoundError: without torch.
    """
    module, _, function = GRAPHS[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), function)(**options).eval()


def run(graph: Any, weights: Mapping[str, np.ndarray], views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and input gradients of the sum of outputs of a network under weights by name.

    Args:
      graph: as from `build`.
      weights: the others stay as they are.
      views: normalised views ``[n, h, w, c]``.

    Returns:
      Outputs ``[n, ...]`` and gradients ``[n, h, w, c]``.
    """
    torch = importlib.import_module("torch")
    graph.load_state_dict({**graph.state_dict(), **{name: torch.tensor(array) for name, array in weights.items()}})
    x = torch.tensor(views).permute(0, 3, 1, 2).contiguous().requires_grad_()
    outputs = graph(x)
    outputs.sum().backward()
    return outputs.detach().numpy(), x.grad.permute(0, 2, 3, 1).numpy()
