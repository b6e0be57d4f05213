"""What a full-reference distance with weights is: a network that compares an image with its original."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nriqa_jax.prepare import Variables, prepare
from nriqa_jax.types import Images, Scores

_SIDE = 32  # of the images that weights are initialised with


def as_they_are(images: Images) -> Images:
    """The view that changes nothing."""
    return images


@dataclasses.dataclass(frozen=True)
class Distance:
    """A full-reference distance: 0 for identical images, larger for more different ones, without an upper limit.

    Attributes:
      name: what its converted weights are known by.
      citation: paper that defines it.
      network: Linen module, ``(attacked, images) -> [batch]`` for images in [0, 1]; its backbone is the field ``net``.
      min_side: shortest side, in pixels, of images that it can compare.
      code_licence: licence of the reference implementation.
      weights_licence: licence of the published weights.
      view: what becomes of images before the network sees them.
    """

    name: str
    citation: str
    network: nn.Module
    min_side: int
    code_licence: str
    weights_licence: str
    view: Callable[[Images], Float[Array, "batch h w 3"]] = as_they_are

    def init(self, key: Array) -> Variables:
        """Random weights, for tests."""
        blank = jnp.zeros((1, *self._shape()))
        return self.network.init(key, blank, blank)

    def apply(self, variables: Variables, attacked: Images, images: Images) -> Scores:
        """Distances of changed images to their originals; differentiable, with a gradient of 0 where they are equal.

        The network computes in the number format of its variables, sums over positions in float32 or better.

        Raises:
          ValueError: when the images are too small.
        """
        height, width = images.shape[1:3]
        if min(height, width) < self.min_side:
            raise ValueError(f"{self.name} needs at least {self.min_side} pixels a side, got {height}x{width}")
        dtype = jnp.result_type(*jax.tree.leaves(variables))
        pair = (self.view(batch).astype(dtype) for batch in (attacked, images))
        found: Any = self.network.apply(variables, *pair)
        return found.astype(attacked.dtype)

    def prepare(self, variables: Variables, dtype: Any = jnp.float32) -> Variables:
        """The same weights laid out for fast inference in a number format; see ``nriqa_jax.prepare``."""
        net: Any = self.network
        params = {name: jax.tree.map(lambda x: x.astype(dtype), value) for name, value in variables["params"].items()}
        backbone = prepare(net.net, {"params": variables["params"]["net"]}, self._shape(), dtype=dtype)
        return {**variables, "params": {**params, "net": backbone["params"]}}

    def distance(self, variables: Variables) -> jax.tree_util.Partial:
        """``(attacked, images) -> [batch]`` as a pytree whose leaves are the weights."""
        return jax.tree_util.Partial(self.apply, variables)

    def _shape(self) -> tuple[int, int, int]:
        return (max(_SIDE, self.min_side), max(_SIDE, self.min_side), 3)
