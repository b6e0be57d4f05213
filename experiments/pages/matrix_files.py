"""The tables of a benchmark of defenses: its cells, what they say of each image, times, and strips of pictures."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments import ledger
from experiments.errors import UserError
from experiments.pages.columns import Columns
from experiments.pages.run_files import Run

SCORES = ("clear", "attacked", "defended_clear", "defended_attacked")  # of an image, in the table of a cell
STRIPS = "strips.csv"
STRIP_COLUMNS = ("model", "attack", "purifier", "adaptive", "image", "adversarial", "purified")
_NAMES = ("model", "attack", "purifier", "adaptive", "differentiated")


class Cell(NamedTuple):
    """A row of ``cells.csv``.

    Attributes:
      model: name of the model.
      attack: the attack, as the flag spelled it.
      purifier: the purifier, as the flag spelled it.
      adaptive: whether the attack was computed through the purifier.
      differentiated: how, if so.
      numbers: the scores, by name; NaN where one is undefined.
    """

    model: str
    attack: str
    purifier: str
    adaptive: bool
    differentiated: str
    numbers: dict[str, float]

    @property
    def table(self) -> str:
        """Where its own table is, below the folder of the run."""
        attack, purifier = map(ledger.folder_name, (self.attack, self.purifier))
        return f"cells/{self.model}/{attack}/{purifier}/{'adaptive' if self.adaptive else 'unaware'}.csv"


class Strip(NamedTuple):
    """A row of ``strips.csv``: files of an image, below the folder of the run."""

    model: str
    attack: str
    purifier: str
    adaptive: bool
    image: str
    adversarial: str
    purified: str


def read_cells(run: Run, required: Sequence[str]) -> list[Cell]:
    """Read ``cells.csv``.

    Args:
      run: the run.
      required: scores that it must have.

    Raises:
      UserError: when it is missing, empty or damaged.
    """
    table = Columns(run, "cells.csv", (*_NAMES, *required))
    numbers = {name: table.numbers(name).tolist() for name in table.names if name not in _NAMES}
    model, attack, purifier, adaptive, differentiated = (table.texts(name) for name in _NAMES)
    if not model:
        raise UserError(f"{run.folder / 'cells.csv'} has no rows; {run.remedy}")
    rows = zip(model, attack, purifier, [text == "1" for text in adaptive], differentiated)
    return [Cell(*names, {name: values[i] for name, values in numbers.items()}) for i, names in enumerate(rows)]


def read_images(run: Run, cell: Cell) -> tuple[list[str], dict[str, np.ndarray]]:
    """The images of a cell, and their `SCORES`.

    Raises:
      UserError: when the table is missing or damaged.
    """
    table = Columns(run, cell.table, ("image", *SCORES))
    return table.texts("image"), {name: table.numbers(name) for name in SCORES}


def read_times(run: Run) -> dict[str, float]:
    """Seconds that each purifier took for an image.

    Raises:
      UserError: when the table is missing or damaged.
    """
    table = Columns(run, "times.csv", ("purifier", "mean_time"))
    return dict(zip(table.texts("purifier"), table.numbers("mean_time").tolist()))


def read_strips(run: Run) -> list[Strip]:
    """Read ``strips.csv``; none where there is no such table.

    Raises:
      UserError: when it is damaged.
    """
    if not (run.folder / STRIPS).exists():
        return []
    table = Columns(run, STRIPS, STRIP_COLUMNS)
    rows = zip(*(table.texts(name) for name in STRIP_COLUMNS))
    return [Strip(*row)._replace(adaptive=row[STRIP_COLUMNS.index("adaptive")] == "1") for row in rows]


def score_range(run: Run, model: str) -> tuple[float, float]:
    """Ends of the score range of a model; NaN where the run does not say, or an end is open."""
    low, high = ((run.config.get("models") or {}).get(model) or {}).get("score_range") or (None, None)
    return (float("nan"), float("nan")) if low is None or high is None else (float(low), float(high))
