"""Whether converted weights compute what PyTorch computes with the checkpoint: outputs and input gradients."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from nriqa_jax.models.model import Model
from weights_convert import torch_graphs
from weights_convert.rules import Conversion, expected_shapes, match_rules, unflatten
from weights_convert.tables import LAYOUTS

OUTPUTS, GRADIENTS = 1e-4, 2e-2  # largest differences that float32 explains: a ReLU may be decided by rounding
_VIEWS = 2


class Agreement(NamedTuple):
    """Differences to PyTorch on random views, relative to the size of what is compared.

    Attributes:
      outputs: largest difference of an output of the network.
      gradients: largest norm of the difference of an input gradient.
    """

    outputs: float
    gradients: float

    def holds(self) -> bool:
        """Whether rounding explains the differences."""
        return self.outputs <= OUTPUTS and self.gradients <= GRADIENTS


def against_torch(model: Model, tensors: Mapping[str, np.ndarray], conversion: Conversion) -> Agreement:
    """Compare a conversion with the network in PyTorch that holds the tensors of the checkpoint as they are.

    Args:
      model: the model.
      tensors: the checkpoint, as from ``read_tensors``.
      conversion: what became of it.

    Raises:
      KeyError: when there is no PyTorch network of this model.
      ModuleNotFoundError: without torch.
    """
    views = np.random.default_rng(0).normal(0, 1, (_VIEWS, *model.view_shape)).astype(np.float32)
    expected = _torch_outputs(model, tensors, conversion, views)
    found = _outputs(model, conversion, views)
    differences = (np.abs(a - b) for a, b in zip(found, expected))
    outputs, gradients = (np.sqrt(np.sum(d**2, axis=tuple(range(1, d.ndim)))) for d in differences)
    sizes = [np.sqrt(np.sum(value**2, axis=tuple(range(1, value.ndim)))) for value in expected]
    return Agreement(float(np.max(outputs / sizes[0].max())), float(np.max(gradients / sizes[1])))


Compared = tuple[Float[np.ndarray, " views *outputs"], Float[np.ndarray, "views height width channels"]]


def _outputs(model: Model, conversion: Conversion, views: np.ndarray) -> Compared:
    variables = jax.device_put(unflatten(conversion.arrays))

    def total(views: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs: Any = model.network.apply(variables, views)
        return jnp.sum(outputs), outputs

    (_, outputs), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(jnp.asarray(views))
    return np.asarray(outputs), np.asarray(gradient)


def _torch_outputs(
    model: Model, tensors: Mapping[str, np.ndarray], conversion: Conversion, views: np.ndarray
) -> Compared:
    graph = torch_graphs.build(model.name)
    state = {name: tensor.numpy() for name, tensor in graph.state_dict().items()}
    own, _ = match_rules(LAYOUTS[model.name]["original"].rules, state, expected_shapes(model))
    weights = {own.sources[path]: tensors[source] for path, source in conversion.sources.items() if path in own.sources}
    return torch_graphs.run(graph, weights, views)
