"""The table of a defense: what attacks do to the scores of a model, against opinions and against the clean scores."""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from nriqa_jax.metrics import correlation, robustness

Scores = Mapping[str, float]

_AGREEMENTS: Mapping[str, Callable[..., float]] = {
    "srocc": correlation.srocc,
    "plcc": correlation.plcc,
    "krocc": correlation.krocc,
    "rmse": correlation.rmse,
}
COLUMNS = (
    *("label", "model", "attack", "epsilon", "images", "gradient_l1"),
    *(f"{name}_mos" for name in _AGREEMENTS),
    *(f"{name}_clean" for name in _AGREEMENTS),
    *("mae_clean", "change_mean", "r_ln", "r_ln_low", "r_ln_high", "r_log10"),
)
NO_ATTACK, STRONGEST = "none", "strongest"


class Attacked(NamedTuple):
    """What one attack found, by image.

    Attributes:
      clean: scores of the clean images.
      adversarial: scores of the attacked ones, read from their files.
    """

    clean: Scores
    adversarial: Scores


def clean_row(mos: Scores, clean: Scores) -> dict[str, Any]:
    """Agreement of clean scores with opinions."""
    names = sorted(mos.keys() & clean.keys())
    return {"attack": NO_ATTACK, "images": len(names), **_agreement("mos", _column(mos, names), _column(clean, names))}


def attacked_row(mos: Scores, found: Attacked, low: float, high: float) -> dict[str, Any]:
    """What an attack does to a model whose scores range from ``low`` to ``high``; R with its bootstrap interval."""
    names = sorted(mos.keys() & found.clean.keys() & found.adversarial.keys())
    opinions, clean, adversarial = (_column(scores, names) for scores in (mos, *found))

    def r(clean: np.ndarray, adversarial: np.ndarray, base: float = math.e) -> float:
        return robustness.r_score(clean, adversarial, low=low, high=high, base=base)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an undefined number shows as missing
        r_low, r_high = correlation.bootstrap_interval(r, clean, adversarial)
        return {
            "images": len(names),
            **_agreement("mos", opinions, adversarial),
            **_agreement("clean", clean, adversarial),
            "mae_clean": correlation.mae(clean, adversarial),
            "change_mean": float(np.mean(adversarial - clean)) if names else math.nan,
            "r_ln": r(clean, adversarial),
            "r_ln_low": r_low,
            "r_ln_high": r_high,
            "r_log10": r(clean, adversarial, 10.0),
        }


def strongest(attacks: Mapping[str, Attacked]) -> Attacked:
    """Of each image the outcome that is furthest from its clean score; images that an attack failed on are left out."""
    first, *others = attacks.values()
    names = set(first.adversarial).intersection(*(found.adversarial for found in others))

    def furthest(name: str) -> float:
        return max((found.adversarial[name] for found in attacks.values()), key=lambda s: abs(s - first.clean[name]))

    return Attacked({name: first.clean[name] for name in names}, {name: furthest(name) for name in names})


def _agreement(suffix: str, left: np.ndarray, right: np.ndarray) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return {f"{name}_{suffix}": float(compute(left, right)) for name, compute in _AGREEMENTS.items()}


def _column(scores: Scores, names: list[str]) -> np.ndarray:
    return np.array([scores[name] for name in names], np.float64)
