"""What the figures of runs look like: fonts, lines, colours, and files that are the same for the same numbers."""

import io
from collections.abc import Sequence

import matplotlib.style
from matplotlib.figure import Figure

from experiments.pages import ranking_files
from experiments.pages.ranking_files import Method

INK, SOFT, BAND = "#1b1e23", "#5a616b", "#e3e6ea"
# Okabe and Ito's colours, dark enough for text: they stay apart for colour-blind readers.
COLOURS = {"clean": INK, "sma": "#c85400", "reach": "#0072b2", "reach_wide": "#2f86c6", "baseline": "#00805e"}
OTHER_ATTACK, OTHER_BASELINE = "#b0528c", "#737a84"
WIDTH = 7.3  # inches, 700 pixels of a page
MANY = 1500  # points; more are stored as pixels
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
