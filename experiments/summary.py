"""Aggregate numbers of a run, with confidence intervals: what ``summary.json`` holds and reports show.

Everything is computed from the tables, so that a summary can be made again from a run folder. Intervals are 95 %
percentile bootstrap over images, with a fixed seed.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from experiments.ledger import Table
from nriqa_jax.attacks import diagnostics
from nriqa_jax.metrics import correlation, robustness
from nriqa_jax.models.model import Model

_RESAMPLES = 1000  # of an interval


class Statistic(NamedTuple):
    """A number over images.

    Attributes:
      label: name for readers.
      compute: the number, from the columns.
      columns: names of the columns.
      note: what a reader must know to use it.
    """

    label: str
    compute: Callable[..., float]
    columns: Sequence[str]
    note: str = ""


def of_scores(table: Table) -> dict[str, Any]:
    """Summary of a scoring run."""
    statistics = {"score_mean": Statistic("Mean score", np.mean, ["score"])}
    return {"images": _counts(table), "statistics": _evaluate(statistics, table), "diagnostics": {}, "warnings": []}


def of_attack(table: Table, checks: diagnostics.Checks, model: Model) -> dict[str, Any]:
    """Summary of an attack run."""
    found = diagnostics.findings(checks) if _counts(table)["ok"] else ["No image was attacked."]
    return {
        "images": _counts(table),
        "statistics": _evaluate(attack_statistics(*model.score_range), table),
        "diagnostics": {
            name: {"label": label, "value": value, "note": note}
            for (name, value), (label, note) in zip(checks._asdict().items(), _CHECK_LABELS)
        },
        "warnings": found,
    }


def attack_statistics(low: float, high: float) -> dict[str, Statistic]:
    """The statistics of an attack on a model with the score range ``[low, high]``."""
    pair, spread = ("score_clean", "score_adversarial"), {"low": low, "high": high}
    within = f"score range {low:g} to {high:g}"
    minmax = "range: smallest and largest clean score of these images"
    r_ln = partial(robustness.r_score, **spread)
    r_log10 = partial(robustness.r_score, base=10.0, **spread)
    on_file = "scores of the saved 8-bit files"
    return {
        "score_clean_mean": Statistic("Mean clean score", np.mean, pair[:1]),
        "score_adversarial_mean": Statistic("Mean adversarial score", np.mean, pair[1:], on_file),
        "change_mean": Statistic("Mean change", lambda a, b: np.mean(b - a), pair, "adversarial - clean"),
        "mae": Statistic("Mean absolute change (MAE)", correlation.mae, pair),
        "rmse": Statistic("Root mean squared change (RMSE)", correlation.rmse, pair),
        "srocc": Statistic("SROCC, clean to adversarial", correlation.srocc, pair, "ties averaged"),
        "krocc": Statistic("KROCC, clean to adversarial", correlation.krocc, pair, "tau-b"),
        "plcc": Statistic("PLCC, clean to adversarial", correlation.plcc, pair, "no mapping"),
        "r_ln": Statistic("R score (ln)", r_ln, pair, f"{within}; clean numerator; epsilon 1e-6"),
        "r_log10": Statistic("R score (log10)", r_log10, pair, f"{within}; clean numerator; epsilon 1e-6"),
        "r_minmax": Statistic("R score (min-max, log10)", robustness.r_score_minmax, pair, f"{minmax}; epsilon 1e-6"),
        "absolute_gain": Statistic("Absolute gain", partial(robustness.absolute_gain, **spread), pair, within),
        "relative_gain": Statistic("Relative gain", partial(robustness.relative_gain, **spread), pair, within),
        "wasserstein": Statistic("Wasserstein score", partial(robustness.wasserstein_score, **spread), pair, within),
        "energy": Statistic("Energy score", partial(robustness.energy_score, **spread), pair, within),
        "rounding_cost": Statistic(
            "Mean loss by 8-bit rounding",
            lambda saved, exact: np.mean(np.abs(saved - exact)),
            ("score_adversarial", "score_adversarial_float"),
            "absolute difference between scores of the saved and the unrounded images",
        ),
        "linf_255": Statistic("Mean L-infinity distance", np.mean, ("linf_255",), "in 1/255, of the saved files"),
        "psnr": Statistic("Mean PSNR", np.mean, ("psnr",), "dB, RGB"),
        "ssim": Statistic("Mean SSIM", np.mean, ("ssim",), "Gaussian window 11, sigma 1.5, mean over RGB"),
    }


def _evaluate(statistics: Mapping[str, Statistic], table: Table) -> dict[str, dict[str, Any]]:
    results = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an undefined number shows as missing
        for key, statistic in statistics.items():
            columns = [table.numbers(name) for name in statistic.columns]
            value = float(statistic.compute(*columns)) if columns[0].size else math.nan
            low, high = correlation.bootstrap_interval(statistic.compute, *columns, resamples=_RESAMPLES)
            results[key] = {"label": statistic.label, "value": value, "low": low, "high": high, "note": statistic.note}
    return results


def _counts(table: Table) -> dict[str, int]:
    ok = sum(row["status"] == "ok" for row in table.rows.values())
    return {"total": len(table.rows), "ok": ok, "failed": len(table.rows) - ok}


_CHECK_LABELS = (
    ("Zero-gradient share", "mean share of exactly zero gradient entries over steps and images"),
    ("Non-finite gradient entries", "counted, and not followed"),
    ("Images that did not move", "share whose saved file scores exactly as the clean image"),
    ("Images at the budget", f"share that used at least {diagnostics.AT_BUDGET:.0%} of epsilon, before rounding"),
    ("Gain over random noise", "mean absolute change, over that by the same change with random signs"),
    ("Gain by twice the steps", "mean fall of the objective on the first batch; negative is suspicious"),
)
