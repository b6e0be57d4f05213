"""Tables of scores by image: subjective ones (MOS), or those of a model."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from experiments.errors import UserError

_IMAGE = ("image", "image_name", "img_name", "img_path", "image_path", "filename", "file", "name", "path")
_SCORE = ("mos", "dmos", "score", "label", "subjective_score")


def read_scores(path: Path, flag: str = "mos", names: Sequence[str] = _SCORE) -> dict[str, float]:
    """Scores by image from a CSV file: columns are found by their names, else the first two count.

    Args:
      path: a file with a header, or without one.
      flag: flag that named the file, for messages.
      names: names of the column of scores.

    Raises:
      UserError: when the file cannot be read so, or scores an image twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"--{flag}={path} cannot be read as CSV: {getattr(error, 'strerror', None) or error}"
        ) from error
    if not rows or len(rows[0]) < 2:
        raise UserError(f"--{flag}={path} needs two columns, the image and its score")
    header = [cell.strip().lower() for cell in rows[0]]
    image, score = _column(header, _IMAGE, 0), _column(header, names, 1)
    first = int(_number(rows[0][score]) is None)
    scores: dict[str, float] = {}
    for number, row in enumerate(rows[first:], start=first + 1):
        value = _number(row[score]) if len(row) > max(image, score) else None
        if value is None or row[image] in scores:
            fault = "scores an image twice" if value is not None else "has no finite score"
            raise UserError(f"--{flag}={path}: line {number} {fault}")
        scores[row[image]] = value
    return scores


def match(scores: dict[str, float], images: Sequence[str], path: Path) -> list[float]:
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


def _column(header: Sequence[str], names: Sequence[str], default: int) -> int:
    return next((header.index(name) for name in names if name in header), default)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
