"""SMA within reach: target scores that a set of images can get at a budget, in the worst order; on the host.

Stage one of the published attack asks for scores that no small change gives, so that stage two ends in an order that
nobody chose. Here every image has the interval of scores that short attacks down and up reached, and targets never
leave it. Where the intervals allow the exact reversal of the ranking it is the optimum; elsewhere some pairs of images
cannot change places, and the search is for the lowest SROCC of all possible orders, with the change of scores second.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

Vector = Float[np.ndarray, " n"]

_BANDS = (2, 3, 4, 6, 8, 12, 16, 24, 32)  # of starts, in which bands of the ranking change places
_CUTS = 15
_STARTS = 3  # how many of them are followed
_SWEEPS = 100


class Reach(NamedTuple):
    """What images can score at a budget.

    Attributes:
      scores: of the clean images.
      low: lowest score of each image, at most its clean one.
      high: highest score of each image, at least its clean one.
    """

    scores: Vector
    low: Vector
    high: Vector


def reach(scores: ArrayLike, lowered: ArrayLike, raised: ArrayLike) -> Reach:
    """The intervals between the outcomes of attacks down and up; the clean score is always in reach.

    Raises:
      ValueError: the shapes differ, or a score is not finite.
    """
    vectors = [np.asarray(values, np.float64) for values in (scores, lowered, raised)]
    if vectors[0].ndim != 1 or len({vector.shape for vector in vectors}) > 1:
        raise ValueError(f"expected three score vectors of one length, got {[v.shape for v in vectors]}")
    if not np.all(np.isfinite(vectors)):
        raise ValueError("a score is NaN or infinite")
    return Reach(vectors[0], np.min(vectors, axis=0), np.max(vectors, axis=0))


def targets_within(
    reach: Reach, change_weights: Sequence[float] = (0.0,), *, gap: float = 1e-3, seed: int = 0
) -> Float[np.ndarray, "weights n"]:
    """Targets of lowest ``SROCC - weight * change`` inside the intervals, for each weight.

    The change is the mean absolute difference from the clean scores (MAE), as a share of the largest that the
    intervals allow: weight 0 gives the lowest SROCC, and among its neighbours the largest change; a large weight moves
    every score as far as it goes. The search moves one image at a time to the best place of the order that it can
    reach, from several starts, until no move helps: a local optimum, found again for the same seed.

    Args:
      reach: intervals, from `reach`.
      change_weights: of the change, >= 0.
      gap: difference > 0 that an image keeps from its neighbours when it moves, in the unit of scores, so that errors
        of stage two do not exchange them.
      seed: of the order in which images are visited.

    Raises:
      ValueError: there are fewer than two images, a weight is negative, or the gap is not positive.
    """
    if len(reach.scores) < 2:
        raise ValueError(f"a ranking needs at least two scores, got {len(reach.scores)}")
    if not (all(weight >= 0 for weight in change_weights) and gap > 0):
        raise ValueError(f"expected weights >= 0 and a gap > 0, got {list(change_weights)} and {gap}")
    found: dict[float, Vector] = {}
    starts = sorted(_starts(reach), key=lambda targets: _Search(reach, 0.0, gap).loss(targets))[:_STARTS]
    for weight in sorted(change_weights):
        search = _Search(reach, weight, gap)
        ends = [search.descend(start, np.random.default_rng(seed)) for start in [*starts, *found.values()][-_STARTS:]]
        found[weight] = _spread(min(ends, key=search.loss), reach, gap)
    return np.stack([found[weight] for weight in change_weights])


def _starts(reach: Reach) -> Iterator[Vector]:
    """Reversed scores as far as they are in reach; cuts; and bands of the ranking whose halves move past each other."""
    order = scipy.stats.rankdata(reach.scores, "ordinal") - 1
    yield np.clip(np.sort(reach.scores)[::-1][order], reach.low, reach.high)
    for share in np.linspace(0, 1, _CUTS + 2)[1:-1]:
        yield np.where(order >= share * len(order), reach.low, reach.high)
    for bands in _BANDS:
        upper_half = (order / len(order) * bands) % 1 >= 0.5
        yield np.where(upper_half, reach.low, reach.high)


def _spread(targets: Vector, reach: Reach, gap: float) -> Vector:
    """The largest change of scores that the order of the targets allows, in the directions that they have."""
    order = np.argsort(targets, kind="stable")
    direction = np.sign(targets - reach.scores)
    direction[direction == 0] = np.where(reach.scores < np.median(reach.scores), 1, -1)[direction == 0]
    n, apart = len(order), np.minimum(np.diff(targets[order]), gap)
    falls = scipy.sparse.diags_array([np.ones(n - 1), -np.ones(n - 1)], offsets=[0, 1], shape=(n - 1, n))
    bounds = np.stack([reach.low[order], reach.high[order]], axis=1)
    spread = targets.copy()
    spread[order] = scipy.optimize.linprog(-direction[order], falls, -apart, bounds=bounds).x
    return spread


class _Search:
    """Descent of one loss, one image at a time.

    It is the SROCC times the sum of squared ranks, in whole quarters, which all machines add up alike, less the change.
    """

    def __init__(self, reach: Reach, weight: float, gap: float) -> None:
        n = len(reach.scores)
        self._reach, self._gap = reach, gap
        self._ranks = scipy.stats.rankdata(reach.scores) - (n + 1) / 2
        self._unit = np.sum(self._ranks**2)
        largest = np.maximum(reach.high - reach.scores, reach.scores - reach.low)
        self._weight = weight * self._unit / max(np.sum(largest), 1e-300)

    def loss(self, targets: Vector) -> float:
        change = np.sum(np.abs(targets - self._reach.scores))
        return float(self._ranks @ scipy.stats.rankdata(targets) - self._weight * change)

    def descend(self, start: Vector, rng: np.random.Generator) -> Vector:
        targets = start.copy()
        order = np.argsort(targets, kind="stable")
        for _ in range(_SWEEPS):
            before = targets.copy()
            for image in rng.permutation(len(targets)).tolist():
                order = self._place(image, targets, order)
            if np.array_equal(before, targets):
                break
        return targets

    def _place(self, image: int, targets: Vector, order: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Move an image to its best place among the others; returns the new order."""
        place = int(np.flatnonzero(order == image)[0])
        others = np.delete(order, place)
        values, ranks = targets[others], self._ranks[others]
        above = np.append(np.cumsum(ranks[::-1])[::-1], 0.0)  # those above a place move up by one rank
        low = np.maximum(np.append(-np.inf, values + self._gap), self._reach.low[image])
        high = np.minimum(np.append(values - self._gap, np.inf), self._reach.high[image])
        clean = self._reach.scores[image]
        value = np.where(high - clean > clean - low, high, low)
        losses = self._ranks[image] * np.arange(len(order)) + above - self._weight * np.abs(value - clean)
        now = self._ranks[image] * place + above[place] - self._weight * abs(targets[image] - clean)
        best = int(np.argmin(np.where(low <= high, losses, np.inf)))
        if not (low[best] <= high[best] and losses[best] < now - 1e-13 * self._unit):
            return order
        targets[image] = value[best]
        return np.insert(others, best, image)
