"""Attacks that know the defense: a model behind a purifier is a score function again, so any attack takes it.

    attack(score_fn, images, keys)                                       # knows of no purifier
    attack(defended(score_fn, purifier), images, keys)                   # differentiates all of it, end to end
    attack(defended(score_fn, bpda(purifier)), images, keys)             # where it has no useful gradient
    attack(eot(defended(score_fn, purifier), 20), images, keys)          # where it draws at random

`attackable` chooses the second or the third.

BPDA and EOT are those of Athalye, Carlini & Wagner, "Obfuscated Gradients Give a False Sense of Security" (ICML 2018).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Key

from nriqa_jax.defenses.purifier import Composition, Deterministic, Gradient, Purification
from nriqa_jax.types import Images, Keys, Purified, Purifier, ScoreFn, Scores


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Defended:
    """A model behind a purifier, as a score function; make it by `defended`.

    Called as it is, it draws by its own key, the same for every image, so that scores are a function of the image.
    Attacks draw anew at every step, by the keys of their images (see `nriqa_jax.types.Randomised`).

    Attributes:
      score_fn: the model.
      purifier: what its images go through first; the size may change.
      key: of the draws.
      draws: purified versions of each image, whose scores are averaged.
    """

    score_fn: ScoreFn
    purifier: Purifier
    key: Key[Array, ""]
    draws: int = dataclasses.field(default=1, metadata={"static": True})

    def __call__(self, images: Images) -> Scores:
        """Purify and score each image."""
        return _mean_scores(self, jnp.broadcast_to(self.key, (len(images),)), images)

    def drawn(self, keys: Keys) -> ScoreFn:
        """The same with the draws of one key per image; images may come as several versions each, in that order."""
        return Partial(_mean_scores, self, keys)


def defended(score_fn: ScoreFn, purifier: Purifier, key: Key[Array, ""] | None = None) -> Defended:
    """A model behind a purifier; its gradient goes through both.

    Args:
      score_fn: the model.
      purifier: what its images go through first.
      key: of a purifier that draws at random, for calls outside of attacks.
    """
    return Defended(_as_pytree(score_fn), _as_pytree(purifier), jax.random.key(0) if key is None else key)


def eot(score_fn: Defended, draws: int) -> Defended:
    """Expectation over transformation: the mean score of several draws of the purifier, and so its mean gradient.

    Each step of an attack draws anew, so few draws go far; memory grows with them as it does with the batch.

    Args:
      score_fn: a model behind a purifier that draws at random.
      draws: purified versions of each image.

    Raises:
      ValueError: for less than one.
    """
    if draws < 1:
        raise ValueError(f"expected at least one draw, got {draws}")
    return dataclasses.replace(score_fn, draws=draws)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Identity(Deterministic):
    """The purifier that changes nothing: no defense, and the published backward pass of BPDA."""

    def purify(self, images: Images) -> Images:
        """Change nothing."""
        return images


def bpda(purifier: Purifier, backward: Purifier = Identity()) -> Purifier:
    """Backward pass differentiable approximation: the values of a purifier with the gradient of another.

    Works in reverse and forward mode and for any order; the purifier itself is never differentiated, so it may round,
    or call a codec on the host.

    Args:
      purifier: gives the values.
      backward: gives the gradient; for changes of size, a smooth purifier that makes the same change.
    """
    return Partial(_with_gradient_of, _as_pytree(backward), _as_pytree(purifier))


def attackable(purifier: Purifier) -> Purifier:
    """A purifier as an attack differentiates it best: by BPDA where its own gradient is worth nothing.

    Of a chain, the backward pass is that of the stages with a gradient.

    Args:
      purifier: one of this library, which says what its gradient is worth; others are taken to have a good one.
    """
    if not isinstance(purifier, Purification) or purifier.gradient is not Gradient.NONE:
        return purifier
    return bpda(purifier, _smooth(purifier))


def checkpointed(purifier: Purifier) -> Purifier:
    """The same purifier with less memory for its gradient: what lies between its ends is computed again."""
    return Partial(_recomputed, _as_pytree(purifier))


def _smooth(purifier: Purification) -> Purification:
    """The same without the stages that have no gradient; the others draw as before."""
    if isinstance(purifier, Composition):
        return dataclasses.replace(purifier, stages=tuple(map(_smooth, purifier.stages)))
    return Identity() if purifier.gradient is Gradient.NONE else purifier


def _mean_scores(model: Defended, keys: Key[Array, " owners"], images: Images) -> Scores:
    """Scores averaged over the draws: one batch of all draws of all images."""
    versions, rest = divmod(len(images), len(keys))
    if rest:
        raise ValueError(f"expected as many versions of each of {len(keys)} images, got {len(images)} in all")
    numbers = jnp.arange(versions * model.draws)
    own = jax.vmap(lambda key: jax.vmap(jax.random.fold_in, (None, 0))(key, numbers))(keys)
    purified = model.purifier(jnp.repeat(images, model.draws, axis=0), own.reshape(-1))
    return jnp.mean(model.score_fn(purified).reshape(len(images), model.draws), axis=1)


def _with_gradient_of(backward: Purifier, purifier: Purifier, images: Images, keys: Keys) -> Purified:
    smooth = backward(images, keys)
    purified = purifier(jax.lax.stop_gradient(images), keys)
    if smooth.shape != purified.shape:
        raise ValueError(f"the backward pass gives {smooth.shape[1:3]} pixels, and the purifier {purified.shape[1:3]}")
    # Exactly the purifier's values: the difference is 0, but for its gradient.
    return purified + (smooth - jax.lax.stop_gradient(smooth))


def _recomputed(purifier: Purifier, images: Images, keys: Keys) -> Purified:
    return jax.checkpoint(lambda images, keys: purifier(images, keys))(images, keys)


def _as_pytree(fn: Any) -> Any:
    """Plain functions as trees without leaves, so that they can be parts of one."""
    return Partial(fn) if jax.tree_util.treedef_is_leaf(jax.tree.structure(fn)) else fn
