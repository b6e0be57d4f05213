"""Read what a script left in its run folder: which script it was, its settings, and its table of images."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import ledger
from experiments.errors import UserError


class Kind(NamedTuple):
    """What one script leaves in its run folder."""

    script: str
    table: str
    numbers: tuple[str, ...] = ()  # number columns of the table
    shown: tuple[str, ...] = ()  # numbers under a picture; the gallery sorts by them

    @property
    def is_attack(self) -> bool:
        """Whether images were attacked: there are adversarial images, and a summary."""
        return self.table == "rows.csv"


_SHOWN = ("score_clean", "score_adversarial", "change", "linf_255", "psnr", "ssim")
ATTACK = Kind("attack_images", "rows.csv", ledger.ATTACK_COLUMNS[5:], _SHOWN)
SCORING = Kind("score_images", "scores.csv", ledger.SCORE_COLUMNS[5:], ("score",))
RANK_ATTACK = ATTACK._replace(script="rank_attack")
RANK_TARGETS = Kind("rank_targets", "targets.csv")
BENCHMARK = Kind("benchmark", "cells.csv")


class Run(NamedTuple):
    """A run folder with its settings."""

    folder: Path
    kind: Kind
    config: dict[str, Any]

    @property
    def remedy(self) -> str:
        """What to do about a file that is missing or damaged."""
        return _remedy(self.folder, self.kind)


class Row(NamedTuple):
    """One image of the run; `numbers` is empty when it failed."""

    position: int
    image: str
    error: str
    numbers: dict[str, float]


def read_run(run_dir: Path) -> Run:
    """Open a run folder.

    Raises:
      UserError: when it is none, or its ``config.json`` is missing or damaged.
    """
    kind = find_kind(run_dir)
    config = read_json(run_dir / "config.json", kind)
    return Run(run_dir, RANK_ATTACK if config.get("script") == RANK_ATTACK.script else kind, config)


def find_kind(run_dir: Path) -> Kind:
    """Tell by the tables in the folder which script wrote it."""
    for kind in (ATTACK, SCORING, RANK_TARGETS, BENCHMARK):
        if (run_dir / kind.table).is_file():
            return RANK_ATTACK if kind is ATTACK and (run_dir / "methods.csv").is_file() else kind
    fault = "is not a run folder" if run_dir.is_dir() else "does not exist"
    raise UserError(
        f"--run={run_dir} {fault}; expected is a folder with rows.csv (python -m experiments.attack_images "
        f"--out={run_dir} writes it, and so does rank_attack), scores.csv (python -m experiments.score_images "
        f"--out={run_dir}), targets.csv (python -m experiments.rank_targets --out={run_dir}) or cells.csv (python -m "
        f"experiments.benchmark --out={run_dir})"
    )


def read_json(path: Path, kind: Kind) -> dict[str, Any]:
    """Read config.json or summary.json."""
    remedy = _remedy(path.parent, kind)
    if not path.is_file():
        raise UserError(f"{path} is missing; {remedy}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} does not hold a JSON object; {remedy}")
    return content


def read_rows(run: Run) -> list[Row]:
    """Read the table of the images; the scores of an attack get their change beside them."""
    rows: list[Row] = []
    kind = run.kind
    path, source = run.folder / kind.table, f"expected is the table that python -m experiments.{kind.script} writes"
    for number, line in read_lines(run, kind.table, ("image", "status", "error", *kind.numbers), source):
        numbers: dict[str, float] = {}
        try:
            if line["status"] == "ok":
                numbers = {name: float("nan" if line[name] == "" else line[name]) for name in kind.numbers}
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}, line {number}, lacks a number; {source}") from error
        if kind.is_attack and numbers:
            numbers["change"] = numbers["score_adversarial"] - numbers["score_clean"]
        rows.append(Row(len(rows), line["image"], line["error"] or "", numbers))
    return rows


def read_lines(run: Run, name: str, columns: Sequence[str], remedy: str = "") -> Iterator[tuple[int, dict[str, str]]]:
    """The lines of a table, with their numbers in the file.

    Args:
      run: the run.
      name: name of the file in its folder.
      columns: columns that it must have.
      remedy: what to do where it lacks one; by default, to run the script again.

    Raises:
      UserError: when the file or a column is missing.
    """
    path = run.folder / name
    if not path.is_file():
        raise UserError(f"{path} is missing; {run.remedy}")
    # File names need not be UTF-8, and one that is not must still find its file.
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file)
        missing = set(columns) - set(reader.fieldnames or ())
        if missing:
            raise UserError(f"{path} has no column {', '.join(sorted(missing))}; {remedy or run.remedy}")
        try:
            yield from ((reader.line_num, line) for line in reader)
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}, is no CSV ({error}); {remedy or run.remedy}") from error


def _remedy(folder: Path, kind: Kind) -> str:
    return f"run python -m experiments.{kind.script} --out={folder} again to complete the folder"
