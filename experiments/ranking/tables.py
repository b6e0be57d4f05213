"""What a rank attack leaves as numbers: ``methods.csv`` and ``targets.csv``."""

import csv
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments import ledger
from experiments.ranking.methods import METHODS
from experiments.ranking.study import Outcome, Study, Vector
from nriqa_jax.metrics import correlation
from nriqa_jax.metrics.robustness import r_score

_RESAMPLES = 500
_CORRELATIONS = {"srocc": correlation.srocc, "krocc": correlation.krocc, "plcc": correlation.plcc}
_ABSOLUTE = ("mae", "rmse", "r_log10")

COLUMNS = (
    *("method", "label", "role", "gradients", "forwards", "images"),
    *(
        f"{name}{end}"
        for name in (*_CORRELATIONS, *_ABSOLUTE, *(f"mos_{name}" for name in _CORRELATIONS))
        for end in ("", "_low", "_high")
    ),
    "linf_255",
)


def write(study: Study, out: Path, outcomes: Mapping[str, Outcome], mos: Mapping[str, float] | None) -> None:
    """Write both tables; correlations and errors come with 95 % bootstrap intervals over images."""
    subjective = None if mos is None else np.array([mos[name] for name in study.names])
    clean = {"method": "clean", "label": "Clean images", "role": "clean", "gradients": 0, "forwards": 1.0}
    rows = [clean | _numbers(study, study.scores, subjective) | {"linf_255": 0.0}]
    for name, outcome in outcomes.items():
        costs = {"gradients": outcome.gradients, "forwards": outcome.forwards}
        described = {"method": name, "label": METHODS[name].label, "role": METHODS[name].role}
        change = {"linf_255": float(np.max(outcome.rows.numbers("linf_255")))}
        rows.append(described | costs | _numbers(study, outcome.reached, subjective) | change)
    ledger.write_rows(out / "methods.csv", COLUMNS, ([row.get(column) for column in COLUMNS] for row in rows))
    columns = dict(_columns(study, outcomes, subjective))
    ledger.write_rows(out / "targets.csv", list(columns), zip(*columns.values()))


def _columns(
    study: Study, outcomes: Mapping[str, Outcome], mos: Vector | None
) -> Iterator[tuple[str, list[str] | Vector]]:
    nothing = np.full(len(study.names), np.nan)
    yield from (("image", study.names), ("score", study.scores), ("mos", nothing if mos is None else mos))
    reach = next((outcome.reach for outcome in outcomes.values() if outcome.reach), None)
    yield from (("low", reach.low if reach else nothing), ("high", reach.high if reach else nothing))
    for name, outcome in outcomes.items():
        yield f"target_{name}", nothing if outcome.targets is None else outcome.targets
        yield f"reached_{name}", outcome.reached


def _numbers(study: Study, reached: Vector, mos: Vector | None) -> dict[str, Any]:
    def r_log10(clean: Vector, adversarial: Vector) -> float:
        return r_score(clean, adversarial, low=study.scale.low, high=study.scale.high, base=10.0)

    found: dict[str, Any] = {"images": len(reached)}
    for name, statistic in {**_CORRELATIONS, "mae": correlation.mae, "rmse": correlation.rmse}.items():
        found |= _with_interval(name, statistic, reached, study.scores)
    found |= _with_interval("r_log10", r_log10, study.scores, reached)
    if mos is not None:
        for name, statistic in _CORRELATIONS.items():
            found |= _with_interval(f"mos_{name}", statistic, reached, mos)
    return found


def _with_interval(name: str, statistic: Callable[..., float], *vectors: Vector) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an undefined number shows as missing
        low, high = correlation.bootstrap_interval(statistic, *vectors, resamples=_RESAMPLES)
        return {name: statistic(*vectors), f"{name}_low": low, f"{name}_high": high}


def describe(out: Path) -> str:
    """``methods.csv`` of a run folder as a Markdown table."""
    lines = ["| method | gradients | SROCC | KROCC | PLCC | MAE | R |", "|---|---:|---:|---:|---:|---:|---:|"]
    with (out / "methods.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            numbers = [f"{float(row[name] or 'nan'):.3f}" for name in ("srocc", "krocc", "plcc", "mae", "r_log10")]
            lines.append(f"| {row['label']} | {row['gradients']} | {' | '.join(numbers)} |")
    return "\n".join(lines)
