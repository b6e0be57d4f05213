"""Tables of a run by columns; an empty cell is a number that does not exist, NaN here."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.errors import UserError
from experiments.pages.run_files import Run, read_lines


class Interval(NamedTuple):
    """A number with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


class Columns:
    """A table by columns."""

    def __init__(self, run: Run, name: str, required: Sequence[str]) -> None:
        """Read a table.

        Args:
          run: the run.
          name: name of the file in its folder.
          required: columns that it must have.

        Raises:
          UserError: when the file or a column is missing, or a line has not as many cells as the header.
        """
        self._source, self._remedy = run.folder / name, run.remedy
        self._lines = list(read_lines(run, name, required))
        self.names = list(self._lines[0][1]) if self._lines else list(required)
        for number, line in self._lines:
            if None in line or None in line.values():
                raise UserError(f"{self._source}, line {number}, has not as many cells as the header; {self._remedy}")

    def texts(self, name: str) -> list[str]:
        """Cells of a column as they are."""
        return [line[name] for _, line in self._lines]

    def numbers(self, name: str) -> np.ndarray:
        """Numbers of a column, NaN for empty cells; all are, where the column does not exist.

        Raises:
          UserError: when a cell holds something else.
        """
        return np.array([self._number(number, line.get(name, ""), name) for number, line in self._lines], float)

    def _number(self, number: int, cell: str, name: str) -> float:
        try:
            return float(cell or "nan")
        except ValueError as error:
            fault = f"has {cell!r} instead of a number as {name}"
            raise UserError(f"{self._source}, line {number}, {fault}; {self._remedy}") from error
