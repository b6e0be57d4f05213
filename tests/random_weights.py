"""PyTorch networks with the random weights of ``experiments.contenders.weights``, and views to feed them."""

from typing import Any

import jax
import numpy as np

from experiments.contenders.weights import draw, draw_all
from nriqa_jax.models.model import Model
from weights_convert.rules import flatten, unflatten

_LEAVES = {"kernel": "weight", "k": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


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


def with_weights(model: Model):
    """The model with random weights under which scores depend on the image."""
    shapes = flatten(jax.eval_shape(model.init, jax.random.key(0)))
    drawn = {}
    for path, spec in shapes.items():
        stem, _, leaf = path.replace("/", ".").rpartition(".")
        torch_order = (3, 2, 0, 1) if len(spec.shape) == 4 else tuple(range(len(spec.shape)))[::-1]
        shape = tuple(spec.shape[axis] for axis in torch_order)
        array = draw(f"{stem}.{_LEAVES.get(leaf, leaf)}", shape)
        drawn[path] = np.array(array.transpose(np.argsort(torch_order)), order="C")
    return model, unflatten(drawn)
