"""Training regimes: what the network is shown in place of a batch, with which labels, and how its scores become a loss.

`CleanTraining`, `AdversarialTraining` (with labels as they are, or corrected by a full-reference metric) and
`Consistency` (TRADES). Real-valued settings are data of a compiled step.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from nriqa_jax.defenses.adversaries import Adversary, Batch, Labels, LossFn, Real
from nriqa_jax.metrics.fidelity import ssim
from nriqa_jax.types import Images, Keys, ScoreFn, Scores

Relabel = Callable[[Labels, Images, Images], Labels]


def keep_labels(labels: Labels, attacked: Images, images: Images) -> Labels:
    """The attack is not supposed to change how people judge the image."""
    return labels


_KEEP = Partial(keep_labels)


def correct_labels(
    distance: Callable[[Images, Images], Scores],
    best: Real,
    worst: Real,
    penalty: Real,
    labels: Scores,
    attacked: Images,
    images: Images,
) -> Scores:
    """The label moves towards the worst one by what a full-reference metric sees of the attack, and not beyond.

    ``clip(y + penalty * distance * (worst - best))``, as in the public adversarial training of LinearityIQA (MDPI
    Technologies 12(11):220). Use as ``Partial(correct_labels, Partial(dissimilarity), best, worst, penalty)``.

    Args:
      distance: ``(attacked, images) -> [batch]`` in [0, 1], such as `dissimilarity`.
      best: label of the best quality; the lower one, where lower is better.
      worst: label of the worst quality.
      penalty: share of the range by which a distance of 1 moves a label; 1 as published.
      labels: of the clean images.
      attacked: adversarial images.
      images: clean images.
    """
    moved = labels + penalty * distance(attacked, images) * (worst - best)
    return jnp.clip(moved, jnp.minimum(best, worst), jnp.maximum(best, worst))


def dissimilarity(attacked: Images, images: Images) -> Scores:
    """``1 - SSIM``."""
    return 1.0 - ssim(attacked, images)


def everywhere(value: Real, attacked: Images, images: Images) -> Scores:
    """The same distance for all images: labels lowered by a constant share of the range."""
    return jnp.full(len(images), value, images.dtype)


class Regime(Protocol):
    """What is trained on, and how its scores become a loss."""

    def extend(self, score_fn: ScoreFn, loss: LossFn, batch: Batch, keys: Keys) -> Batch:
        """What the network sees of a batch."""
        ...

    def total(self, loss: LossFn, scores: Scores, labels: Labels) -> Float[Array, ""]:
        """The loss of the scores of the extended batch."""
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CleanTraining:
    """The batch as it is."""

    def extend(self, score_fn: ScoreFn, loss: LossFn, batch: Batch, keys: Keys) -> Batch:
        """The batch."""
        return batch

    def total(self, loss: LossFn, scores: Scores, labels: Labels) -> Float[Array, ""]:
        """The loss."""
        return loss(scores, labels)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AdversarialTraining:
    """Adversarial images, and the clean ones beside them.

    Attributes:
      adversary: makes them.
      relabel: their labels, ``(labels, attacked, images) -> labels``: `keep_labels` or `correct_labels`.
      with_clean: whether the network sees the clean images too, in the same batch.
    """

    adversary: Adversary
    relabel: Relabel = _KEEP
    with_clean: bool = dataclasses.field(default=True, metadata={"static": True})

    def extend(self, score_fn: ScoreFn, loss: LossFn, batch: Batch, keys: Keys) -> Batch:
        """The adversarial batch, or pairs of an adversarial and a clean image."""
        attacked = self.adversary(score_fn, loss, batch, keys)
        adversarial = Batch(attacked, self.relabel(batch.labels, attacked, batch.images))
        return _interleave(adversarial, batch) if self.with_clean else adversarial

    def total(self, loss: LossFn, scores: Scores, labels: Labels) -> Float[Array, ""]:
        """The loss of all images."""
        return loss(scores, labels)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Consistency:
    """The loss of the clean images, and how far an adversary moves their scores: TRADES (Zhang et al., ICML 2019).

    For scores instead of classes: ``loss + weight * mean((f(x + d) - f(x))^2) / range^2``. With one signed step of size
    h it is the penalty of gradient-norm training with the weight ``2 weight h^2 / range^2``.

    Attributes:
      adversary: moves the scores; with `BOTH_WAYS`, or `move_scores` from a small random start.
      weight: of the consistency; 1, 6 and 25 are places to start.
      score_range: highest minus lowest score.
    """

    adversary: Adversary
    weight: Real
    score_range: Real

    def extend(self, score_fn: ScoreFn, loss: LossFn, batch: Batch, keys: Keys) -> Batch:
        """Pairs of an adversarial and a clean image."""
        attacked = self.adversary(score_fn, loss, batch, keys)
        return _interleave(batch._replace(images=attacked), batch)

    def total(self, loss: LossFn, scores: Scores, labels: Labels) -> Float[Array, ""]:
        """The loss of the clean images, and the consistency."""
        attacked, clean = scores.reshape(-1, 2).T
        labels = labels.reshape(-1, 2, *labels.shape[1:])[:, 1]
        return loss(clean, labels) + self.weight * jnp.mean(((attacked - clean) / self.score_range) ** 2)


def _interleave(first: Batch, second: Batch) -> Batch:
    """Pairs in turn, so that those of a device stay on it."""
    return jax.tree.map(lambda *rows: jnp.stack(rows, axis=1).reshape(-1, *rows[0].shape[1:]), first, second)
