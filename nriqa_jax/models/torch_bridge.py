"""PyTorch modules as functions of JAX arrays that have a first derivative; `nriqa_jax.models.adapters` uses them.

PyTorch is not imported: tensors make tensors (``new_tensor``) and differentiate themselves (``backward``).
"""

import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nriqa_jax.types import Scores

try:
    from jax.experimental.buffer_callback import buffer_callback
except ImportError:  # before JAX 0.6.1
    buffer_callback = None  # type: ignore[assignment]

Views = Float[Array, "batch 3 height width"]

_LOCK = threading.Lock()  # a module's mode is for all threads, and JAX calls from any


@dataclasses.dataclass(frozen=True, eq=False)
class TorchBridge:
    """A PyTorch module that JAX can call.

    Attributes:
      module: a ``torch.nn.Module`` on ``[batch, 3, height, width]``.
      like: a tensor on the device and in the number format that it computes in.
      select: ``(outputs, batch) -> scores [batch]``, in PyTorch.
    """

    module: Any
    like: Any
    select: Callable[[Any, int], Any]

    @classmethod
    def of(cls, module: Any, like: Any, select: Callable[[Any, int], Any]) -> "TorchBridge":
        """A bridge that computes like a tensor, or like the first parameter of the module where that is None.

        Raises:
          ValueError: when there is no parameter.
        """
        tensors = itertools.chain(module.parameters(), module.buffers())
        first = next((tensor for tensor in tensors if tensor.is_floating_point()), None) if like is None else like
        if first is None:
            raise ValueError(
                f"{type(module).__name__} has no parameters; say how it computes, such as like=torch.zeros(1)"
            )
        return cls(module, first, select)

    def __call__(self, images: Float[Array, "batch height width 3"]) -> Scores:
        """Scores of normalised images."""
        return _scores(self, jnp.transpose(images, (0, 3, 1, 2)))

    def scores(self, views: Any) -> tuple[np.ndarray]:
        """Scores of ``[..., 3, height, width]``, on the host."""
        views = np.asarray(views)
        with _LOCK, _constant(self.module):
            return (_numpy(self._run(self._tensor(views)), views.shape[:-3], views.dtype),)

    def scores_and_gradients(self, views: Any) -> tuple[np.ndarray, np.ndarray]:
        """The same, and the gradient of each score with respect to its view.

        Raises:
          ValueError: when PyTorch keeps no gradient.
        """
        views = np.asarray(views)
        with _LOCK, _constant(self.module):
            x = self._tensor(views).requires_grad_()
            scores = self._run(x)
            if not scores.requires_grad:
                raise ValueError(f"{type(self.module).__name__} gives no gradient; is it run under torch.no_grad()?")
            scores.sum().backward()
        return _numpy(scores, views.shape[:-3], views.dtype), _numpy(x.grad, views.shape, views.dtype)

    def _tensor(self, views: np.ndarray) -> Any:
        return self.like.new_tensor(views.reshape(-1, *views.shape[-3:]))

    def _run(self, x: Any) -> Any:
        return self.select(self.module(x), len(x))


def _numpy(tensor: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return tensor.detach().cpu().double().numpy().reshape(shape).astype(dtype)  # NumPy has no bfloat16


@contextlib.contextmanager
def _constant(module: Any) -> Iterator[None]:
    """Evaluation mode, and no gradients of parameters; afterwards the module is as it was."""
    training = [part for part in module.modules() if part.training]
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        module.eval()
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for part in training:
            part.training = True
        for parameter in trained:
            parameter.requires_grad_(True)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scores(bridge: TorchBridge, views: Views) -> Scores:
    bridge.scores(np.zeros(views.shape, views.dtype))  # what is wrong shows now, and not inside of a running program
    return _on_host(bridge.scores, (views.shape[:1],), views)[0]


def _scores_and_gradients(bridge: TorchBridge, views: Views) -> tuple[Scores, Views]:
    bridge.scores_and_gradients(np.zeros(views.shape, views.dtype))
    return _on_host(bridge.scores_and_gradients, (views.shape[:1], views.shape), views)


def _chain_rule(bridge: TorchBridge, gradients: Views, cotangents: Scores) -> tuple[Views]:
    del bridge
    return (cotangents[:, None, None, None] * gradients,)


_scores.defvjp(_scores_and_gradients, _chain_rule)


def _on_host(fn: Callable[[Any], tuple[np.ndarray, ...]], shapes: tuple[tuple[int, ...], ...], views: Views) -> Any:
    """Arrays of the given shapes that a function of a NumPy array computes; ``vmap`` gives it more leading axes."""
    kinds = tuple(jax.ShapeDtypeStruct(shape, views.dtype) for shape in shapes)
    if buffer_callback is None or jax.default_backend() != "cpu":
        return jax.pure_callback(fn, kinds, views, vmap_method="broadcast_all")

    def fill(context: Any, results: Any, views: Any) -> None:
        del context
        for result, values in zip(results, fn(views)):
            np.asarray(result)[...] = values

    # On CPUs, pure_callback copies its argument in the threads that compute; it waits for ever where none of them is
    # free, as on one core or with images on all devices.
    return buffer_callback(fill, kinds, vmap_method="broadcast_all")(views)
