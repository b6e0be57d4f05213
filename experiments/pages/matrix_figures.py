"""Figures of a benchmark of defenses: heat maps, unaware against adaptive attacks, and what robustness costs."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.pages import matrix_files, matrix_summary
from experiments.pages.matrix_files import Cell
from experiments.pages.matrix_points import gain_figure, quality_figure
from experiments.pages.matrix_summary import GAIN, MODES, ROBUST, SROCC, Defense, mean_of
from experiments.pages.run_files import read_run
from experiments.pages.style import ADAPTIVE, INK, SIGNED, UNAWARE, WIDTH, label_cells, save, styled

_LETTERS = 118  # points that the numbers of a row of a heat map share, for their size


def make_figures(cells: Sequence[Cell], defenses: Sequence[Defense]) -> dict[str, Figure]:
    """The figures of a benchmark, by the names of their files."""
    return {
        "modes": bars_figure(defenses),
        "quality": quality_figure(defenses),
        "gain": heat_map(cells, GAIN, ascending=True),
        "gain_robust": heat_map(cells, ROBUST, ascending=True),
        "srocc": heat_map(cells, SROCC, ascending=False),
        "gain_points": gain_figure(defenses),
    }


def write_figures(run_dir: Path) -> list[Path]:
    """Write the figures of a run of benchmark into its folder ``figures``, as SVG and PNG; returns their paths.

    Raises:
      UserError: when a table is missing or damaged.
    """
    run = read_run(run_dir)
    cells = matrix_files.read_cells(run, matrix_summary.REQUIRED)
    figures = make_figures(cells, matrix_summary.summarise(run, cells))
    return save(run_dir / "figures", figures, ("svg", "png"))


@styled
def bars_figure(defenses: Sequence[Defense]) -> Figure:
    """Gain left by each purifier under both kinds of attacks, with intervals, and that without a purifier."""
    figure = Figure((WIDTH, 1.2 + 0.42 * len(defenses)), layout="constrained")
    ax = figure.subplots()
    place = np.arange(len(defenses))
    for shift, colour, hatch, mode in ((-0.19, UNAWARE, "", False), (0.19, ADAPTIVE, "///", True)):
        left = np.array([one.under(mode).left for one in defenses])
        if np.isfinite(left[:, 0]).any():
            ax.barh(place + shift, left[:, 0], 0.38, color=colour, hatch=hatch, ec="white", lw=0, label=MODES[mode])
            ends = np.abs(left[:, 1:] - left[:, :1]).T
            ax.errorbar(left[:, 0], place + shift, xerr=ends, fmt="none", ecolor=INK, elinewidth=0.8)
    ax.axvline(mean_of(one.undefended for one in defenses), color=INK, lw=0.9, ls=(0, (4, 3)), label="No purifier")
    ax.set_yticks(place, [one.purifier for one in defenses])
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel="Gain left behind the purifier, share of the score range", xlim=(0, None))
    ax.margins(y=0.01)
    ax.invert_yaxis()
    figure.legend(loc="outside upper left", ncols=3, fontsize=8)
    return figure


@styled
def heat_map(cells: Sequence[Cell], score: str, ascending: bool) -> Figure:
    """Attacks by purifiers, means over models: the unaware attacks above those that know the purifier.

    Args:
      cells: of the run.
      score: what is shown, one of `matrix_summary.UNDEFENDED`.
      ascending: whether purifiers with small means come first, of the lower panel.
    """
    modes = [mode for mode in MODES if any(cell.adaptive == mode for cell in cells)]
    purifiers = _sorted([cell for cell in cells if cell.adaptive == modes[-1]], score, ascending)
    tables = {mode: _table(cells, mode, purifiers, score) for mode in modes}
    heights = [len(attacks) for attacks, _ in tables.values()]
    figure = Figure((WIDTH, 1.4 + 0.45 * len(modes) + 0.26 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(modes), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    largest = max(float(np.max(values[np.isfinite(values)], initial=0.0)) for _, values in tables.values())
    shades: dict[str, Any] = {"cmap": "cividis", "vmin": 0.0, "vmax": largest or 1.0}
    shades = shades if ascending else {"cmap": SIGNED, "vmin": -1.0, "vmax": 1.0}
    names = ["no purifier", *purifiers]
    for ax, (mode, (attacks, values)) in zip(panels, tables.items()):
        drawn = ax.imshow(values, aspect="auto", **shades)
        label_cells(ax, drawn, values, "{:.2f}", min(8.0, _LETTERS / len(names)))
        ax.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(len(attacks)), attacks)
        ax.axvline(0.5, color="white", lw=3)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_title(MODES[mode])
    return figure


def _sorted(cells: Sequence[Cell], score: str, ascending: bool) -> list[str]:
    """Purifiers by their mean, those without one last."""
    found: dict[str, list[float]] = {}
    for cell in cells:
        found.setdefault(cell.purifier, []).append(cell.numbers[score])
    means = {name: mean_of(values) * (1 if ascending else -1) for name, values in found.items()}
    return sorted(means, key=lambda name: (math.isnan(means[name]), means[name]))


def _table(cells: Sequence[Cell], mode: bool, purifiers: Sequence[str], score: str) -> tuple[list[str], np.ndarray]:
    """Attacks of a kind, and ``[attacks, 1 + purifiers]`` means over models, first those without a purifier."""
    attacks = list(dict.fromkeys(cell.attack for cell in cells if cell.adaptive == mode))
    rows = []
    for attack in attacks:
        own = [cell for cell in cells if cell.attack == attack]
        # Without a purifier there is nothing to know: the column is that of the unaware attack in both panels.
        first = mean_of(cell.numbers[matrix_summary.UNDEFENDED[score]] for cell in own if not cell.adaptive)
        by_purifier = ([c.numbers[score] for c in own if (c.adaptive, c.purifier) == (mode, p)] for p in purifiers)
        rows.append([first, *map(mean_of, by_purifier)])
    return attacks, np.array(rows)
