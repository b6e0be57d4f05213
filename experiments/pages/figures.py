"""Figures of a rank attack: functions from numbers to matplotlib figures, and `write_figures` for a run folder."""

import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from experiments.errors import UserError
from experiments.pages import ranking_files
from experiments.pages.frontier import Mark, frontier_figure, marks
from experiments.pages.ranking_files import Interval, Method, Targets
from experiments.pages.run_files import RANK_ATTACK, RANK_TARGETS, Run, read_run
from experiments.pages.style import BAND, COLOURS, INK, MANY, SOFT, WIDTH, colours, save, styled
from nriqa_jax.metrics import correlation


class Panel(NamedTuple):
    """What one method wanted and got; `target` or `reached` is all NaN where it has none."""

    title: str
    note: str
    colour: str
    target: np.ndarray
    reached: np.ndarray


@styled
def scores_figure(targets: Targets, panels: Sequence[Panel]) -> Figure:
    """Scores of every image in order of its clean score: clean, reachable, wanted and reached."""
    figure = Figure((WIDTH, 0.6 + 2.7 * len(panels)), layout="constrained")
    order = np.argsort(targets.score, kind="stable")
    place = np.arange(1, len(order) + 1)
    dot = {"ls": "none", "marker": "o", "rasterized": len(order) > MANY}
    for ax, panel in zip(np.ravel(figure.subplots(len(panels), sharex=True, sharey=True, squeeze=False)), panels):
        low, high = targets.low[order], targets.high[order]
        if np.isfinite(low + high).any():
            ax.fill_between(place, low, high, step="mid", color=BAND, lw=0, label="reachable")
        ax.plot(place, targets.score[order], color=INK, lw=1.4, label="clean score")
        if np.isfinite(panel.target).any():
            ax.plot(place, panel.target[order], **dot, ms=2.6, mfc="none", mec=panel.colour, mew=0.6, label="target")
        if np.isfinite(panel.reached).any():
            ax.plot(place, panel.reached[order], **dot, ms=2.6, mec="none", mfc=panel.colour, label="reached")
        _title(ax, panel)
        ax.set_ylabel("Score")
        ax.margins(x=0.01)
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, fontsize=8, borderaxespad=0.1, handlelength=1.4)
    ax.set_xlabel("Images in order of clean score")
    return figure


@styled
def ranks_figure(score: np.ndarray, panels: Sequence[Panel]) -> Figure:
    """Rank by clean score against rank by reached score; a perfect attack is the falling diagonal."""
    count = max(1, len(panels))
    figure = Figure((WIDTH, 0.85 + 0.85 * WIDTH / max(3, count)), layout="constrained")
    for ax, panel in zip(figure.subplots(1, count, sharex=True, sharey=True, squeeze=False)[0], panels):
        known = np.isfinite(score + panel.reached)
        end = max(2, int(known.sum()))
        for y, name in (((1, end), "unchanged"), ((end, 1), "reversed")):
            ax.plot((1, end), y, color=SOFT, lw=0.8, ls=(0, (4, 3)), zorder=1)
            if panel is panels[-1]:
                ax.annotate(name, (end, y[1]), (7, 0), textcoords="offset points", va="center", color=SOFT, size=8)
        ranks = [scipy.stats.rankdata(values[known]) for values in (score, panel.reached)]
        ax.plot(*ranks, "o", color=panel.colour, ms=3, mec="none", alpha=0.6, rasterized=len(score) > MANY)
        _title(ax, panel, 84 // count)
        ax.set(box_aspect=1, xlabel="Rank by clean score")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 2.5, 5, 10]))
    figure.axes[0].set_ylabel("Rank by reached score")
    return figure


