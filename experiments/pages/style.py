"""What the figures of runs look like: fonts, lines, colours, and files that are the same for the same numbers."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from experiments.pages import ranking_files
from experiments.pages.gallery import data_uri
from experiments.pages.ranking_files import Method
from weights_convert.store import write_atomic

INK, SOFT, BAND = "#1b1e23", "#5a616b", "#e3e6ea"
# Okabe and Ito's colours, dark enough for text: they stay apart for colour-blind readers.
COLOURS = {"clean": INK, "sma": "#c85400", "reach": "#0072b2", "reach_wide": "#2f86c6", "baseline": "#00805e"}
OTHER_ATTACK, OTHER_BASELINE = "#b0528c", "#737a84"
UNAWARE, ADAPTIVE = COLOURS["reach"], COLOURS["sma"]  # attacks that do not know a defense, and those that do
WIDTH = 7.3  # inches, 700 pixels of a page
MANY = 1500  # points; more are stored as pixels
SIGNED = "PuOr"  # colour map: orange below 0, purple above; they stay apart for colour-blind readers
_DARK = 0.5  # luminance below which numbers are white
_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.axisbelow": True,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "nriqa_jax",
}
styled = matplotlib.style.context(["default", _STYLE])


def colours(methods: Sequence[Method]) -> dict[str, str]:
    """A colour for each method, the same in all figures: only the best baseline stands out among its like."""
    strongest = ranking_files.best(methods, "baseline")
    found = {}
    for method in methods:
        default = OTHER_BASELINE if method.role == "baseline" else OTHER_ATTACK
        found[method.name] = COLOURS["baseline"] if method == strongest else COLOURS.get(method.name, default)
    return found


@styled
def to_svg(figure: Figure) -> bytes:
    """The SVG file of a figure: letters as outlines, no date."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", dpi=200, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


@styled
def to_png(figure: Figure) -> bytes:
    """The PNG file of a figure, for where a vector file cannot be shown."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def save(folder: Path, figures: Mapping[str, Figure], formats: Sequence[str] = ("svg",)) -> list[Path]:
    """Write figures into a folder, under their names; returns the paths of the files."""
    files = {folder / f"{name}.{end}": _FORMATS[end](figure) for name, figure in figures.items() for end in formats}
    for path, content in files.items():
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, content)
    return list(files)


_FORMATS = {"svg": to_svg, "png": to_png}


class Picture(NamedTuple):
    """A figure of a page, with its size in pixels."""

    uri: str
    width: int
    height: int
    alt: str


def picture(figure: Figure, alt: str) -> Picture:
    """A figure as a page embeds it."""
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return Picture(data_uri("image/svg+xml", to_svg(figure)), width, height, alt)


def label_cells(ax: Axes, drawn: AxesImage, values: np.ndarray, form: str, size: float | None = None) -> None:
    """Write a number in each cell of a heat map, black or white by what it stands on.

    Args:
      ax: where the heat map is.
      drawn: the heat map.
      values: its numbers, ``[rows, columns]``; cells that are not finite say "none".
      form: format of a number.
      size: of the letters.
    """
    for (row, column), value in np.ndenumerate(values):
        known = np.isfinite(value)
        red, green, blue, _ = drawn.to_rgba(value) if known else (1.0, 1.0, 1.0, 1.0)
        dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < _DARK
        text = form.format(value) if known else "none"
        ax.text(column, row, text, ha="center", va="center", color="white" if dark else INK, size=size)
