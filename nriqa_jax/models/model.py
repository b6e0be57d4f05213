"""What a quality model of the zoo is: a network, a preprocessing, and what a user must know to read its scores."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nriqa_jax.prepare import Variables, prepare
from nriqa_jax.types import Images, Scores

Views = Float[Array, "batch views rows columns channels"]


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """A named, versioned test protocol: how an image becomes the views whose scores are averaged.

    Attributes:
      name: "published" for the authors' protocol, "grid" for a deterministic one that covers every pixel.
      version: raised when the same name starts to give other numbers.
      views: ``images -> views``, differentiable.
      min_side: shortest side, in pixels, of an image that the protocol can score.
      description: one sentence for users.
    """

    name: str
    version: int
    views: Callable[[Images], Views]
    min_side: int
    description: str


@dataclasses.dataclass(frozen=True)
class Model:
    """A no-reference quality model.

    Attributes:
      name: key of the model in the catalog.
      network: Linen module, ``[n, h, w, c] -> [n]``.
      preprocess: the protocol in use, one of ``protocols``.
      protocols: the protocols that this model knows, the default first.
      view_shape: height, width and channels of one view (any size, for a fully convolutional network).
      score_range: nominal lowest and highest score; scores of attacked images may leave it.
      higher_is_better: whether a higher score means better quality.
      native_size: (height, width) that the network was trained at.
      training_data: what the published weights were trained on.
      citation: paper that defines the model.
      code_licence: licence of the reference implementation.
      weights_licence: licence of the published weights.
    """

    name: str
    network: nn.Module
    preprocess: Preprocess
    protocols: tuple[Preprocess, ...]
    view_shape: tuple[int, int, int]
    score_range: tuple[float, float]
    higher_is_better: bool
    native_size: tuple[int, int]
    training_data: str
    citation: str
    code_licence: str
    weights_licence: str

    def init(self, key: Array) -> Variables:
        """Random weights, for tests and for training from scratch."""
        return self.network.init(key, jnp.zeros((1, *self.view_shape)))

    def apply(self, variables: Variables, images: Images) -> Scores:
        """Score images: the mean network output over the views of each image.

        The network computes in the number format of its variables; preprocessing and the mean in that of the images.
        """
        views = self.preprocess.views(images)
        batch, count = views.shape[:2]
        views = views.reshape(batch * count, *views.shape[2:]).astype(jnp.result_type(*jax.tree.leaves(variables)))
        scores: Any = self.network.apply(variables, views)
        return jnp.mean(scores.reshape(batch, count).astype(images.dtype), axis=1)

    def prepare(self, variables: Variables, dtype: Any = jnp.float32) -> Variables:
        """The same weights laid out for fast inference in a number format; see ``nriqa_jax.prepare``."""
        return prepare(self.network, variables, self.view_shape, dtype=dtype)

    def score_fn(self, variables: Variables) -> jax.tree_util.Partial:
        """The model as a `ScoreFn`: a pytree whose leaves are the weights."""
        return jax.tree_util.Partial(self.apply, variables)

    def with_protocol(self, name: str) -> "Model":
        """The same model under another of its protocols.

        Raises:
          ValueError: when the model has no protocol of that name.
        """
        for preprocess in self.protocols:
            if preprocess.name == name:
                return dataclasses.replace(self, preprocess=preprocess)
        known = ", ".join(p.name for p in self.protocols)
        raise ValueError(f"{self.name} has no protocol '{name}'; it knows: {known}")
