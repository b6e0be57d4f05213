"""PyTorch networks with the random weights of ``experiments.contenders.weights``, and views to feed them."""

from typing import Any

import numpy as np

from experiments.contenders.weights import draw_all


def randomize(net: Any) -> Any:
    """A PyTorch network with weights that depend on the names of its tensors alone."""
    import torch

    from weights_convert.torch_graphs.shapes import shapes_of

    net.load_state_dict({name: torch.from_numpy(x) for name, x in draw_all(shapes_of(net)).items()}, strict=False)
    return net


def tensors_of(net: Any) -> dict[str, np.ndarray]:
    """The state dict of a PyTorch network as numpy arrays."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in net.state_dict().items()}


def views(batch: int, side: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Normalised views, of the size of photographs that were divided by their standard deviation."""
    return np.random.default_rng(seed).normal(0, 1, (batch, *side, 3)).astype(np.float32)
