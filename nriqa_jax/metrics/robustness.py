"""Robustness of scores: how far an attack moves the numbers that a model gives; on the host, in float64.

Every function takes the scores of clean images and of their attacked versions, two vectors ``[n]`` in one order, and
returns a float. With no images, or with NaN or infinite scores, it returns NaN and warns with the reason. Scores of
different lengths, and constants out of range, raise ValueError.

The numbers are about the score, not about quality: a positive gain says that the score rose. Where lower means better
a rise is a loss of predicted quality, so negate the signed measures before comparing such a model with the others; the
R scores look at the size of the change alone and need no care.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike

from nriqa_jax.metrics.correlation import Vector, find_flaw, score_pair, undefined

Number = float | int


def _evaluate(name: str, formula: Callable[[Vector, Vector], Any], clean: Vector, adversarial: Vector) -> float:
    flaw = find_flaw(clean, adversarial)
    return undefined(name, flaw) if flaw else float(formula(clean, adversarial))


def _rescaled(clean: ArrayLike, adversarial: ArrayLike, low: Number, high: Number) -> tuple[Vector, Vector]:
    """Send ``low`` to 0 and ``high`` to 1 in both vectors, without clipping."""
    u, v = score_pair(clean, adversarial)
    check_range(low, high)
    return (u - low) / (high - low), (v - low) / (high - low)


def check_range(low: Number, high: Number) -> None:
    """Raise ValueError unless ``low`` and ``high`` are the ends of a score range."""
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(f"expected finite low < high, got low={low} and high={high}")


def _mean_log_ratio(s: Vector, t: Vector, low: Number, high: Number, base: Number, epsilon: Number) -> float:
    with np.errstate(divide="ignore"):  # an unmoved score and epsilon 0: +inf
        ratios = np.maximum(high - s, s - low) / (np.abs(s - t) + epsilon)
    return float(np.mean(np.log(ratios)) / np.log(base))


def r_score(
    clean: ArrayLike,
    adversarial: ArrayLike,
    *,
    low: Number,
    high: Number,
    base: Number = np.e,
    epsilon: Number = 1e-6,
) -> float:
    """Robustness score R: mean of ``log(max(high - s, s - low) / (|s - s'| + epsilon))``; larger is more robust.

    Equation 6 of Zhang et al., "Perceptual Attacks of No-Reference Image Quality Models with Human-in-the-Loop"
    (NeurIPS 2022): how far a score ``s`` could move over how far it did. The CLEAN score is in the numerator, as in
    the paper (some public code has the attacked one there). Papers do not state the base of the logarithm: the
    values of the paper suggest ln, the default; others use log10, which divides R by 2.303. Report ``base``, ``low``,
    ``high`` and ``epsilon`` with the number. Reversing the direction of the scale does not change R.

    Args:
      clean: scores of the clean images, shape ``[n]``.
      adversarial: scores of the attacked images, shape ``[n]``.
      low: lower end of the score range. The paper maps scores to [0, 10] by a logistic first.
      high: upper end of the score range.
      base: of the logarithm, > 1.
      epsilon: >= 0, in the unit of the scores; it bounds R for unmoved scores. The paper has none: with 0, one
        unmoved score makes the mean ``+inf``.

    Raises:
      ValueError: the shapes differ, ``low >= high``, ``base <= 1`` or ``epsilon < 0``.
    """
    check_range(low, high)
    if not (1 < base < math.inf and 0 <= epsilon < math.inf):
        raise ValueError(f"expected finite base > 1 and epsilon >= 0, got base={base} and epsilon={epsilon}")
    s, t = score_pair(clean, adversarial)
    return _evaluate("the R score", lambda s, t: _mean_log_ratio(s, t, low, high, base, epsilon), s, t)


def r_score_minmax(clean: ArrayLike, adversarial: ArrayLike, *, base: Number = 10.0, epsilon: Number = 1e-6) -> float:
    """Robustness score R as the MSU robustness benchmark computes it: scores scaled by the clean sample itself.

    Equals ``r_score`` with ``low=0, high=1`` on scores scaled so that the clean ones span [0, 1]; log10 by default.
    The scale is the range of THESE clean scores, so the number depends on the subset: values of different subsets,
    or of models scored on different images, are not comparable. ``r_score`` with the range of the model is.

    Args:
      clean: scores of the clean images, shape ``[n]``, at least two different values.
      adversarial: scores of the attacked images, shape ``[n]``; scaled, they may leave [0, 1].
      base: of the logarithm, > 1.
      epsilon: >= 0, on the scaled scores; identical scores give between 5.7 and 6 by default.

    Returns:
      R; NaN with a warning when all clean scores are equal.

    Raises:
      ValueError: the shapes differ, ``base <= 1`` or ``epsilon < 0``.
    """
    s, t = score_pair(clean, adversarial)
    if flaw := find_flaw(s, t) or (None if np.ptp(s) else "all clean scores are equal"):
        return undefined("the min-max R score", flaw, depth=3)
    low, scale = s.min(), np.ptp(s)
    return r_score((s - low) / scale, (t - low) / scale, low=0.0, high=1.0, base=base, epsilon=epsilon)


def absolute_gain(clean: ArrayLike, adversarial: ArrayLike, *, low: Number, high: Number) -> float:
    """Mean of ``(s' - s) / (high - low)``, signed: by what share of the score range the attack raised the score.

    The absolute gain of the MSU robustness benchmark (which takes the range of the clean sample; pass its minimum and
    maximum to reproduce it). An attack that raises some scores and lowers others can have gain 0.

    Args:
      clean: scores of the clean images, shape ``[n]``.
      adversarial: scores of the attacked images, shape ``[n]``.
      low: lower end of the score range.
      high: upper end of the score range.

    Raises:
      ValueError: the shapes differ or ``low >= high``.
    """
    u, v = _rescaled(clean, adversarial, low, high)
    return _evaluate("the absolute gain", lambda u, v: np.mean(v - u), u, v)


def relative_gain(clean: ArrayLike, adversarial: ArrayLike, *, low: Number, high: Number) -> float:
    """Mean of ``(v - u) / (u + 1)``, signed, where ``u`` and ``v`` are the scores scaled so that the range is [0, 1].

    The relative gain of the MSU robustness benchmark; the same rise counts up to twice as much at the low end of the
    range. It therefore depends on the direction of the scale by more than its sign.

    Args:
      clean: scores of the clean images, shape ``[n]``.
      adversarial: scores of the attacked images, shape ``[n]``.
      low: lower end of the score range.
      high: upper end of the score range.

    Raises:
      ValueError: the shapes differ or ``low >= high``.
    """
    u, v = _rescaled(clean, adversarial, low, high)
    return _evaluate("the relative gain", lambda u, v: np.mean((v - u) / (u + 1)), u, v)


def _signed(distance: Callable[[Vector, Vector], Any]) -> Callable[[Vector, Vector], Any]:
    return lambda u, v: distance(u, v) * np.sign(np.mean(v) - np.mean(u))


def wasserstein_score(clean: ArrayLike, adversarial: ArrayLike, *, low: Number, high: Number) -> float:
    """Wasserstein-1 distance between the clean and attacked score distributions, with the sign of the mean change.

    As in the MSU robustness benchmark, on scores scaled so that the range is [0, 1]: the mean absolute difference of
    the sorted scores. Which image has which score is ignored, so an attack that only permutes scores has distance 0;
    equal means give 0 as well.

    Args:
      clean: scores of the clean images, shape ``[n]``.
      adversarial: scores of the attacked images, shape ``[n]``.
      low: lower end of the score range.
      high: upper end of the score range.

    Raises:
      ValueError: the shapes differ or ``low >= high``.
    """
    u, v = _rescaled(clean, adversarial, low, high)
    return _evaluate("the Wasserstein score", _signed(scipy.stats.wasserstein_distance), u, v)


def energy_score(clean: ArrayLike, adversarial: ArrayLike, *, low: Number, high: Number) -> float:
    """Energy distance between the clean and attacked score distributions, with the sign of the mean change.

    As in the MSU robustness benchmark, on scores scaled so that the range is [0, 1]: ``sqrt(2 * integral (U - V)^2)``
    of the two cumulative distributions. The remarks on ``wasserstein_score`` hold.

    Args:
      clean: scores of the clean images, shape ``[n]``.
      adversarial: scores of the attacked images, shape ``[n]``.
      low: lower end of the score range.
      high: upper end of the score range.

    Raises:
      ValueError: the shapes differ or ``low >= high``.
    """
    u, v = _rescaled(clean, adversarial, low, high)
    return _evaluate("the energy score", _signed(scipy.stats.energy_distance), u, v)
