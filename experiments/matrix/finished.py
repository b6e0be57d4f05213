"""Finished benchmarks as their run folders tell them: what each says of each model, cell by cell and image by image."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.errors import UserError
from experiments.matrix import spelled
from experiments.matrix.plan import Cell
from experiments.pages import run_files
from experiments.pages.run_files import Kind, Run

BENCHMARK = Kind("benchmark", "cells.csv")
COLUMNS = ("clear", "defended_clear", "defended_attacked", "attacked_unaware")

_HEAD = ("model", "attack", "purifier", "adaptive", "images", "both_defended_abs_gain")
_FLAGS = ("objective", "seed", "draws")
_OF_MODEL = ("sha256", "protocol", "score_range", "higher_is_better")
_ROUNDING = 1e-5  # of a gain that is computed from scores of six decimals

Column = Float[np.ndarray, " images"]


class CellTable(NamedTuple):
    """The table of a cell.

    Attributes:
      run: folder of the run, as it was given.
      file: the table, below it.
      sha256: of the file.
      attack: as it was spelled.
      purifier: as it was spelled.
      adaptive: whether the attack knew of the purifier.
      images: names, in the order of the rows.
      columns: `COLUMNS` by name, in the same order.
      is_whole: whether these are all rows of the file.
    """

    run: str
    file: str
    sha256: str
    attack: str
    purifier: str
    adaptive: bool
    images: tuple[str, ...]
    columns: Mapping[str, Column]
    is_whole: bool = True

    def on(self, images: Sequence[str]) -> "CellTable":
        """The rows of some of its images, in their order."""
        place = {name: i for i, name in enumerate(self.images)}
        take = [place[name] for name in images]
        columns = {name: values[take] for name, values in self.columns.items()}
        return self._replace(images=tuple(images), columns=columns, is_whole=tuple(images) == self.images)


class Part(NamedTuple):
    """What a run says of one model.

    Attributes:
      run: folder of the run, as it was given.
      model: name of the model.
      conditions: what must be the same for others to compare.
      tables: of its cells.
    """

    run: str
    model: str
    conditions: Mapping[str, Any]
    tables: list[CellTable]

    @property
    def range(self) -> tuple[float, float]:
        """Of the scores."""
        low, high = self.conditions["score_range"]
        return low, high

    def clean_scores(self) -> dict[str, float]:
        """Undefended score of each clean image."""
        return {name: score for table in self.tables for name, score in zip(table.images, table.columns["clear"])}

    def attacked_scores(self) -> dict[tuple[str, str], float]:
        """Undefended score of each image that an attack made without knowing of a purifier, by attack and image."""
        return {
            (table.attack, name): score
            for table in self.tables
            for name, score in zip(table.images, table.columns["attacked_unaware"])
        }


def gains(table: CellTable, low: float, high: float) -> Column:
    """What an attack gains behind the purifier, of each image, in shares of the score range."""
    return np.abs(table.columns["defended_clear"] - table.columns["defended_attacked"]) / (high - low)


def read_run(folder: str) -> list[Part]:
    """Read a finished run of ``experiments.benchmark``.

    Raises:
      UserError: when it is none, is not finished, or its tables contradict each other.
    """
    path = Path(folder)
    if not (path / BENCHMARK.table).is_file():
        raise UserError(f"--runs: {folder} has no {BENCHMARK.table}; experiments.benchmark writes it when it is done")
    run = Run(path, BENCHMARK, run_files.read_json(path / "config.json", BENCHMARK))
    parts: dict[str, Part] = {}
    for _, line in run_files.read_lines(run, BENCHMARK.table, _HEAD):
        model = line["model"]
        if model not in parts:
            parts[model] = Part(folder, model, _conditions(run, model), [])
        table = _read_table(run, folder, line)
        _check(run, line, table, parts[model].range)
        parts[model].tables.append(table)
    return list(parts.values())


def _conditions(run: Run, model: str) -> dict[str, Any]:
    try:
        flags, described = run.config["flags"], run.config["models"][model]
        found = {name: flags[name] for name in _FLAGS} | {"precision": run.config["precision"]}
        found |= {name: described[name] for name in _OF_MODEL}
        low, high = map(float, found["score_range"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run.folder / 'config.json'} does not tell the settings of {model}; {run.remedy}") from error
    return {**found, "score_range": (low, high)}


def _read_table(run: Run, folder: str, line: Mapping[str, str]) -> CellTable:
    attack, purifier = (spelled.read_one(BENCHMARK.table, line[name]) for name in ("attack", "purifier"))
    adaptive = line["adaptive"] == "1"
    file = f"cells/{Cell(line['model'], attack, purifier, adaptive).folder}.csv"
    images, rows = [], []
    for number, row in run_files.read_lines(run, file, ("image", *COLUMNS)):
        try:
            rows.append([float(row[name]) for name in COLUMNS])
        except (TypeError, ValueError) as error:
            raise UserError(f"{run.folder / file}, line {number}, lacks a score; {run.remedy}") from error
        images.append(row["image"])
    columns = dict(zip(COLUMNS, np.array(rows, float).reshape(len(rows), len(COLUMNS)).T))
    digest = hashlib.sha256((run.folder / file).read_bytes()).hexdigest()
    return CellTable(folder, file, digest, attack.text, purifier.text, adaptive, tuple(images), columns)


def _check(run: Run, line: Mapping[str, str], table: CellTable, score_range: tuple[float, float]) -> None:
    """Refuse a table of images that does not give what the table of all cells says of it."""
    told = float(line["both_defended_abs_gain"] or "nan")
    found = float(np.mean(gains(table, *score_range))) if table.images else math.nan
    same = math.isclose(told, found, abs_tol=_ROUNDING) or (math.isnan(told) and math.isnan(found))
    if not (same and line["images"] == str(len(table.images))):
        raise UserError(
            f"{run.folder / BENCHMARK.table} says {line['images']} images and both_defended_abs_gain={told:g}, but "
            f"{table.file} has {len(table.images)} and gives {found:g}; {run.remedy}"
        )
