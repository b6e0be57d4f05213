"""What a benchmark says of each purifier, over all models and attacks, and how sure that is."""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from experiments.pages import matrix_files
from experiments.pages.columns import Interval
from experiments.pages.matrix_files import Cell
from experiments.pages.run_files import Run
from nriqa_jax.metrics.correlation import bootstrap_interval

GAIN, ROBUST, SROCC = "both_defended_abs_gain", "robust_abs_gain", "defended_attacked_srocc_clear"
UNDEFENDED = {  # the same without a purifier
    GAIN: "nonpurified_abs_gain",
    ROBUST: "nonpurified_abs_gain",
    SROCC: "attacked_srocc_clear",
}
MODES = {False: "Attacks that do not know the purifier", True: "Attacks computed through the purifier"}
_CLEAN = ("mean_ssim_defended_clear", "mean_psnr_defended_clear", "robust_clear_srocc_clear")
_SSIM = "mean_ssim_defended_attacked"
REQUIRED = (*UNDEFENDED, *UNDEFENDED.values(), *_CLEAN, _SSIM)
_DEFENSE = 0.1  # share of the gain that a purifier must remove to count as a defense
_LOST = 0.5  # share of what it removes that attacks which know it take back, from which on it counts as lost

_Scores = dict[str, np.ndarray]
_Table = tuple[list[str], _Scores]  # names of images, and columns


class Attacked(NamedTuple):
    """Means over models, attacks and images; NaN without attacks.

    Attributes:
      left: gain behind the purifier: mean absolute change from the purified clean image to the purified attacked one,
        as a share of the score range.
      removed: 1 - that / the gain without a purifier.
      ssim: of the purified attacked image to the clean one.
      score: of the purified attacked image, from 0 to 1 over the score range.
    """

    left: Interval
    removed: float
    ssim: float
    score: float


class Defense(NamedTuple):
    """A purifier over models and attacks; if some of the attacks know it, over these alone, so that both compare.

    Attributes:
      purifier: as the flag spelled it.
      undefended: gain of the unaware attacks without the purifier.
      unaware: attacks that do not know the purifier.
      adaptive: attacks that were computed through it.
      ssim: of purified clean images to the clean ones.
      psnr: of the same, in dB; infinite where an image stays as it is.
      srocc: of scores of purified clean images with clean scores.
      clean: mean score of the clean images, from 0 to 1 over the score range.
    """

    purifier: str
    undefended: float
    unaware: Attacked
    adaptive: Attacked
    ssim: float
    psnr: float
    srocc: float
    clean: float

    def under(self, adaptive: bool) -> Attacked:
        """What one kind of attacks leaves."""
        return self.adaptive if adaptive else self.unaware

    @property
    def worst(self) -> float:
        """The larger one of the gains that the two kinds of attacks leave."""
        return float(np.fmax(self.unaware.left.value, self.adaptive.left.value))

    @property
    def is_lost(self) -> bool:
        """Whether there is a defense, and attacks that know it take back more than half of what it removes."""
        return self.unaware.removed >= _DEFENSE and self.adaptive.removed < (1 - _LOST) * self.unaware.removed


def summarise(run: Run, cells: Sequence[Cell]) -> list[Defense]:
    """Every purifier of a run, that with the least gain left under the worse kind of attack first.

    Raises:
      UserError: when the table of a cell is missing or damaged.
    """
    purifiers = dict.fromkeys(cell.purifier for cell in cells)
    found = [_defense(run, [cell for cell in cells if cell.purifier == name]) for name in purifiers]
    return sorted(found, key=lambda one: (math.isnan(one.worst), one.worst))


def _defense(run: Run, cells: Sequence[Cell]) -> Defense:
    known = [cell for cell in cells if cell.adaptive]
    pairs = {(cell.model, cell.attack) for cell in known or cells}
    unaware = [cell for cell in cells if not cell.adaptive and (cell.model, cell.attack) in pairs]
    tables = [_shares(run, cell) for cell in unaware]
    undefended = mean_of(_over_cells(tables, lambda scores: np.abs(scores["clear"] - scores["attacked"])))
    ssim, psnr, srocc = (mean_of(cell.numbers[name] for cell in unaware) for name in _CLEAN)
    return Defense(
        cells[0].purifier,
        undefended,
        _attacked(unaware, tables, undefended),
        _attacked(known, [_shares(run, cell) for cell in known], undefended),
        ssim,
        psnr,
        srocc,
        mean_of(_over_cells(tables, lambda scores: scores["clear"])),
    )


def _attacked(cells: Sequence[Cell], tables: Sequence[_Table], undefended: float) -> Attacked:
    gains = _over_cells(tables, lambda scores: np.abs(scores["defended_clear"] - scores["defended_attacked"]))
    value = mean_of(gains)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # what is undefined shows as missing
        left = Interval(value, *bootstrap_interval(np.mean, gains))
    return Attacked(
        left,
        1.0 - value / undefended if undefended > 0 else math.nan,
        mean_of(cell.numbers[_SSIM] for cell in cells),
        mean_of(_over_cells(tables, lambda scores: scores["defended_attacked"])),
    )


def _shares(run: Run, cell: Cell) -> _Table:
    """The images of a cell, and their scores from 0 to 1 over the score range."""
    low, high = matrix_files.score_range(run, cell.model)
    images, scores = matrix_files.read_images(run, cell)
    return images, {name: (values - low) / (high - low) for name, values in scores.items()}


def _over_cells(tables: Sequence[_Table], formula: Callable[[_Scores], np.ndarray]) -> np.ndarray:
    """A number of each image that all cells have, averaged over the cells."""
    columns = [dict(zip(images, formula(scores))) for images, scores in tables]
    shared = [image for image in columns[0] if all(image in column for column in columns)] if columns else []
    return np.array([np.mean([column[image] for column in columns]) for image in shared])


def mean_of(values: Iterable[float]) -> float:
    """Mean of the values that are known; NaN where none is."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
