"""Agreement of predicted scores with subjective ones, and bootstrap intervals; on the host, in float64.

The statistics take two score vectors ``[n]`` of the same images and return a float. Where one is undefined (too few
samples, a constant vector, NaN or infinite scores) it returns NaN and warns once with the reason, never a made-up 0.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from nriqa_jax.metrics.soft_rank import soft_plcc as soft_plcc
from nriqa_jax.metrics.soft_rank import soft_rank as soft_rank
from nriqa_jax.metrics.soft_rank import soft_srocc as soft_srocc

Vector = NDArray[np.float64]


def score_pair(first: ArrayLike, second: ArrayLike) -> tuple[Vector, Vector]:
    """Return two score vectors in float64; ValueError unless both have one shape ``[n]``."""
    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"expected two score vectors of one length, got shapes {x.shape} and {y.shape}")
    return x, y


def find_flaw(x: Vector, y: Vector, *, minimum: int = 1, varying: bool = False) -> str | None:
    """Say why a statistic of two score vectors would be undefined; ``None`` when nothing is wrong.

    Args:
      x: scores, shape ``[n]``.
      y: scores, shape ``[n]``.
      minimum: the smallest ``n`` that the statistic needs.
      varying: whether each vector must hold at least two different values.
    """
    if x.size < minimum:
        return f"it needs at least {minimum} sample(s), got {x.size}"
    if broken := int(np.sum(~(np.isfinite(x) & np.isfinite(y)))):
        return f"{broken} of {x.size} samples hold a NaN or infinite score"
    if varying and not (np.ptp(x) and np.ptp(y)):
        return f"all values of the {'second' if np.ptp(x) else 'first'} vector are equal"
    return None


def undefined(name: str, reason: str, *, depth: int = 4) -> float:
    """Warn that the statistic ``name`` is undefined and return NaN; ``depth`` frames up is the line to blame."""
    warnings.warn(f"{name} is undefined: {reason}", RuntimeWarning, stacklevel=depth)
    return math.nan


def _correlation(
    name: str, statistic: Callable[[Vector, Vector], Any], predictions: ArrayLike, mos: ArrayLike
) -> float:
    x, y = score_pair(predictions, mos)
    flaw = find_flaw(x, y, minimum=2, varying=True)
    return undefined(name, flaw) if flaw else float(statistic(x, y))


# SciPy's tests compute the same beside p-values, which take most of the time of a bootstrap.
def _pearson(x: Vector, y: Vector) -> Any:
    return np.corrcoef(x, y)[0, 1]


def _spearman(x: Vector, y: Vector) -> Any:
    return _pearson(scipy.stats.rankdata(x), scipy.stats.rankdata(y))


def _kendall(x: Vector, y: Vector) -> Any:
    return scipy.stats.kendalltau(x, y, method="asymptotic" if x.size > 2 else "exact").statistic


def _mean_error(name: str, mean: Callable[[Vector], Any], predictions: ArrayLike, mos: ArrayLike) -> float:
    x, y = score_pair(predictions, mos)
    flaw = find_flaw(x, y)
    return undefined(name, flaw) if flaw else float(mean(x - y))


def srocc(predictions: ArrayLike, mos: ArrayLike) -> float:
    """Spearman rank correlation in [-1, 1]: Pearson correlation of the ranks, ties sharing their average rank."""
    return _correlation("SROCC", _spearman, predictions, mos)


def krocc(predictions: ArrayLike, mos: ArrayLike) -> float:
    """Kendall rank correlation in [-1, 1]: tau-b, corrected for ties."""
    return _correlation("KROCC", _kendall, predictions, mos)


def plcc(predictions: ArrayLike, mos: ArrayLike, mapping: Callable[[ArrayLike], ArrayLike] | None = None) -> float:
    """Pearson linear correlation in [-1, 1].

    Args:
      predictions: scores of a model, shape ``[n]``.
      mos: subjective scores, shape ``[n]``.
      mapping: applied to the predictions first, such as a fitted ``logistic.LogisticMap``; by default none.

    Raises:
      ValueError: the shapes differ.
    """
    return _correlation("PLCC", _pearson, mapping(predictions) if mapping else predictions, mos)


def rmse(predictions: ArrayLike, mos: ArrayLike) -> float:
    """Root of the mean squared error, in the unit of the scores; map predictions of another scale first."""
    return _mean_error("RMSE", lambda errors: np.sqrt(np.mean(errors**2)), predictions, mos)


def mae(predictions: ArrayLike, mos: ArrayLike) -> float:
    """Mean absolute error, in the unit of the scores; map predictions of another scale first."""
    return _mean_error("MAE", lambda errors: np.mean(np.abs(errors)), predictions, mos)


def bootstrap_interval(
    statistic: Callable[..., float],
    *samples: ArrayLike,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic; samples are resampled together, image by image.

    Args:
      statistic: ``(*samples) -> float``, such as ``np.mean`` or ``srocc``.
      *samples: vectors of one shape ``[n]``.
      confidence: coverage, in (0, 1).
      resamples: number of resamples; those where the statistic is undefined are left out.
      seed: of the resampling; the same seed gives the same interval.

    Returns:
      ``(low, high)``; NaN twice, with one warning, where the statistic is undefined on the samples or ``n < 2``.

    Raises:
      ValueError: the samples differ in shape or ``confidence`` is outside (0, 1).
    """
    vectors = [score_pair(samples[0], sample)[1] for sample in samples]
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # one warning below, not one per resample
        defined = vectors[0].size > 1 and math.isfinite(statistic(*vectors))
        if defined:
            rng = np.random.default_rng(seed)
            draws = scipy.stats.bootstrap(
                vectors, statistic, n_resamples=resamples, paired=True, vectorized=False, method="percentile", rng=rng
            ).bootstrap_distribution
            low, high = np.nanquantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
            return float(low), float(high)
    reason = f"{vectors[0].size} sample(s), on which the statistic is not finite or cannot vary"
    return (undefined("the bootstrap interval", reason, depth=3),) * 2
