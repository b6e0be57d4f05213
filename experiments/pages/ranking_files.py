"""The tables of a rank attack: methods, targets, and stage one's trace and frontier.

Numbers that do not exist are NaN: without subjective scores there are no correlations with them, and some methods have
no targets.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from experiments.pages.columns import Columns, Interval
from experiments.pages.run_files import RANK_ATTACK, Run

MEASURES = ("srocc", "krocc", "plcc", "mae", "rmse", "r_log10", "mos_srocc", "mos_krocc", "mos_plcc")
TRACE = ("step", "agreement", "variance", "error", "loss")
_METHOD_NUMBERS = ("gradients", "forwards", "images", "linf_255")
_ENDS = ("", "_low", "_high")


class Method(NamedTuple):
    """A row of ``methods.csv``: what one method costs, and what it does to the scores."""

    name: str
    label: str
    role: str
    gradients: float
    forwards: float
    images: float
    linf_255: float
    measures: dict[str, Interval]


class Targets(NamedTuple):
    """The columns of ``targets.csv``; `target` and `reached` have an array for each method."""

    images: list[str]
    score: np.ndarray
    mos: np.ndarray
    low: np.ndarray
    high: np.ndarray
    target: dict[str, np.ndarray]
    reached: dict[str, np.ndarray]


class Point(NamedTuple):
    """A row of ``frontier.csv``: a point of the trade-off of targets."""

    family: str
    srocc: float
    mae: float


def read_methods(run: Run) -> list[Method]:
    """Read ``methods.csv``."""
    measures = [name + end for name in MEASURES for end in _ENDS]
    table = Columns(run, "methods.csv", ("method", "label", "role", *_METHOD_NUMBERS, *measures))
    texts = (table.texts(name) for name in ("method", "label", "role"))
    numbers = (table.numbers(name).tolist() for name in _METHOD_NUMBERS)
    found = (dict(zip(MEASURES, row)) for row in zip(*(_intervals(table, name) for name in MEASURES)))
    return list(map(Method._make, zip(*texts, *numbers, found)))


def _intervals(table: Columns, name: str) -> list[Interval]:
    return list(map(Interval._make, zip(*(table.numbers(name + end).tolist() for end in _ENDS))))


def best(methods: Iterable[Method], role: str) -> Method | None:
    """The strongest method of this role: the one with the lowest SROCC between clean and attacked scores."""
    known = [method for method in methods if method.role == role and math.isfinite(method.measures["srocc"].value)]
    return min(known, key=lambda method: method.measures["srocc"].value, default=None)


def read_targets(run: Run) -> Targets:
    """Read ``targets.csv``; that of rank_targets has targets of one method, called ``sma`` here."""
    several = run.kind == RANK_ATTACK
    table = Columns(run, "targets.csv", ("image", "score", "mos", *(("low", "high") if several else ("target",))))
    methods = [name.removeprefix("reached_") for name in table.names if name.startswith("reached_")]
    targets = {name: f"target_{name}" for name in methods} if several else {"sma": "target"}
    return Targets(
        table.texts("image"),
        table.numbers("score"),
        table.numbers("mos"),
        table.numbers("low"),
        table.numbers("high"),
        {name: table.numbers(column) for name, column in targets.items()},
        {name: table.numbers(f"reached_{name}") for name in methods},
    )


def read_trace(run: Run) -> dict[str, np.ndarray]:
    """Read the columns of ``trace.csv``."""
    table = Columns(run, "trace.csv", TRACE)
    return {name: table.numbers(name) for name in TRACE}


def read_frontier(run: Run) -> list[Point]:
    """Read ``frontier.csv``."""
    table = Columns(run, "frontier.csv", ("family", "srocc", "mae"))
    return [Point(*cells) for cells in zip(table.texts("family"), table.numbers("srocc"), table.numbers("mae"))]
