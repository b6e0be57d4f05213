"""The trade-off of a rank attack: how far rankings are destroyed against how far scores move."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from experiments.pages import ranking_files
from experiments.pages.labels import Label, add_labels
from experiments.pages.ranking_files import Interval, Method, Point
from experiments.pages.style import COLOURS, SOFT, WIDTH, colours, styled

_SHAPES = ("s", "^", "v", "P", "X", "h", "<", ">")  # of baselines, the best one first
_FAMILIES = {  # line style and label
    "sma": ("--", "Targets of SMA: wanted, reachable or not"),
    "reach": ("-", "Targets within reach"),
}


class Mark(NamedTuple):
    """A point of the trade-off; its label is beside it or, where it is one of many, in the legend."""

    label: str
    colour: str
    shape: str
    srocc: Interval
    mae: Interval
    bold: bool = False
    in_legend: bool = False


def marks(methods: Sequence[Method]) -> list[Mark]:
    """The points of the trade-off for methods: attacks and the best baseline stand out."""
    palette, strongest = colours(methods), [ranking_files.best(methods, role) for role in ("attack", "baseline")]
    found, shapes = [], itertools.cycle(_SHAPES)
    for m in sorted(methods, key=lambda method: method not in strongest):
        srocc, mae, others = m.measures["srocc"], m.measures["mae"], m.role == "baseline" and m not in strongest
        shape = next(shapes) if m.role == "baseline" else "D" if m.role == "clean" else "o"
        if math.isfinite(srocc.value + mae.value):
            found.append(Mark(m.label, palette[m.name], shape, srocc, mae, m in strongest, others))
    return found


@styled
def frontier_figure(points: Sequence[Point], marks: Sequence[Mark]) -> Figure:
    """SROCC with the clean scores against the mean absolute change of scores.

    Args:
      points: targets at several weights; a line for each family, dashed for ``sma``.
      marks: what methods reached, with error bars as far as they have intervals.
    """
    figure = Figure((WIDTH, 5.1 if any(mark.in_legend for mark in marks) else 3.6), layout="constrained")
    ax = figure.subplots()
    lines = {family: _line(points, family) for family in _FAMILIES}
    widest = _widest(lines["sma"], lines["reach"], marks)
    tops = [
        *(mark.srocc.value for mark in marks),
        *(mark.srocc.high for mark in marks),
        *np.vstack([*lines.values()])[:, 1],
    ]
    top = float(np.nanmax([0.05, *tops]))
    ax.set(xlim=(-0.03 * widest, widest), ylim=(-1.16, top + 0.08))
    ax.yaxis.set_major_locator(MultipleLocator(0.5 if top > 0.5 else 0.25))
    ax.set_xlabel("Mean absolute change of scores (MAE)        stronger attack \N{RIGHTWARDS ARROW}")
    ax.set_ylabel("\N{LEFTWARDS ARROW} stronger attack        SROCC with the clean scores")
    ax.axhline(0, color=SOFT, lw=0.7, zorder=1)
    spots = np.array([[mark.mae.value, mark.srocc.value] for mark in marks])
    labels = [Label(m.label, spot[None], m.colour, m.bold) for m, spot in zip(marks, spots) if not m.in_legend]
    for (family, line), (style, text) in zip(lines.items(), _FAMILIES.values()):
        ax.plot(*line.T, style, color=COLOURS[family], lw=1.4, marker=".", ms=4, alpha=0.85, zorder=2)
        seen = line[line[:, 0] <= widest]
        labels += [Label(text, seen, COLOURS[family])] if len(seen) else []
    bars = [bar for mark in marks for bar in _draw(ax, mark)]
    if any(mark.in_legend for mark in marks):
        figure.legend(loc="outside lower center", ncols=3, title="Other baselines", fontsize=8, title_fontsize=8)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    zero = np.array([[0.0, 0.0], [widest, 0.0]])
    add_labels(ax, labels, spots, np.reshape(bars, (-1, 4)), [zero, *lines.values()])
    return figure


def _draw(ax: Axes, mark: Mark) -> list[tuple[float, ...]]:
    """Draw a mark, and return its error bars as boxes."""
    x, y = mark.mae, mark.srocc
    bars: list[tuple[float, ...]] = [(x.low, y.value, x.high, y.value), (x.value, y.low, x.value, y.high)]
    known = [bar for bar in bars if all(map(math.isfinite, bar))]
    for bar in known:
        ax.plot(bar[::2], bar[1::2], color=mark.colour, lw=1.1, alpha=0.75, zorder=3, solid_capstyle="butt")
    label, above = mark.label if mark.in_legend else "_", 5 + mark.bold - mark.in_legend
    ax.plot(x.value, y.value, mark.shape, color=mark.colour, mec="white", mew=0.8, ms=7.5, zorder=above, label=label)
    return known


def _line(points: Sequence[Point], family: str) -> np.ndarray:
    """The points of a family, ``[points, 2]``: change and SROCC, in order of weight, as they come."""
    line = [(p.mae, p.srocc) for p in points if p.family == family and math.isfinite(p.mae + p.srocc)]
    return np.reshape(line, (-1, 2))


def _widest(sma: np.ndarray, reach: np.ndarray, marks: Sequence[Mark]) -> float:
    """End of the axis of changes: beside methods, targets that are only wanted may leave the figure."""
    wanted = np.max(sma[:, 0], initial=0.0)
    ends = [value for mark in marks for value in (mark.mae.value, mark.mae.high) if math.isfinite(value)]
    reached = np.max([*ends, *reach[:, 0]], initial=0.0)
    limit = 1.7 * reached if len(marks) > 1 else math.inf
    return 1.08 * float(max(reached, min(wanted, limit))) or 1.0
