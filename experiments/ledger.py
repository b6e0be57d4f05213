"""The run folder: tables that are written as a run goes, so that a killed run continues where it was.

A table is one CSV file, one row per image in order of name, replaced as a whole after each batch: readers see it with
all rows of a batch or with none. The same command run again keeps the finished rows and adds the others. Numbers that
differ from run to run, such as times, have tables of their own, so that the rest is reproducible to the byte.
"""

import csv
import hashlib
import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

import jax
import numpy as np

import nriqa_jax
from experiments import processes
from experiments.errors import UserError
from weights_convert.store import write_atomic

Row = dict[str, str]

SCORE_COLUMNS = ("image", "status", "error", "height", "width", "score")
ATTACK_COLUMNS = (
    *("image", "status", "error", "height", "width", "score_clean", "score_adversarial", "score_adversarial_float"),
    *("linf_255", "l2", "psnr", "ssim", "queries"),
)

# What a run may be continued under although it differs: the machine, and paths whose content is recorded otherwise.
_FREE = (
    *("versions", "git_revision", "device", "flags.out", "flags.images", "flags.weights", "flags.devices"),
    *("flags.coordinator", "flags.num_processes", "flags.process_id"),
    *("flags.data", "flags.backbone", "flags.checkpoint_minutes", "flags.tensorboard", "flags.attack_set"),
)


class Table:
    """Rows by image name, kept in a CSV file."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        """Open a table, with the rows that an earlier run left.

        Raises:
          UserError: when the file there has other columns.
        """
        self.path, self.columns = path, tuple(columns)
        self.rows: dict[str, Row] = {}
        self._read([path, *self._parts()])

    def keep(self, names: Iterable[str]) -> None:
        """Drop the rows of all other images."""
        wanted = set(names)
        self.rows = {name: row for name, row in self.rows.items() if name in wanted}

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows and write the table."""
        for row in rows:
            cells = {column: format_cell(row.get(column)) for column in self.columns}
            self.rows[cells["image"]] = cells
        self.write()

    def merge(self) -> None:
        """Make one file of what all processes found; each must call this when it is done."""
        processes.wait_for_all(f"{self.path.name} is written")
        if processes.is_first():
            parts = self._parts()  # without other processes, those of an interrupted run: their rows are known
            self._read(parts if processes.several() else [])
            self._save(self.path)
            for part in parts:
                part.unlink()
        processes.wait_for_all(f"{self.path.name} is merged")

    def write(self) -> None:
        """Write the table, in order of image name; beside those of other processes, if there are any."""
        part = f"{self.path.stem}.part-{jax.process_index()}.csv"
        self._save(self.path.with_name(part) if processes.several() else self.path)

    def _parts(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.stem}.part-*.csv"))

    def _read(self, paths: Iterable[Path]) -> None:
        for path in paths:
            if path.exists():
                with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
                    reader = csv.DictReader(file)
                    if tuple(reader.fieldnames or ()) != self.columns:
                        raise UserError(f"{path} has other columns than this script writes; choose another --out")
                    self.rows |= {row["image"]: row for row in reader}

    def _save(self, path: Path) -> None:
        write_rows(path, self.columns, ([row[c] for c in self.columns] for _, row in sorted(self.rows.items())))

    def numbers(self, column: str) -> np.ndarray:
        """A column of the successful rows, in order of name; empty cells are NaN."""
        rows = (self.rows[name] for name in sorted(self.rows))
        return np.array([float(row[column] or "nan") for row in rows if row.get("status", "ok") == "ok"])


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file as a whole, making its folder if needed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([format_cell(value) for value in row] for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.getvalue().encode("utf-8", "surrogateescape"))


def format_cell(value: Any) -> str:
    """Text of a cell: six decimals for real numbers, nothing for None and NaN."""
    if value is None or (isinstance(value, (float, np.floating)) and math.isnan(value)):
        return ""
    return f"{value:.6f}" if isinstance(value, (float, np.floating)) else str(value)


def folder_name(text: str) -> str:
    """What a flag says, such as ``ifgsm:epsilon=8/255``, as the name of a folder."""
    return re.sub(r"[^\w.=+-]", "_", text)


def adversarial_name(image: str, images: Iterable[str]) -> str:
    """Name of the PNG of an image: its own with the suffix .png, added instead of exchanged where two would clash."""
    path = PurePosixPath(image)
    stem = path.with_suffix("")
    clash = sum(PurePosixPath(other).with_suffix("") == stem for other in images) > 1
    return image + ".png" if clash else path.with_suffix(".png").as_posix()


def adversarial_names(images: Sequence[str]) -> dict[str, str]:
    """`adversarial_name` of every image of a run."""
    stems: dict[PurePosixPath, list[str]] = {}
    for image in images:
        stems.setdefault(PurePosixPath(image).with_suffix(""), []).append(image)
    return {image: adversarial_name(image, group) for group in stems.values() for image in group}


def open_run(folder: Path, config: Mapping[str, Any]) -> None:
    """Create a run folder with its ``config.json``, or check that the one there is of the same run.

    Raises:
      UserError: when the folder cannot be made, or holds a run with other settings.
    """
    path = folder / "config.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _check_same_run(path, config)
        elif processes.is_first():
            write_json(path, config)
    except OSError as error:
        raise UserError(f"--out={folder} cannot be written: {error.strerror}") from error
    processes.wait_for_all("the folder of the run exists")


def _check_same_run(path: Path, config: Mapping[str, Any]) -> None:
    try:
        before = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged; choose another --out") from error
    now = json.loads(json.dumps(config))
    old, new = _flat(before), _flat(now)
    differing = (key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    changed = sorted(key for key in differing if not key.startswith(_FREE))
    if changed:
        key = changed[0]
        raise UserError(
            f"{path.parent} holds a run with {key}={old.get(key)}, now it is {new.get(key)}; choose another --out"
            + (f" (also different: {', '.join(changed[1:])})" if changed[1:] else "")
        )


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for name, child in tree.items():
        flat |= _flat(child, f"{prefix}.{name}".strip("."))
    return flat


def write_summary(folder: Path, tables: Sequence[Table], summarise: Callable[[], Mapping[str, Any]]) -> None:
    """Write ``summary.json``, unless the one there was made from these very tables."""
    path = folder / "summary.json"
    digest = hashlib.sha256(b"".join(table.path.read_bytes() for table in tables)).hexdigest()
    try:
        current = json.loads(path.read_text()).get("tables_sha256") == digest
    except (OSError, ValueError):
        current = False
    if not current:
        write_json(path, {**summarise(), "tables_sha256": digest})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file as a whole; infinities and NaN become null."""
    text = json.dumps(finite(content), indent=2, ensure_ascii=True, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def finite(tree: Any) -> Any:
    """A tree of JSON values, with null for infinities and NaN."""
    if isinstance(tree, Mapping):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def provenance(gradients: str) -> dict[str, Any]:
    """Versions, revision, device and precision (``gradients``: that of gradients), for ``config.json``."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "pillow", "safetensors")
    versions = {name: metadata.version(name) for name in packages}
    return {
        "versions": {"nriqa_jax": nriqa_jax.__version__, "python": sys.version.split()[0], **versions},
        "git_revision": _git_revision(),
        "device": f"{jax.default_backend()} x{jax.local_device_count()} ({jax.devices()[0].device_kind})",
        "precision": {
            "scores": f"float32, {jax.config.jax_default_matmul_precision or 'default'}",  # type: ignore[attr-defined]
            "gradients": gradients,
        },
    }


def _git_revision() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