def _title(ax: Axes, panel: Panel, width: int = 84) -> None:
    """The title in lines of this many letters, and the note below it."""
    ax.set_title(textwrap.fill(panel.title, width), pad=17)
    ax.annotate(panel.note, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points")


_TERMS = {
    "agreement": "Agreement with the clean scores (made small)",
    "error": "Mean squared change (made large)",
    "variance": "Variance of targets (made large)",
    "loss": "Loss (made small)",
}


@styled
def trace_figure(trace: Mapping[str, np.ndarray]) -> Figure:
    """The terms of stage one over its steps."""
    figure = Figure((WIDTH, 3.9), layout="constrained")
    for ax, (term, title) in zip(figure.subplots(2, 2, sharex=True).ravel(), _TERMS.items()):
        ax.plot(trace["step"], trace[term], color=COLOURS["sma"], lw=1.4, marker="" if len(trace["step"]) > 1 else "o")
        ax.set_title(title, weight="normal")
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    for ax in figure.axes[2:]:
        ax.set_xlabel("Step")
    return figure


def make_figures(run: Run) -> dict[str, Figure]:
    """The figures of a run of rank_attack or rank_targets, by the names of their files.

    Raises:
      UserError: when it is another run, or a table is missing or damaged.
    """
    if run.kind not in (RANK_ATTACK, RANK_TARGETS):
        expected = f"{RANK_ATTACK.script} or {RANK_TARGETS.script}"
        raise UserError(f"{run.folder} holds a run of {run.kind.script}, without figures; give one of {expected}")
    targets, points = ranking_files.read_targets(run), ranking_files.read_frontier(run)
    trace = trace_figure(ranking_files.read_trace(run))
    if run.kind == RANK_TARGETS:
        panel, mark = _targets_alone(targets)
        return {
            "frontier": frontier_figure(points, [mark]),
            "scores": scores_figure(targets, [panel]),
            "trace": trace,
        }
    methods = ranking_files.read_methods(run)
    panels = _panels(methods, targets)
    shown = (run.config.get("flags") or {}).get("method")
    if shown not in panels:
        raise UserError(f"{run.folder / 'targets.csv'} has no column reached_{shown}; {run.remedy}")
    strongest = ranking_files.best(methods, "baseline")
    main = [name for name in ("sma", "reach", strongest.name if strongest else "") if name in panels] or [shown]
    return {
        "frontier": frontier_figure(points, marks(methods)),
        "scores": scores_figure(targets, [panels[name] for name in dict.fromkeys([shown, "reach"]) if name in panels]),
        "ranks": ranks_figure(targets.score, [panels[name] for name in main]),
        "trace": trace,
    }


def _panels(methods: Sequence[Method], targets: Targets) -> dict[str, Panel]:
    palette = colours(methods)
    return {
        m.name: Panel(
            m.label,
            f"SROCC {number(m.measures['srocc'].value, 3)}, MAE {number(m.measures['mae'].value)}",
            palette[m.name],
            targets.target[m.name],
            targets.reached[m.name],
        )
        for m in methods
        if m.name in targets.reached
    }


def _targets_alone(targets: Targets) -> tuple[Panel, Mark]:
    wanted = targets.target["sma"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an undefined number shows as missing
        values = [fn(targets.score, wanted) for fn in (correlation.srocc, correlation.mae)]
    srocc, mae = (Interval(value, math.nan, math.nan) for value in values)
    note = f"SROCC {number(srocc.value, 3)}, MAE {number(mae.value)}"
    panel = Panel("Targets", note, COLOURS["sma"], wanted, np.full(len(wanted), math.nan))
    return panel, Mark("These targets", COLOURS["sma"], "o", srocc, mae, bold=True)


def number(value: float, decimals: int = 2) -> str:
    """A number with a true minus sign; a dash where there is none."""
    return "\N{EN DASH}" if math.isnan(value) else f"{value:z.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def write_figures(run_dir: Path) -> list[Path]:
    """Write the figures of a run into its folder ``figures``, the same bytes for the same tables.

    Args:
      run_dir: folder of a run of rank_attack or rank_targets.

    Returns:
      The paths of the SVG files.

    Raises:
      UserError: when it is another run, or a table is missing or damaged.
    """
    return save(run_dir / "figures", make_figures(read_run(run_dir)))
