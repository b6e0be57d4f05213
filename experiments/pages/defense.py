"""The figure of defenses: how robust each model is, against how well it agrees with opinions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from experiments.defense_table import NO_ATTACK
from experiments.pages.style import SOFT, WIDTH, styled

# Okabe and Ito's, and a shape each: they stay apart for colour-blind readers and on paper.
_COLOURS = ("#0072b2", "#c85400", "#00805e", "#b0528c", "#1b1e23", "#8a6d00", "#2f86c6")
_MARKERS = "osD^vPX"


@styled
def defense_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """R and attacked RMSE against the SROCC of clean scores with opinions, a line for each attack and radius.

    Args:
      rows: of ``defense.csv``; points of a line are the models, in their order.
    """
    clean = {row["label"]: float(row["srocc_mos"]) for row in rows if row["attack"] == NO_ATTACK}
    lines = list(dict.fromkeys((row["attack"], row["epsilon"]) for row in rows if row["attack"] != NO_ATTACK))
    figure = Figure((WIDTH, 3.4), layout="constrained")
    panels = (("r_ln", "Robustness R (ln)"), ("rmse_clean", "RMSE of scores by the attack"))
    for ax, (column, title) in zip(figure.subplots(1, 2), panels):
        for index, line in enumerate(lines):
            found = [row for row in rows if (row["attack"], row["epsilon"]) == line]
            points = [(clean[row["label"]], float(row[column])) for row in found]
            style = {"color": _COLOURS[index % len(_COLOURS)], "marker": _MARKERS[index % len(_MARKERS)]}
            ax.plot(*zip(*points), label=" ".join(line).strip(), lw=0.9, ms=4, alpha=0.9, **style)
        for label, srocc in clean.items():
            if math.isfinite(srocc):
                ax.axvline(srocc, color=SOFT, lw=0.4, ls=":")
                ax.annotate(
                    label, (srocc, 1.0), xycoords=("data", "axes fraction"), fontsize=7, rotation=60, color=SOFT
                )
        ax.set(xlabel="SROCC of clean scores with opinions")
        ax.set_title(title, pad=34)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
    return figure
