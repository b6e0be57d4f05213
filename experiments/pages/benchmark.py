"""What the page of a benchmark of defenses shows: each purifier in one row, figures, all cells, and pictures."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments import records
from experiments.pages import matrix_figures, matrix_files, matrix_summary
from experiments.pages.gallery import difference, fitted, picture_uri, read_pictures
from experiments.pages.matrix_files import Cell, Strip
from experiments.pages.matrix_summary import Defense
from experiments.pages.run_files import Run
from experiments.pages.style import Picture, picture

_LONG_SIDE = 224  # of a picture of a strip, in pixels
_ALTS = {
    "modes": "Gain left by each purifier, under attacks that do not know it and under those that do",
    "quality": "Gain left under the worse kind of attacks against SSIM of purified clean images, with the Pareto front",
    "gain": "Gain left, attacks by purifiers",
    "gain_robust": "Change of score from the clean image to the purified attacked one, attacks by purifiers",
    "srocc": "SROCC of scores of purified attacked images with clean scores, attacks by purifiers",
    "gain_points": "Gain left against SSIM and against score of purified attacked images",
}


class Shown(NamedTuple):
    """A strip as it is embedded.

    Attributes:
      strip: what it is of.
      uris: pictures clean, adversarial, purified and difference, as far as they exist.
      sizes: of these, in pixels of the page.
      scores: of the image: ``clear``, ``attacked``, ``defended_clear``, ``defended_attacked``.
      notes: what is missing.
    """

    strip: Strip
    uris: dict[str, str]
    sizes: dict[str, tuple[int, int]]
    scores: dict[str, float]
    notes: list[str]


class Benchmark(NamedTuple):
    """The page.

    Attributes:
      cells: all cells.
      defenses: the purifiers, the best one first.
      pictures: the figures, by name.
      strips: the strips.
      times: seconds of each purifier for an image.
      untrained: models whose weights are random.
    """

    cells: list[Cell]
    defenses: list[Defense]
    pictures: dict[str, Picture]
    strips: list[Shown]
    times: dict[str, float]
    untrained: set[str]

    @property
    def models(self) -> list[str]:
        """Names of the models; those with random weights are marked."""
        return [f"{name} (random weights)" if name in self.untrained else name for name in self.names("model")]

    @property
    def is_adaptive(self) -> bool:
        """Whether some attacks know the purifier."""
        return any(cell.adaptive for cell in self.cells)

    @property
    def lost(self) -> list[Defense]:
        """Purifiers whose defense does not last, that with the largest loss first."""
        lost = [one for one in self.defenses if one.is_lost]
        return sorted(lost, key=lambda one: one.adaptive.removed - one.unaware.removed)

    def names(self, column: str) -> list[str]:
        """What a column of the cells says, each once."""
        return list(dict.fromkeys(getattr(cell, column) for cell in self.cells))

    def has(self, score: str) -> bool:
        """Whether a score is known of some cell."""
        return any(not math.isnan(cell.numbers.get(score, math.nan)) for cell in self.cells)


def read_benchmark(run: Run, max_strips: int) -> Benchmark:
    """Read what a run of benchmark found, draw its figures, and embed pictures.

    Args:
      run: the run.
      max_strips: strips to embed at most.

    Raises:
      UserError: when a table is missing or damaged.
    """
    cells = matrix_files.read_cells(run, matrix_summary.REQUIRED)
    defenses = matrix_summary.summarise(run, cells)
    times = {one.purifier: math.nan for one in defenses} | matrix_files.read_times(run)
    figures = matrix_figures.make_figures(cells, defenses)
    pictures = {name: picture(figure, _ALTS[name]) for name, figure in figures.items()}
    strips = _ordered(matrix_files.read_strips(run), [one.purifier for one in defenses])[:max_strips]
    listed = [part.strip().split(":") for part in run.config.get("flags", {}).get("models", "").split(",")]
    untrained = {name for name, *settings in listed if settings[:1] == ["random"]}
    return Benchmark(cells, defenses, pictures, [_show(run, one) for one in strips], times, untrained)


def _ordered(strips: Sequence[Strip], purifiers: Sequence[str]) -> list[Strip]:
    """Strips in the order of the purifiers."""
    return sorted((one for one in strips if one.purifier in purifiers), key=lambda one: purifiers.index(one.purifier))


def _show(run: Run, strip: Strip) -> Shown:
    root = Path(run.config.get("images_root") or run.folder / "images")
    paths = {
        "clean": records.image_path(root, strip.image),
        "adversarial": run.folder / strip.adversarial,
        "purified": run.folder / strip.purified,
    }
    pictures, notes = read_pictures(paths)
    if {"clean", "adversarial"} <= pictures.keys():
        if pictures["clean"].shape == pictures["adversarial"].shape:
            pictures["difference"] = difference(pictures["clean"], pictures["adversarial"])
        else:
            notes.append("The clean image no longer has the size that was attacked.")
    sizes = {name: fitted(pixels.shape[1::-1], _LONG_SIDE) for name, pixels in pictures.items()}
    uris = {name: picture_uri(pixels, sizes[name]) for name, pixels in pictures.items()}
    return Shown(strip, uris, sizes, _scores(run, strip), notes)


def _scores(run: Run, strip: Strip) -> dict[str, float]:
    cell = Cell(strip.model, strip.attack, strip.purifier, strip.adaptive, "", {})
    images, columns = matrix_files.read_images(run, cell)
    known = strip.image in images
    return {name: float(values[images.index(strip.image)]) for name, values in columns.items()} if known else {}
