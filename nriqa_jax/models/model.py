"""What a quality model of the zoo is: a network, protocols, and a card that says how to read its scores."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nriqa_jax.models.card import Card
from nriqa_jax.prepare import Variables, lay_out, prepare
from nriqa_jax.types import Images, Scores

Views = Float[Array, "batch views rows columns channels"]
Outputs = Float[Array, "batch views *outputs"]
ViewsOf = Callable[[Images], Views]


def mean_over_views(outputs: Float[Array, "batch views"]) -> Scores:
    """The mean of the scores of the views of each image."""
    return jnp.mean(outputs, axis=1)


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """A named, versioned test protocol: how an image becomes views, and the outputs for these one score.

    Attributes:
      name: "published" for the authors' protocol, "pyiqa" and "msu" for those of these toolboxes where they differ,
        "grid" for a deterministic one that covers every pixel, "random" for crops drawn from a seed.
      version: raised when the same name starts to give other numbers.
      views: ``images -> views``, differentiable.
      min_side: shortest side, in pixels, of an image that the protocol can score.
      description: one sentence for users.
      pool: ``[batch, views, ...] -> [batch]``, from the network's outputs to scores.
      seeded: for "random": ``seed -> views``; `Model.with_protocol` calls it.
      seed: the seed that ``views`` was made from, if any.
    """

    name: str
    version: int
    views: ViewsOf
    min_side: int
    description: str
    pool: Callable[[Outputs], Scores] = mean_over_views
    seeded: Callable[[int], ViewsOf] | None = None
    seed: int | None = None


@dataclasses.dataclass(frozen=True)
class Model:
    """A no-reference quality model.

    Attributes:
      name: key of the model in the catalog.
      card: what a reader of its scores must know.
      network: Linen module, ``[n, h, w, c] -> [n, ...]``; one score for each view, or what ``preprocess.pool`` takes.
      preprocess: the protocol in use, one of ``protocols``.
      protocols: the protocols that this model knows, the default first.
      view_shape: height, width and channels of one view (any size, for a fully convolutional network).
      precompute: ``(network, variables) -> variables`` that hold what does not depend on images, such as the features
        of fixed texts; `prepare` calls it.
    """

    name: str
    card: Card
    network: nn.Module
    preprocess: Preprocess
    protocols: tuple[Preprocess, ...]
    view_shape: tuple[int, int, int]
    precompute: Callable[[nn.Module, Variables], Variables] | None = None

    @property
    def score_range(self) -> tuple[float, float]:
        """Nominal lowest and highest score."""
        return self.card.score_range

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher score means better quality."""
        return self.card.higher_is_better

    def init(self, key: Array) -> Variables:
        """Random weights, for tests and for training from scratch."""
        return self.network.init(key, jnp.zeros((1, *self.view_shape)))

    def apply(self, variables: Variables, images: Images) -> Scores:
        """Score images.

        The network computes in the number format of its parameters; preprocessing and pooling in that of the images.
        """
        return self.apply_views(variables, self.views(images))

    def views(self, images: Images) -> Views:
        """The normalised views of images that the network sees."""
        return self.preprocess.views(images)

    def apply_views(self, variables: Variables, views: Views) -> Scores:
        """Score images that are given by their views."""
        return self._apply(variables, views, ())[0]

    def lay_out(self, variables: Variables, *, twice: bool = False) -> Variables:
        """The same weights for the passes of one training step, as a differentiable function of them.

        Args:
          variables: the weights.
          twice: whether gradients with respect to views will be differentiated by the weights.
        """
        return lay_out(self.network, variables, self.view_shape, twice=twice)

    def apply_training(self, variables: Variables, views: Views) -> tuple[Scores, Variables]:
        """Scores with the statistics of the batch, and the moving averages of these: the new ``batch_stats``."""
        scores, new = self._apply(variables, views, ("batch_stats",))
        return scores, new.get("batch_stats", {})

    def apply_held(self, variables: Variables, views: Views) -> tuple[Scores, Variables, Variables]:
        """As `apply_training`, to be differentiated by views; and the statistics of the batch for further passes.

        In the innermost derivative, which must be one with respect to the views, statistics are constants, so that
        images of a batch do not depend on each other. Further passes take them as their ``batch_stats``.
        """
        scores, new = self._apply(variables, views, ("batch_stats", "held_stats"))
        return scores, new.get("batch_stats", {}), new.get("held_stats", {})

    def _apply(self, variables: Variables, views: Views, mutable: tuple[str, ...]) -> tuple[Scores, Variables]:
        batch, count = views.shape[:2]
        flat = views.reshape(batch * count, *views.shape[2:])
        flat = flat.astype(jnp.result_type(*jax.tree.leaves(variables["params"])))
        outputs: Any
        outputs, new = self.network.apply(variables, flat, mutable=list(mutable))
        outputs = outputs.reshape(batch, count, *outputs.shape[1:]).astype(views.dtype)
        return self.preprocess.pool(outputs), new

    def prepare(self, variables: Variables, dtype: Any = jnp.float32) -> Variables:
        """The same weights laid out for fast inference in a number format; see ``nriqa_jax.prepare``."""
        if self.precompute is not None:
            variables = jax.jit(partial(self.precompute, self.network))(variables)
        return prepare(self.network, variables, self.view_shape, dtype=dtype)

    def score_fn(self, variables: Variables) -> jax.tree_util.Partial:
        """The model as a `ScoreFn`: a pytree whose leaves are the weights."""
        return jax.tree_util.Partial(self.apply, variables)

    def with_protocol(self, name: str, seed: int = 0) -> "Model":
        """The same model under another of its protocols.

        Args:
          name: of the protocol.
          seed: for a protocol that draws crops; the others ignore it.

        Raises:
          ValueError: when the model has no protocol of that name.
        """
        for preprocess in self.protocols:
            if preprocess.name == name:
                if preprocess.seeded is not None:
                    preprocess = dataclasses.replace(preprocess, views=preprocess.seeded(seed), seed=seed)
                return dataclasses.replace(self, preprocess=preprocess)
        known = ", ".join(p.name for p in self.protocols)
        raise ValueError(f"{self.name} has no protocol '{name}'; it knows: {known}")

    def with_score_range(self, score_range: tuple[float, float]) -> "Model":
        """The same model for weights that score in another unit than the card says."""
        return dataclasses.replace(self, card=dataclasses.replace(self.card, score_range=score_range))
