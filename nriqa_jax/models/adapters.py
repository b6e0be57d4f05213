"""Outside models as score functions: Flax Linen and NNX modules, PyTorch modules, any callable.

    score_fn = from_linen(module, variables, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    attack = ifgsm(raise_score(), epsilon=4 / 255)
    result = run_attack(attack, score_fn, images, keys)

The keyword arguments of every adapter are the fields of `Options`. A score function is a pytree whose leaves are the
weights, so that other weights of the same module compile nothing new.

`from_torch` is here beside its siblings, although this library never imports PyTorch: the module that comes in brings
all that is needed. Its parameters make tensors (``new_tensor``), and these differentiate themselves (``backward``).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
from flax import nnx
from jax.tree_util import Partial
from jaxtyping import Array, Float, PyTree

from nriqa_jax.image import normalize
from nriqa_jax.models.torch_bridge import TorchBridge
from nriqa_jax.resize import resize_torch
from nriqa_jax.types import Images, Scores


def _unchanged(outputs: Any) -> Any:
    return outputs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What lies between the pixels and a network, and between its output and a score.

    Attributes:
      mean: of each channel, subtracted from images in [0, 1].
      std: of each channel, by which they are then divided.
      size: height and width that images are resized to first, bilinear as in PyTorch; by default they keep theirs.
      antialias: whether resizing averages over the pixels between samples, as torchvision does.
      output: from what the network returns for a batch to one number per image, such as ``lambda out: out["score"]``;
        axes of length one at the end do not matter.
    """

    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)
    size: Sequence[int] | None = None
    antialias: bool = True
    output: Callable[[Any], Any] = _unchanged

    def __post_init__(self) -> None:
        for name in ("mean", "std", "size"):
            value = getattr(self, name)
            object.__setattr__(self, name, value if value is None else tuple(value))  # lists have no hash

    def views(self, images: Images) -> Float[Array, "batch _ _ 3"]:
        """What the network sees."""
        if self.size is not None:
            height, width = self.size
            images = resize_torch(images, height, width, antialias=self.antialias)
        return normalize(images, tuple(self.mean), tuple(self.std))

    def scores(self, outputs: Any, count: int) -> Any:
        """One number for each of ``count`` images, from outputs of JAX, NumPy or PyTorch.

        Raises:
          ValueError: when ``output`` gives anything else.
        """
        outputs = self.output(outputs)
        shape = tuple(outputs.shape) if hasattr(outputs, "shape") else None
        if shape is None or _without_last_ones(shape) != _without_last_ones((count,)):
            found = f"a {type(outputs).__name__}" if shape is None else f"the shape {shape}"
            raise ValueError(
                f"the model's output for {count} images is {found} instead of one number per image; "
                "say which number counts, such as output=lambda out: out[:, 0]"
            )
        return outputs.reshape(count)


def _without_last_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


@dataclasses.dataclass(frozen=True)
class _Adapted:
    """A network between its preprocessing and its output; equal adapters compile once."""

    network: Callable[..., Any]
    options: Options

    def __call__(self, *weights_and_images: Any) -> Scores:
        *weights, images = weights_and_images
        outputs = self.network(*weights, self.options.views(images))
        return self.options.scores(outputs, len(images)).astype(images.dtype)


def from_callable(fn: Callable[..., Any], *weights: PyTree, **options: Any) -> Partial:
    """A function of images, or of weights and images, as a score function.

    A Linen module whose call has more arguments is
    ``from_callable(partial(module.apply, train=False), variables)``; an Equinox module on single images,
    ``from_callable(lambda module, images: jax.vmap(module)(images), module)``.

    Args:
      fn: ``(*weights, images) -> outputs``, for ``[batch, height, width, 3]``; leaves of a pytree are weights, too.
      *weights: trees of arrays.
      **options: fields of `Options`.
    """
    if not jax.tree_util.all_leaves([fn]):
        return from_callable(_call, fn, *weights, **options)
    return Partial(_Adapted(fn, Options(**options)), *weights)


def _call(fn: Callable[..., Any], *arguments: Any) -> Any:
    return fn(*arguments)


def from_linen(module: nn.Module, variables: PyTree, **options: Any) -> Partial:
    """A Flax Linen module as a score function.

    Args:
      module: its call maps ``[batch, height, width, 3]`` to scores, with running statistics and without dropout.
      variables: as ``module.apply`` takes them.
      **options: fields of `Options`.
    """
    return from_callable(module.apply, variables, **options)


def from_nnx(module: nnx.Module, **options: Any) -> Partial:
    """A Flax NNX module as a score function, in evaluation mode whatever mode the module is in.

    Args:
      module: its call maps ``[batch, height, width, 3]`` to scores. It is copied, so later training does not show.
      **options: fields of `Options`.
    """
    module = nnx.clone(module)
    module.eval()
    return from_callable(_call_nnx, *nnx.split(module), **options)


def _call_nnx(graph: PyTree, state: PyTree, views: Array) -> Any:
    return nnx.merge(graph, state)(views)


def from_torch(module: Any, *, like: Any = None, **options: Any) -> Partial:
    """A PyTorch module as a score function, for attacks that nobody waits for.

    **Slow:** every step copies the images to PyTorch and the gradient back, and nothing is fused; convert weights
    with ``weights_convert`` where the zoo has the model. The module runs where its parameters are, in evaluation mode;
    one call gives the scores and the gradient with respect to pixels. ``jax.grad``, ``jit`` and ``vmap`` work. Forward
    mode (``jax.jvp``) and second derivatives do not: PyTorch gives first gradients only. More JAX devices gain nothing.
    Images must not influence each other's scores.

    Args:
      module: a ``torch.nn.Module`` from normalised ``[batch, 3, height, width]`` to scores, differentiable; of a metric
        of pyiqa this is ``metric.net``. Its mode and its parameters are afterwards as they were.
      like: a tensor on the device and in the number format that the module computes in; by default its first
        parameter.
      **options: fields of `Options`; ``output`` is applied to what the module returns, in PyTorch.

    Raises:
      ValueError: when the module has no parameters and ``like`` is not given.
    """
    chosen = Options(**options)
    bridge = TorchBridge.of(module, like, chosen.scores)
    return Partial(_Adapted(bridge, dataclasses.replace(chosen, output=_unchanged)))
