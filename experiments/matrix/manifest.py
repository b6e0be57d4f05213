"""The manifest of a set of attacked images: what was written from what, so that later runs can tell what changed."""

import csv
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from experiments import ledger, loading, records
from experiments.errors import UserError
from experiments.matrix.plan import Source
from experiments.matrix.spelled import Spelled
from experiments.pages import run_files
from experiments.pages.run_files import Kind

SET = Kind("build_attack_set", "manifest.csv")
COLUMNS = (
    *("path", "sha256", "source", "source_sha256", "model", "weights_sha256", "attack", "settings", "epsilon"),
    *("score_clean", "score_adversarial"),
)

_SCORES = ("score_clean", "score_adversarial")
_BUDGETS = ("epsilon", "match_linf")  # settings that bound the largest change of a pixel
_NAMED = 3  # files in a message


def read(folder: Path) -> list[ledger.Row]:
    """The rows of a manifest; none where there is no manifest yet.

    Raises:
      UserError: when it has other columns.
    """
    path = folder / SET.table
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise UserError(f"{path} has other columns than this script writes; choose another --out")
        return list(reader)


def write(folder: Path, rows: Iterable[ledger.Row]) -> None:
    """Write a manifest as a whole."""
    ledger.write_rows(folder / SET.table, COLUMNS, ([row[column] for column in COLUMNS] for row in rows))


def attacked(folder: Path, source: Source) -> ledger.Table:
    """What the attack says of a part of a set."""
    return ledger.Table(folder / source.folder / "rows.csv", ledger.ATTACK_COLUMNS)


def describe(folder: Path, source: Source, weights: str, root: Path) -> list[ledger.Row]:
    """The rows of a finished part of a set: one for each image that was written.

    Args:
      folder: of the set.
      source: the part.
      weights: sha256 of those of its model.
      root: folder of the clean images, or the one file.

    Raises:
      UserError: when a file is missing.
    """
    assert source.model is not None
    assert source.attack is not None
    found = attacked(folder, source).rows
    names = [name for name, row in sorted(found.items()) if row["status"] == "ok"]
    files = ledger.adversarial_names(list(found))
    paths = [f"{source.folder}/adversarial/{files[name]}" for name in names]
    written = hashes(folder / path for path in paths)
    if "" in written:
        lost = folder / paths[written.index("")]
        raise UserError(f"{lost} is missing although it was written; delete the folder of that attack to attack again")
    sources = hashes(records.image_path(root, name) for name in names)
    own, (name, settings) = dict(source.attack.settings), _halves(source.attack)
    shared = {"model": source.model, "weights_sha256": weights, "attack": name, "settings": settings}
    shared["epsilon"] = next((own[budget] for budget in _BUDGETS if budget in own), "")
    return [
        {"path": path, "sha256": new, "source": image, "source_sha256": old}
        | shared
        | {column: found[image][column] for column in _SCORES}
        for path, new, image, old in zip(paths, written, names, sources)
    ]


def _halves(attack: Spelled) -> tuple[str, str]:
    """Name and settings of an attack, as it was written."""
    name, _, settings = attack.text.partition(":")
    return name, settings


def is_complete(folder: Path, source: Source, images: Sequence[str], rows: Iterable[ledger.Row]) -> bool:
    """Whether a part was finished, on all images, and its files are in the rows of the manifest."""
    found, listed = attacked(folder, source).rows, of_part(rows, source)
    return found.keys() == set(images) and listed.keys() == {k for k, row in found.items() if row["status"] == "ok"}


def of_part(rows: Iterable[ledger.Row], source: Source) -> dict[str, ledger.Row]:
    """The rows of a part, by name of the clean image."""
    assert source.attack is not None
    wanted = (source.model, *_halves(source.attack))
    return {row["source"]: row for row in rows if (row["model"], row["attack"], row["settings"]) == wanted}


def part_of(row: ledger.Row) -> str:
    """Folder of the part that a row is of, below that of the set."""
    return row["path"].partition("/adversarial/")[0]


def hashes(paths: Iterable[Path]) -> list[str]:
    """The sha256 of files; empty where there is none."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_hash, paths))


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def verify(folder: Path, root: Path | None, rows: Sequence[ledger.Row]) -> None:
    """Compare the files of a set, the scores in its tables and its clean images with the manifest.

    Args:
      folder: of the set.
      root: folder of the clean images, or the one file; None where they are not at hand.
      rows: of the manifest.

    Raises:
      UserError: when some differ, or are missing; the sentence names them.
    """
    expected = {folder / row["path"]: row["sha256"] for row in rows}
    if root is not None:
        expected |= {records.image_path(root, row["source"]): row["source_sha256"] for row in rows}
    found = zip(expected.items(), hashes(expected))
    changed = [str(path) for (path, wanted), now in found if now != wanted] + _changed_tables(folder, rows)
    if changed:
        more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        raise UserError(
            f"{folder} is no longer what its {SET.table} lists: {', '.join(changed[:_NAMED])}{more} changed or is "
            f"missing; restore what changed, or delete the folder of that attack to attack again"
        )


def _changed_tables(folder: Path, rows: Sequence[ledger.Row]) -> list[str]:
    """The tables whose scores are not those of the manifest."""
    parts: dict[str, list[ledger.Row]] = {}
    for row in rows:
        parts.setdefault(part_of(row), []).append(row)
    changed = []
    for part, own in parts.items():
        table = ledger.Table(folder / part / "rows.csv", ledger.ATTACK_COLUMNS)
        if any(_scores(table.rows.get(row["source"], {})) != _scores(row) for row in own):
            changed.append(str(table.path))
    return changed


def _scores(row: ledger.Row) -> list[str]:
    return [row.get(column, "") for column in _SCORES]


def require(
    folder: Path, parts: Mapping[Source, Mapping[str, Any]], images: loading.ImageSet, settings: Mapping[str, Any]
) -> str:
    """Check that a set is whole, and has what another run takes from it.

    Args:
      folder: of the set.
      parts: what is taken, and what its run says of the model: ``sha256`` of the weights, ``protocol``.
      images: the clean images.
      settings: flags that the set must have been made with.

    Returns:
      The sha256 of the manifest.

    Raises:
      UserError: when it is no such set, or files of it changed.
    """
    config, rows = run_files.read_json(folder / "config.json", SET), read(folder)
    flags, models = config.get("flags", {}), config.get("models", {})
    for name, value in settings.items():
        if flags.get(name) != value:
            raise UserError(f"--attack_set={folder} was made with --{name}={flags.get(name)}, not {value}")
    for source, described in parts.items():
        assert source.attack is not None
        own = of_part(rows, source)
        if not own:
            known = ", ".join(sorted({f"{row['attack']}:{row['settings']}".rstrip(":") for row in rows})) or "none"
            what = f"{source.attack.text} on {source.model}"
            raise UserError(f"--attack_set={folder} has no images of {what}; its attacks: {known}")
        if not is_complete(folder, source, images.names, rows):
            raise UserError(f"--attack_set={folder} was made from other images than --images={images.root}")
        if {row["weights_sha256"] for row in own.values()} != {described["sha256"]}:
            raise UserError(f"--attack_set={folder} was made with other weights of {source.model}")
        protocol = models.get(source.model, {}).get("protocol")
        if protocol != described["protocol"]:
            raise UserError(f"--attack_set={folder} was made under the protocol {protocol} of {source.model}")
    taken = {source.folder for source in parts}
    verify(folder, images.root, [row for row in rows if part_of(row) in taken])
    return _hash(folder / SET.table)
