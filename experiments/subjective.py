"""Tables of scores by image: subjective ones (MOS), or those of a model.

Columns are found by their names; where these say nothing, by their places, as toolboxes count them: the image and its
score, or, of a set with references, the reference, the image and its score.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from experiments.errors import UserError
from experiments.records import EXTENSIONS

_IMAGE = (
    *("image", "image_name", "img_name", "img_path", "image_path", "dist_name", "dist_img", "dist_path"),
    *("filename", "file_name", "file", "name", "path"),
)
_REFERENCE = ("ref_name", "ref_img", "ref_path", "hq_name", "reference")
_SCORE = ("mos", "dmos", "score", "label", "subjective_score", "elo_score", "mos_quality")


class ScoreTable(NamedTuple):
    """A table of scores, in the order of its file.

    Attributes:
      images: names as the file gives them; no two are equal.
      scores: finite numbers.
      references: name of the reference of each image, where there is such a column.
      columns: cells of all columns by name (lower case, ``_`` for blanks); none where the file has no header.
    """

    images: list[str]
    scores: list[float]
    references: list[str] | None
    columns: Mapping[str, list[str]]


class _Places(NamedTuple):
    """Columns of interest, by number."""

    image: int
    score: int
    reference: int | None


def read_table(path: Path, flag: str = "mos", names: Sequence[str] = _SCORE) -> ScoreTable:
    """A table of scores from a CSV file, with a header or without one.

    Args:
      path: the file.
      flag: flag that named the file, for messages.
      names: names of the column of scores.

    Raises:
      UserError: when the file cannot be read so, or scores an image twice.
    """
    rows = _cells(path, flag)
    header = [cell.strip().lower().replace(" ", "_") for cell in rows[0]]
    places = _places(header, rows[-1], names)
    first = int(_number(rows[0], places.score) is None)
    scores: dict[str, float] = {}
    for number, row in enumerate(rows[first:], start=first + 1):
        image, value = _cell(row, places.image), _number(row, places.score)
        if value is None or image in scores:
            fault = "scores an image twice" if value is not None else "has no finite score"
            raise UserError(f"--{flag}={path}: line {number} {fault}")
        scores[image] = value
    columns = {name: [_cell(row, index) for row in rows[1:]] for index, name in enumerate(header)} if first else {}
    references = None if places.reference is None else [_cell(row, places.reference) for row in rows[first:]]
    return ScoreTable(list(scores), list(scores.values()), references, columns)


def read_scores(path: Path, flag: str = "mos", names: Sequence[str] = _SCORE) -> dict[str, float]:
    """Scores by image, of `read_table`."""
    table = read_table(path, flag, names)
    return dict(zip(table.images, table.scores))


def match(scores: Mapping[str, float], images: Sequence[str], path: Path) -> list[float]:
    """The scores of images, by their names or by their file names alone.

    Raises:
      UserError: when an image has no score, or its file name has several.
    """
    by_file: dict[str, list[float]] = {}
    for name, score in scores.items():
        by_file.setdefault(PurePosixPath(name).name, []).append(score)
    found = [[scores[image]] if image in scores else by_file.get(PurePosixPath(image).name, []) for image in images]
    missing = [image for image, values in zip(images, found) if len(values) != 1]
    if missing:
        raise UserError(
            f"--mos={path} has not exactly one score for {len(missing)} of the images, such as {missing[0]}"
        )
    return [values[0] for values in found]


def _cells(path: Path, flag: str) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"--{flag}={path} cannot be read as CSV: {getattr(error, 'strerror', None) or error}"
        ) from error
    if not rows or len(rows[0]) < 2:
        raise UserError(f"--{flag}={path} needs two columns, the image and its score")
    return rows


def _places(header: Sequence[str], row: Sequence[str], scores: Sequence[str]) -> _Places:
    """The columns of interest, from the header, or else as a row of data suggests."""
    reference = _find(header, _REFERENCE)
    if reference is None and _find(header, _IMAGE) is None and all(map(_names_image, row[:2])) and len(row) > 2:
        reference = 0
    image = _find(header, _IMAGE)
    score = _find(header, scores)
    # A reference before its image moves both columns.
    shift = int(reference == 0)
    return _Places(shift if image is None else image, 1 + shift if score is None else score, reference)


def _find(header: Sequence[str], names: Sequence[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _names_image(cell: str) -> bool:
    return PurePosixPath(cell.strip()).suffix.lower() in EXTENSIONS


def _cell(row: Sequence[str], index: int) -> str:
    return row[index].strip() if index < len(row) else ""


def _number(row: Sequence[str], index: int) -> float | None:
    try:
        value = float(_cell(row, index))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
