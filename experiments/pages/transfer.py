"""The figure of a transfer matrix: what each model's attack does to each model's scores."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.pages.style import SIGNED, WIDTH, label_cells, styled


@styled
def transfer_figure(models: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Heat maps with numbers, models that attack down and models that score across.

    Args:
      models: names, in order.
      rows: of `transfer.csv`: the row of each attacking model by each scoring one; NaN where nothing was measured.
    """
    side = len(models)
    figure = Figure((WIDTH, 1.3 + 0.5 * side), layout="constrained")
    panels = (("change", "Mean change of quality / range", "{:+.3f}"), ("srocc", "SROCC with clean scores", "{:.3f}"))
    for ax, (column, title, form) in zip(figure.subplots(1, 2), panels):
        values = np.array([float(row[column]) for row in rows]).reshape(side, side)
        limit = 1.0 if column == "srocc" else max(float(np.nanmax(np.abs(values), initial=0.0)), 1e-9)
        drawn = ax.imshow(values, cmap=SIGNED, vmin=-limit, vmax=limit, aspect="auto")
        label_cells(ax, drawn, values, form)
        ax.set_xticks(range(side), models, rotation=30, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(side), models)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set(title=title, xlabel="scored by", ylabel="attacked")
    return figure
