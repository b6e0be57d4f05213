"""The cells of a benchmark: what the tables of its sets say together, image by image, and the scores of that."""

import math
import warnings
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from experiments import ledger
from experiments.matrix.plan import CLEAN, Cell, Matrix
from experiments.matrix.purification import MEASURES, PAIRS, SIMILARITIES
from experiments.matrix.sets import Sets, how
from nriqa_jax.metrics import defense
from nriqa_jax.metrics.correlation import bootstrap_interval
from nriqa_jax.metrics.defense import Score
from nriqa_jax.metrics.robustness import r_score

Column = Float[np.ndarray, " images"]

SCORES = ("clear", "attacked", "defended_clear", "defended_attacked")
UNAWARE = ("attacked_unaware", "defended_unaware")  # of the attack that knows of no purifier
PURIFIED = ("defended_clear", "defended_attacked")
SIMILAR = tuple(f"{measure}_{column}" for column in PURIFIED for measure in SIMILARITIES)
PER_IMAGE = ("image", *SCORES, *UNAWARE, "mos", *SIMILAR)
HEAD = ("model", "attack", "purifier", "adaptive", "differentiated", "images")

# Scores with a 95 % interval: percentile bootstrap over images.
WITH_INTERVAL = (
    *("robust_abs_gain", "both_defended_abs_gain", "nonpurified_abs_gain", "gain_removed"),
    *("similarity_score", "clear_similarity_score", "robust_attacked_srocc_mos", "robust_clear_srocc_mos"),
    *("robust_clear_srocc_clear", "defended_attacked_srocc_clear"),
)
_RESAMPLES = 300


class Table(NamedTuple):
    """A cell, image by image.

    Attributes:
      images: names of the images that no pass failed on.
      columns: `PER_IMAGE` but the name, and pairs for the MSU benchmark where they were measured; vectors.
    """

    images: list[str]
    columns: dict[str, Column]


def table(sets: Sets, cell: Cell, matrix: Matrix, mos: Mapping[str, float] | None) -> Table:
    """Join what is known of a cell.

    Args:
      sets: the sets.
      cell: the cell.
      matrix: where it is from.
      mos: subjective scores by image, if there are any.
    """
    unaware, model = cell._replace(adaptive=False), f"score_{cell.model}"
    parts = {
        "clear": (sets.scores(CLEAN, cell.model).rows, "score"),
        "attacked": _undefended(sets, cell),
        "defended_clear": (sets.purified(CLEAN, cell.purifier, matrix.models).rows, model),
        "defended_attacked": (sets.purified(cell.source, cell.purifier, (cell.model,)).rows, model),
        "attacked_unaware": _undefended(sets, unaware),
        "defended_unaware": (sets.purified(unaware.source, cell.purifier, (cell.model,)).rows, model),
    }
    images = [name for name in sets.images.names if all(_is_ok(rows.get(name)) for rows, _ in parts.values())]
    columns = {column: _numbers(rows, images, name) for column, (rows, name) in parts.items()}
    columns["mos"] = np.array([mos[name] if mos else math.nan for name in images])
    for column in PURIFIED:
        rows = parts[column][0]
        columns |= {f"{measure}_{column}": _numbers(rows, images, measure) for measure in SIMILARITIES}
    if sets.machine.pairs:
        clean, attacked = (parts[column][0] for column in PURIFIED)
        own = {f"{measure}_clear_defended": f"{measure}_clear_defended_clear" for measure in MEASURES}
        columns |= {name: _numbers(clean, images, key) for key, name in own.items()}
        keys = [f"{measure}_{pair}" for pair in PAIRS for measure in MEASURES]
        columns |= {key: _numbers(attacked, images, key) for key in keys}
    return Table(images, columns)


def _undefended(sets: Sets, cell: Cell) -> tuple[Mapping[str, ledger.Row], str]:
    """Rows with the undefended scores of attacked images, by name of the image."""
    attacked = sets.attacked(cell.source).rows
    if not cell.adaptive:
        return attacked, "score_adversarial"
    files = ledger.adversarial_names(sets.images.names)
    scores = sets.scores(cell.source, cell.model).rows
    return {name: scores[files[name]] for name in sets.images.names if files[name] in scores}, "score"


def _is_ok(row: ledger.Row | None) -> bool:
    return row is not None and row["status"] == "ok"


def _numbers(rows: Mapping[str, ledger.Row], images: list[str], column: str) -> Column:
    return np.array([float(rows[name][column] or "nan") for name in images])


@cache  # one object for each score, so that intervals can be cached, too
def scores_of(low: float, high: float) -> dict[str, Score]:
    """All scores of a cell, of a model with the score range ``[low, high]``."""
    r = partial(r_score, low=low, high=high)
    return {
        **defense.benchmark_scores(low, high),
        **defense.further_scores(low, high),
        # Of an attack that knows of the purifier, too: of what the attack does to the undefended model.
        "gain_removed": Score(defense.gain_removed, ("clear", "attacked_unaware", *PURIFIED)),
        "as_strong_as_unaware": Score(_share_as_strong, ("defended_clear", "defended_attacked", "defended_unaware")),
        "r_attacked": Score(r, ("clear", "attacked")),
        "r_robust": Score(r, ("clear", "defended_attacked")),
        **{f"mean_{column}": Score(_mean, (column,)) for column in SIMILAR},
    }


def _share_as_strong(clean: Column, attacked: Column, unaware: Column) -> float:
    """Share of images whose score moves at least as far as under the attack that knows of no purifier."""
    return float(np.mean(np.abs(attacked - clean) >= np.abs(unaware - clean))) if clean.size else math.nan


def _mean(values: Column) -> float:
    """Mean of the values that are known; NaN where none is."""
    known = values[~np.isnan(values)]
    return float(np.mean(known)) if known.size else math.nan


def columns_of(scores: Mapping[str, Score]) -> tuple[str, ...]:
    """Columns of the table of all cells."""
    ends = [f"{name}_{end}" for name in WITH_INTERVAL for end in ("low", "high")]
    return (*HEAD, *scores, *ends)


def row(sets: Sets, cell: Cell, found: Table) -> dict[str, Any]:
    """A row of the table of all cells."""
    low, high = sets.subjects[cell.model].model.score_range
    scores, columns = scores_of(low, high), dict(found.columns)
    if np.isnan(columns["mos"]).all():
        del columns["mos"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # what is undefined shows as missing
        values = defense.evaluate(scores, columns)
        intervals = {
            f"{name}_{end}": value
            for name in WITH_INTERVAL
            for end, value in zip(("low", "high"), _interval(scores[name], columns))
        }
    names = (cell.model, cell.attack.text, cell.purifier.text, int(cell.adaptive))
    differentiated = how(sets.purifiers[cell.purifier]) if cell.adaptive else ""
    return {**dict(zip(HEAD, (*names, differentiated, len(found.images)))), **values, **intervals}


def _interval(score: Score, columns: Mapping[str, Column]) -> tuple[float, float]:
    if not columns.keys() >= set(score.columns):
        return math.nan, math.nan
    return _bootstrap(score.compute, *(columns[name].tobytes() for name in score.columns))


@cache
def _bootstrap(compute: Callable[..., float], *columns: bytes) -> tuple[float, float]:
    """Many cells share a score, such as that of the clean images alone; it is resampled once."""
    return bootstrap_interval(compute, *(np.frombuffer(column) for column in columns), resamples=_RESAMPLES)
