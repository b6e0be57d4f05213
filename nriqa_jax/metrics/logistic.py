"""Logistic maps of predictions onto the scale of subjective scores, as for PLCC and RMSE; on the host, in float64."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike

from nriqa_jax.metrics.correlation import Vector, find_flaw, score_pair


def _logistic4(x: Vector, b1: float, b2: float, b3: float, b4: float) -> Vector:
    return (b1 - b2) * scipy.special.expit((x - b3) / abs(b4)) + b2


def _logistic5(x: Vector, b1: float, b2: float, b3: float, b4: float, b5: float) -> Vector:
    return b1 * (scipy.special.expit(b2 * (x - b3)) - 0.5) + b4 * x + b5


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
        warnings.simplefilter("ignore", scipy.optimize.OptimizeWarning)  # no covariance: it is not used
        for start in np.clip(starts, -_BOX, _BOX):
            try:
                found, _ = scipy.optimize.curve_fit(
                    curve, x, y, start, bounds=(-_BOX, _BOX), x_scale="jac", max_nfev=1000
                )
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
