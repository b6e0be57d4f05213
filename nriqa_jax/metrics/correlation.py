"""Agreement of predicted scores with subjective ones, and bootstrap intervals; on the host, in float64.

The statistics take two score vectors ``[n]`` of the same images and return a float. Where one is undefined (too few
samples, a constant vector, NaN or infinite scores) it returns NaN and warns once with the reason, never a made-up 0.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

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
    return _pearson(stats.rankdata(x), stats.rankdata(y))


def _kendall(x: Vector, y: Vector) -> Any:
    return stats.kendalltau(x, y, method="asymptotic" if x.size > 2 else "exact").statistic


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
      mapping: applied to the predictions first, such as a fitted ``LogisticMap``; by default none.

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


def _logistic4(x: Vector, b1: float, b2: float, b3: float, b4: float) -> Vector:
    return (b1 - b2) * special.expit((x - b3) / abs(b4)) + b2


def _logistic5(x: Vector, b1: float, b2: float, b3: float, b4: float, b5: float) -> Vector:
    return b1 * (special.expit(b2 * (x - b3)) - 0.5) + b4 * x + b5


_CURVES: dict[int, Callable[..., Vector]] = {4: _logistic4, 5: _logistic5}
_BOX = 20.0  # bound of every parameter on standardised scores: straight or exponential data have no finite optimum


@dataclass(frozen=True)
class LogisticMap:
    """A mapping of predictions onto the scale of subjective scores.

    Attributes:
      parameters: ``b1 .. b4`` of ``(b1 - b2) / (1 + exp(-(x - b3) / |b4|)) + b2``, or ``b1 .. b5`` of
        ``b1 * (1/2 - 1 / (1 + exp(b2 * (x - b3)))) + b4 * x + b5``.
    """

    parameters: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", tuple(map(float, self.parameters)))
        if len(self.parameters) not in _CURVES:
            raise ValueError(f"a logistic map has 4 or 5 parameters, got {len(self.parameters)}")

    def __call__(self, scores: ArrayLike) -> Vector:
        """Map scores of any shape."""
        return _CURVES[len(self.parameters)](np.asarray(scores, np.float64), *self.parameters)


def _least_squares(x: Vector, y: Vector, starts: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """Fit the curve with as many parameters as the starts have, from each start; return the best fit."""
    curve, fits = _CURVES[len(starts[0])], []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", optimize.OptimizeWarning)  # no covariance: it is not used
        for start in np.clip(starts, -_BOX, _BOX):
            try:
                found, _ = optimize.curve_fit(curve, x, y, start, bounds=(-_BOX, _BOX), x_scale="jac", max_nfev=1000)
            except RuntimeError:  # no convergence from here
                continue
            fits.append((float(np.sum((curve(x, *found) - y) ** 2)), tuple(found)))
    if not fits:
        raise ValueError(f"the {len(starts[0])}-parameter logistic fit did not converge from any start")
    return min(fits)[1]


def _standardised(predictions: ArrayLike, mos: ArrayLike, minimum: int) -> tuple[Vector, Vector, Vector]:
    """Return both vectors at zero mean and unit deviation, and ``[mean, deviation]`` of each, flattened."""
    x, y = score_pair(predictions, mos)
    if flaw := find_flaw(x, y, minimum=minimum, varying=True):
        raise ValueError(f"the {minimum}-parameter logistic fit is impossible: {flaw}")
    moments = np.array([x.mean(), x.std(), y.mean(), y.std()])
    return (x - moments[0]) / moments[1], (y - moments[2]) / moments[3], moments


def fit_logistic4(predictions: ArrayLike, mos: ArrayLike) -> LogisticMap:
    """Fit the monotone 4-parameter logistic of VQEG (2003), written with ``|b4|``, by least squares.

    Fit on CLEAN predictions and reuse the map for attacked ones: a map refitted to attacked predictions would undo
    part of the attack. Predictions for which lower means better are fine; the curve then falls.

    Args:
      predictions: scores of a model, shape ``[n]``, ``n >= 4``.
      mos: subjective scores, shape ``[n]``.

    Raises:
      ValueError: the shapes differ, the scores are constant or not finite, or the fit does not converge.
    """
    x, y, (x_mean, x_std, y_mean, y_std) = _standardised(predictions, mos, 4)
    ends = [(y.max(), y.min()), (y.min(), y.max())]  # rising, falling
    starts = [(b1, b2, 0.0, b4) for b1, b2 in ends for b4 in (0.25, 1.0)]
    b1, b2, b3, b4 = _least_squares(x, y, starts)
    return LogisticMap((y_mean + y_std * b1, y_mean + y_std * b2, x_mean + x_std * b3, x_std * abs(b4)))


def fit_logistic5(predictions: ArrayLike, mos: ArrayLike) -> LogisticMap:
    """Fit the 5-parameter logistic with a linear term (Sheikh, Sabir and Bovik, 2006) by least squares.

    Fit on CLEAN predictions and reuse the map for attacked ones, as for ``fit_logistic4``. The curve need not be
    monotone. The problem is not convex, so the fit is tried from several starts on standardised scores.

    Args:
      predictions: scores of a model, shape ``[n]``, ``n >= 5``.
      mos: subjective scores, shape ``[n]``.

    Raises:
      ValueError: the shapes differ, the scores are constant or not finite, or the fit does not converge.
    """
    x, y, (x_mean, x_std, y_mean, y_std) = _standardised(predictions, mos, 5)
    slope = float(np.mean(x * y))
    starts = [(b1, b2, 0.0, b4, 0.0) for b1, b4 in ((np.ptp(y), 0.0), (-1.0, slope), (1.0, slope)) for b2 in (1.0, 4.0)]
    b1, b2, b3, b4, b5 = _least_squares(x, y, starts)
    b4 *= y_std / x_std
    return LogisticMap((y_std * b1, b2 / x_std, x_mean + x_std * b3, b4, y_mean + y_std * b5 - b4 * x_mean))


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
            draws = stats.bootstrap(
                vectors, statistic, n_resamples=resamples, paired=True, vectorized=False, method="percentile", rng=rng
            ).bootstrap_distribution
            low, high = np.nanquantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
            return float(low), float(high)
    reason = f"{vectors[0].size} sample(s), on which the statistic is not finite or cannot vary"
    return (undefined("the bootstrap interval", reason, depth=3),) * 2
