"""What the page of a leaderboard shows of a board: its rankings beside each other, all cells, and a figure."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.matrix.boards import Board, Estimate, Ranking, Standing, agreements, estimate, knowledge
from experiments.matrix.claims import kind
from experiments.matrix.finished import gains
from experiments.pages.gallery import data_uri
from experiments.pages.ranking import Picture
from experiments.pages.style import INK, SOFT, WIDTH, styled, to_svg
from nriqa_jax.metrics.correlation import srocc

_COLOURS = {"unaware": "#0072b2", "adaptive": "#c85400"}  # Okabe and Ito's
_MARKERS = {"unaware": "o", "adaptive": "D"}


class Line(NamedTuple):
    """A purifier in the table of a board.

    Attributes:
      purifier: the purifier.
      standings: by kind of attack, where it is ranked.
      knowledge: how much more the attacks gain that know of it.
      agreement: SROCC of clean images behind it with their undefended scores.
    """

    purifier: str
    standings: Mapping[str, Standing]
    knowledge: Estimate | None
    agreement: float


def describe(board: Board) -> dict[str, Any]:
    """What the template takes of a board."""
    rankings = {kind(ranking.adaptive): ranking for ranking in board.rankings}
    return {
        "name": board.name,
        "model": board.model,
        "conditions": board.conditions,
        "runs": [part.run for part in board.parts],
        "images": board.images,
        "notes": board.notes,
        "rankings": rankings,
        "lines": _lines(board, rankings),
        "cells": {name: _cells(board, name == "adaptive") for name in rankings},
        "picture": _picture(board) if rankings else None,
    }


def _lines(board: Board, rankings: Mapping[str, Ranking]) -> list[Line]:
    """The ranked purifiers, by the attacks that know of them first: a defense is worth what these leave."""
    by_kind = {name: {one.purifier: one for one in ranking.standings} for name, ranking in rankings.items()}
    known = {one.purifier: estimate(one.by_image - other.by_image) for one, other in knowledge(board)}
    clean = {name: srocc(t.columns["clear"], t.columns["defended_clear"]) for name, t in agreements(board).items()}
    first = reversed(by_kind.values())  # adaptive attacks come last
    names = list(dict.fromkeys(purifier for standings in first for purifier in standings))
    return [
        Line(
            name,
            {label: standings[name] for label, standings in by_kind.items() if name in standings},
            known.get(name),
            float(clean.get(name, math.nan)),
        )
        for name in names
    ]


def _cells(board: Board, adaptive: bool) -> dict[str, dict[str, float]]:
    """Mean gain of every attack behind every purifier, by attack."""
    found: dict[str, dict[str, float]] = {}
    for table in board.tables:
        if table.adaptive == adaptive and table.images:
            mean = float(np.mean(gains(table, *board.parts[0].range)))
            found.setdefault(table.attack, {})[table.purifier] = mean
    return found


def _picture(board: Board) -> Picture:
    figure = leaderboard_figure(board.rankings)
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    best = [f"{kind(r.adaptive)}: {r.standings[0].purifier} at {r.standings[0].gain.value:.4f}" for r in board.rankings]
    alt = f"Gain of attacks behind each purifier on {board.model}; best under {'; '.join(best)}"
    return Picture(data_uri("image/svg+xml", to_svg(figure)), width, height, alt)


@styled
def leaderboard_figure(rankings: Sequence[Ranking]) -> Figure:
    """What attacks gain behind each purifier, with intervals; dashed, what they gain without one.

    Args:
      rankings: of one board; the last one orders the purifiers, best on top.
    """
    names = list(dict.fromkeys(one.purifier for ranking in reversed(rankings) for one in ranking.standings))
    figure = Figure((WIDTH, 1.2 + 0.3 * len(names)), layout="constrained")
    ax = figure.subplots()
    for ranking, offset in zip(rankings, np.linspace(-0.12, 0.12, len(rankings)) if len(rankings) > 1 else [0.0]):
        label = kind(ranking.adaptive)
        values = np.array([one.gain for one in ranking.standings])
        errors = np.nan_to_num(np.abs(values[:, 1:] - values[:, :1])).T
        places = np.array([names.index(one.purifier) for one in ranking.standings]) + offset
        style: dict[str, Any] = {
            "color": _COLOURS[label],
            "marker": _MARKERS[label],
            "ms": 4.5,
            "lw": 0,
            "elinewidth": 1.0,
        }
        ax.errorbar(values[:, 0], places, xerr=errors, label=f"{label} attacks", **style)
        ax.axvline(ranking.undefended.value, color=_COLOURS[label], lw=0.8, ls="--")
    ax.set_yticks(range(len(names)), names, color=INK)
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    ax.grid(axis="y", color=SOFT, lw=0.3, alpha=0.4)
    ax.set_xlim(left=0)
    ax.set_xlabel("gain behind the purifier, in shares of the score range (dashed: without one)")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure
