"""Scores of a purification defense: what is left of an attack, and what the defense costs; on the host, in float64.

The thirteen scores of the MSU defense benchmark (arXiv 2408.01541) under their names, in `benchmark_scores`, and what
these do not tell, in `further_scores`. All are statistics of columns: one number per image, in one order.

- ``clear``, ``attacked``, ``defended_clear``, ``defended_attacked``: scores of the clean image, of the attacked one,
  and of what the purifier makes of each.
- ``mos``: subjective scores of the clean images.
- ``ssim_defended_clear``, ``psnr_defended_clear``, ``ssim_defended_attacked``, ``psnr_defended_attacked``: similarity
  of what the purifier makes to the clean image.

With no images, or with NaN or infinite scores, a statistic is NaN and warns with the reason; a correlation is NaN for
constants, too. Images without a similarity (NaN) are left out of similarity scores, as in the benchmark; an identical
image has an infinite PSNR, and makes them infinite.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from nriqa_jax.metrics.correlation import Vector, find_flaw, krocc, plcc, score_pair, srocc, undefined
from nriqa_jax.metrics.robustness import Number, check_range

_PSNR_OF_ONE = 40.0  # dB that count as much as the whole of SSIM


class Score(NamedTuple):
    """A statistic of a defense.

    Attributes:
      compute: from vectors of one length to a number.
      columns: names of these vectors.
    """

    compute: Callable[..., float]
    columns: tuple[str, ...]


def relative_change(before: ArrayLike, after: ArrayLike, *, epsilon: Number = 1e-6) -> float:
    """Mean of ``|before - after| / (before + epsilon)``, the unsigned relative gain of the benchmark.

    The denominator keeps its sign: negative scores count negatively, and a score near ``-epsilon`` for anything. Use it
    for models with positive scores alone, and otherwise `absolute_change`.

    Args:
      before: scores, shape ``[n]``.
      after: scores of the same images, shape ``[n]``.
      epsilon: in the unit of the scores.

    Raises:
      ValueError: the shapes differ.
    """
    return _mean("the relative change", lambda a, b: np.abs(a - b) / (a + epsilon), before, after)


def signed_relative_change(before: ArrayLike, after: ArrayLike, *, epsilon: Number = 1e-6) -> float:
    """Mean of ``(after - before) / (|before| + epsilon)``: its sign is that of the change, for negative scores, too.

    Args:
      before: scores, shape ``[n]``.
      after: scores of the same images, shape ``[n]``.
      epsilon: > 0, in the unit of the scores.

    Raises:
      ValueError: the shapes differ.
    """
    return _mean("the signed relative change", lambda a, b: (b - a) / (np.abs(a) + epsilon), before, after)


def absolute_change(before: ArrayLike, after: ArrayLike, *, low: Number, high: Number) -> float:
    """Mean of ``|before - after| / (high - low)``, the unsigned absolute gain of the benchmark.

    Args:
      before: scores, shape ``[n]``.
      after: scores of the same images, shape ``[n]``.
      low: lower end of the score range.
      high: upper end of the score range.

    Raises:
      ValueError: the shapes differ or ``low >= high``.
    """
    check_range(low, high)
    return _mean("the absolute change", lambda a, b: np.abs(a - b) / (high - low), before, after)


def signed_absolute_change(before: ArrayLike, after: ArrayLike, *, low: Number, high: Number) -> float:
    """Mean of ``(after - before) / (high - low)``: whether a defense leaves scores too high or too low.

    Args:
      before: scores, shape ``[n]``.
      after: scores of the same images, shape ``[n]``.
      low: lower end of the score range.
      high: upper end of the score range.

    Raises:
      ValueError: the shapes differ or ``low >= high``.
    """
    check_range(low, high)
    return _mean("the signed absolute change", lambda a, b: (b - a) / (high - low), before, after)


def gain_removed(
    clear: ArrayLike, attacked: ArrayLike, defended_clear: ArrayLike, defended_attacked: ArrayLike
) -> float:
    """Share of an attack's effect that a defense removes: 1 - mean ``|dc - da|`` / mean ``|c - a|``.

    1 where the defended scores of clean and attacked images agree, 0 for the identity, negative where the defense makes
    attacks stronger. NaN with a warning where the attack moved nothing.

    Args:
      clear: scores of the clean images, shape ``[n]``.
      attacked: scores of the attacked images, shape ``[n]``.
      defended_clear: scores of the purified clean images, shape ``[n]``.
      defended_attacked: scores of the purified attacked images, shape ``[n]``.

    Raises:
      ValueError: the shapes differ.
    """
    pairs = score_pair(clear, attacked), score_pair(defended_clear, defended_attacked)
    before, after = score_pair(*(np.abs(x - y) for x, y in pairs))
    flaw = find_flaw(before, after) or (None if before.any() else "the attack moved no score")
    return undefined("the gain removed", flaw, depth=3) if flaw else float(1.0 - after.mean() / before.mean())


def similarity(ssim: ArrayLike, psnr: ArrayLike) -> float:
    """Mean of ``SSIM + PSNR / 40`` over the images that have both: what the benchmark calls quality.

    Args:
      ssim: of each purified image to the clean one, shape ``[n]``.
      psnr: of the same images, in dB, shape ``[n]``; infinite for identical images, and then the mean is, too.

    Raises:
      ValueError: the shapes differ.
    """
    x, y = score_pair(ssim, psnr)
    known = ~(np.isnan(x) | np.isnan(y))
    if not known.any():
        return undefined("the similarity score", f"none of {x.size} images has one", depth=3)
    return float(np.mean(x[known] + y[known] / _PSNR_OF_ONE))


def srocc_drop(mos: ArrayLike, clear: ArrayLike, defended: ArrayLike) -> float:
    """SROCC with subjective scores that is lost: that of the undefended clean scores minus that of others.

    Args:
      mos: subjective scores, shape ``[n]``.
      clear: scores of the clean images, shape ``[n]``.
      defended: scores of the same images behind the defense, attacked or not, shape ``[n]``.

    Raises:
      ValueError: the shapes differ.
    """
    return srocc(mos, clear) - srocc(mos, defended)


def benchmark_scores(low: Number, high: Number) -> dict[str, Score]:
    """The thirteen scores of the MSU defense benchmark, under its names and with its formulas.

    "robust" compares the purified attacked image with the clean one, "both_defended" with the purified clean one, and
    "nonpurified" is the attack without the defense. Gains are mean absolute changes: lower is a better defense.

    Args:
      low: lower end of the model's score range.
      high: upper end of it.

    Raises:
      ValueError: ``low >= high``.
    """
    check_range(low, high)
    absolute = partial(absolute_change, low=low, high=high)
    return {
        "robust_rel_gain": Score(relative_change, ("clear", "defended_attacked")),
        "robust_abs_gain": Score(absolute, ("clear", "defended_attacked")),
        "nonpurified_rel_gain": Score(relative_change, ("clear", "attacked")),
        "nonpurified_abs_gain": Score(absolute, ("clear", "attacked")),
        "both_defended_rel_gain": Score(relative_change, ("defended_clear", "defended_attacked")),
        "both_defended_abs_gain": Score(absolute, ("defended_clear", "defended_attacked")),
        "similarity_score": Score(similarity, ("ssim_defended_attacked", "psnr_defended_attacked")),
        "clear_similarity_score": Score(similarity, ("ssim_defended_clear", "psnr_defended_clear")),
        "robust_attacked_srocc_mos": Score(srocc, ("mos", "defended_attacked")),
        "robust_clear_srocc_mos": Score(srocc, ("mos", "defended_clear")),
        "clear_srocc_mos": Score(srocc, ("mos", "clear")),
        "attacked_srocc_mos": Score(srocc, ("mos", "attacked")),
        "robust_clear_srocc_clear": Score(srocc, ("clear", "defended_clear")),
    }


def further_scores(low: Number, high: Number) -> dict[str, Score]:
    """What the benchmark's scores do not tell: directions, the gain removed, agreement with clean scores and with MOS.

    Args:
      low: lower end of the model's score range.
      high: upper end of it.

    Raises:
      ValueError: ``low >= high``.
    """
    check_range(low, high)
    signed = partial(signed_absolute_change, low=low, high=high)
    pairs = {
        "robust": ("clear", "defended_attacked"),
        "nonpurified": ("clear", "attacked"),
        "both_defended": ("defended_clear", "defended_attacked"),
        "purification": ("clear", "defended_clear"),
    }
    scores = ("clear", "attacked", "defended_clear", "defended_attacked")
    return {
        **{f"{name}_signed_abs_gain": Score(signed, pair) for name, pair in pairs.items()},
        **{f"{name}_signed_rel_gain": Score(signed_relative_change, pair) for name, pair in pairs.items()},
        "gain_removed": Score(gain_removed, scores),
        "srocc_drop_clear": Score(srocc_drop, ("mos", "clear", "defended_clear")),
        "srocc_drop_attacked": Score(srocc_drop, ("mos", "clear", "defended_attacked")),
        **_agreements("mos", ("defended_attacked", "defended_clear"), (plcc, krocc)),
        **_agreements("clear", ("defended_attacked", "attacked"), (srocc, plcc, krocc)),
    }


def evaluate(scores: Mapping[str, Score], columns: Mapping[str, ArrayLike]) -> dict[str, float]:
    """The values of scores on a table; NaN for those that need a column which it lacks, such as MOS.

    Args:
      scores: such as `benchmark_scores`.
      columns: vectors of one length, by name.
    """
    return {
        name: score.compute(*(columns[column] for column in score.columns))
        if columns.keys() >= set(score.columns)
        else float("nan")
        for name, score in scores.items()
    }


def _agreements(mate: str, columns: tuple[str, ...], measures: tuple[Callable[..., float], ...]) -> dict[str, Score]:
    return {f"{column}_{fn.__name__}_{mate}": Score(fn, (mate, column)) for column in columns for fn in measures}


def _mean(name: str, formula: Callable[[Vector, Vector], Vector], before: ArrayLike, after: ArrayLike) -> float:
    a, b = score_pair(before, after)
    if flaw := find_flaw(a, b):
        return undefined(name, flaw)
    with np.errstate(divide="ignore", invalid="ignore"):  # a score of exactly -epsilon
        return float(np.mean(formula(a, b)))
