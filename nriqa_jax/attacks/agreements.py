"""What stage one of SMA makes small: differentiable correlations of target scores with given ones."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nriqa_jax.metrics.soft_rank import soft_plcc, soft_rank

Scores = Float[Array, " n"]
Number = float | Float[Array, ""]
Correlation = Callable[[Scores], Float[Array, ""]]


@runtime_checkable
class Agreement(Protocol):
    """A correlation in [-1, 1], in two steps: what depends on the given scores alone is computed once."""

    def __call__(self, scores: Scores, spread: float, /) -> Correlation:
        """The agreement with these scores, as a function of targets that differ by at most ``spread``."""
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Spearman:
    """SROCC by soft ranks of `soft_rank`.

    Soft ranks of targets that differ by at most ``strength * n / 2`` are the targets plus a constant, and correlate as
    Pearson's. At the published settings, a strength of 1 and targets in 0..100, this holds for 200 images or more; they
    then need neither sorting nor pooling. With fewer images, targets that stand apart have hard ranks without gradient,
    and stay where they are; a strength of about ``2 * range / n`` avoids it.

    Attributes:
      strength: of soft ranks; smaller ones are closer to true ranks. Static: it decides what is computed.
    """

    strength: float = dataclasses.field(default=1.0, metadata={"static": True})

    def __call__(self, scores: Scores, spread: float = math.inf) -> Correlation:
        """The agreement with these scores."""
        ranks = soft_rank(scores, self.strength)
        if spread <= self.strength * len(scores) / 2:
            return partial(soft_plcc, ranks)
        return lambda targets: soft_plcc(ranks, soft_rank(targets, self.strength))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pearson:
    """PLCC, without ranks."""

    def __call__(self, scores: Scores, spread: float = math.inf) -> Correlation:
        """The agreement with these scores."""
        del spread
        return partial(soft_plcc, scores)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Kendall:
    """KROCC (tau-a), with a hyperbolic tangent for the sign of a difference of targets; all pairs of images.

    Attributes:
      strength: differences of about this size count in part.
    """

    strength: Number = 1.0

    def __call__(self, scores: Scores, spread: float = math.inf) -> Correlation:
        """The agreement with these scores."""
        del spread
        n = len(scores)
        order = jnp.sign(scores[:, None] - scores[None]) / (n * (n - 1))
        return lambda targets: jnp.vdot(order, jnp.tanh((targets[:, None] - targets[None]) / self.strength))


_SPEARMAN = Spearman()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Order:
    """Disagreement with a wanted order, whatever the scores are.

    Attributes:
      wanted: any numbers in the order that targets should get.
      by: the correlation.
    """

    wanted: Scores
    by: Agreement = _SPEARMAN

    def __call__(self, scores: Scores, spread: float = math.inf) -> Correlation:
        """Minus the agreement with the wanted order."""
        del scores
        agreement = self.by(self.wanted, spread)
        return lambda targets: -agreement(targets)
