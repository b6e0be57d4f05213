"""Splits of a data set into images to train on, to choose by, and to test on.

What belongs together, all distorted copies of a reference, stays on one side. Drawn splits depend on a seed and on
names alone, not on the order of a table or on the machine.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.data_sets.data_set import PARTS, TEST, TRAIN, VALIDATION, DataSet, Item
from experiments.errors import UserError


class Shares(NamedTuple):
    """Shares of the groups that go to each part; they sum to one."""

    train: float
    validation: float
    test: float


class Split(NamedTuple):
    """The parts of a data set.

    Attributes:
      name: where it comes from.
      train: images to train on.
      validation: images to choose an epoch by; empty where none is chosen by them.
      test: images to report on.
    """

    name: str
    train: tuple[Item, ...]
    validation: tuple[Item, ...]
    test: tuple[Item, ...]

    def names(self) -> dict[str, list[str]]:
        """Names of the images of each part, sorted."""
        return {part: sorted(item.name for item in getattr(self, part)) for part in PARTS}

    def sha256(self) -> str:
        """Digest of the names of all parts."""
        return hashlib.sha256(json.dumps(self.names(), sort_keys=True).encode()).hexdigest()


def drawn(data: DataSet, seed: int, shares: Shares) -> Split:
    """A split by lot: groups in the order of a digest of seed and name.

    Args:
      data: what to split.
      seed: other seeds draw other splits.
      shares: of the groups.
    """
    groups = _shuffled({item.group for item in data.items}, seed)
    first, second = round(shares.test * len(groups)), round((shares.test + shares.validation) * len(groups))
    parts = dict.fromkeys(groups[:first], TEST) | dict.fromkeys(groups[first:second], VALIDATION)
    return _checked(f"drawn, seed {seed}", data, lambda item: parts.get(item.group, TRAIN))


def from_column(data: DataSet, column: str) -> Split:
    """A published split, in a column of the data set's table.

    A table without a test part, as pyiqa's of 80 % and 20 %, holds its test part as "val".

    Raises:
      UserError: when there is no such column.
    """
    known = columns(data)
    if column not in known:
        raise UserError(f"--split={column} is no file and no column of {data.source}, which has: {_listed(known)}")
    found = {item.parts.get(column) for item in data.items}
    last = {VALIDATION: TEST} if TEST not in found else {}
    return _checked(column, data, lambda item: last.get(item.parts.get(column, ""), item.parts.get(column, "")))


def columns(data: DataSet) -> list[str]:
    """The columns of a data set's table that hold splits."""
    return sorted({name for item in data.items for name in item.parts})


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def from_file(data: DataSet, path: Path) -> Split:
    """A split in a file.

    A JSON file may hold names of images under "train", "validation" and "test", as runs write them, or an "order" of
    all images, by their rows in the table of the set from 0, of which the first 80 % are for training (as in the
    release of gradient-norm training, CVPR 2024). A CSV file names the images to test on in its first column; all
    others are for training.

    Raises:
      UserError: when the file holds no split of this set.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = {TEST: _first_cells(text)} if path.suffix.lower() == ".csv" else json.loads(text)
    except (OSError, ValueError) as error:
        raise UserError(f"--split={path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    order = content.get("order") if isinstance(content, Mapping) else None
    if isinstance(order, list):
        content = _from_order(data, path, order)
    if not isinstance(content, Mapping) or not any(isinstance(content.get(part), list) for part in PARTS):
        raise UserError(f"--split={path} holds none of train, validation, test and order")
    return _from_names(data, path, {part: content.get(part, []) for part in PARTS})


def with_validation(split: Split, seed: int, share: float) -> Split:
    """The split with a validation part, taken by lot from the training part where it has none.

    Args:
      split: any split.
      seed: of the draw.
      share: of the training groups.
    """
    if split.validation:
        return split
    groups = _shuffled({item.group for item in split.train}, seed)
    taken = set(groups[: max(1, round(share * len(groups)))])
    train = tuple(item for item in split.train if item.group not in taken)
    chosen = tuple(item for item in split.train if item.group in taken)
    return _complete(split._replace(train=train, validation=chosen))


def without_validation(split: Split) -> Split:
    """The split whose validation part, if any, is trained on too, as in papers that have none."""
    return split._replace(train=split.train + split.validation, validation=())


def _shuffled(groups: Collection[str], seed: int) -> list[str]:
    """Groups in an order that depends on the seed and on their names alone."""
    return sorted(groups, key=lambda group: hashlib.sha256(f"{seed}/{group}".encode()).digest())


def _first_cells(text: str) -> list[str]:
    """The first cells of a CSV file's lines, without its header."""
    return [line.split(",")[0].strip() for line in text.splitlines()[1:] if line.strip()]


def _from_order(data: DataSet, path: Path, order: Sequence[Any]) -> dict[str, list[str]]:
    names = [item.name for item in data.items]
    if set(order) != set(range(len(names))) or len(order) != len(names):
        raise UserError(f"--split={path} orders {len(order)} images, but {data.source} has {len(names)}")
    cut = round(0.8 * len(order))
    return {TRAIN: [names[i] for i in order[:cut]], TEST: [names[i] for i in order[cut:]]}


def _from_names(data: DataSet, path: Path, names: Mapping[str, Sequence[str]]) -> Split:
    """A split by names of each part; images of no part are for training where that part is not given."""
    by_part: dict[str, set[str]] = {}
    for part in PARTS:
        for name in names[part]:
            by_part.setdefault(name, set()).add(part)
    shared = sorted(name for name, parts in by_part.items() if len(parts) > 1)
    if shared:
        raise UserError(f"--split={path}: {shared[0]} is in {' and in '.join(sorted(by_part[shared[0]]))}")
    absent = sorted(by_part.keys() - {item.name for item in data.items})
    if absent:
        raise UserError(f"--split={path} names {len(absent)} images that {data.source} has not, such as {absent[0]}")
    rest = "" if names[TRAIN] else TRAIN
    return _checked(path.name, data, lambda item: min(by_part.get(item.name, {rest})))


def _checked(name: str, data: DataSet, part_of: Callable[[Item], str]) -> Split:
    """The split by a function from images to parts, unless a group is on two sides of it; "" is no part."""
    parts: dict[str, list[Item]] = {part: [] for part in PARTS}
    side: dict[str, str] = {}
    for item in data.items:
        part = part_of(item)
        if part and side.setdefault(item.group, part) != part:
            raise UserError(f"split '{name}' overlaps: {item.group} is in {side[item.group]} and in {part}")
        parts.get(part, []).append(item)
    return _complete(Split(name, *(tuple(parts[part]) for part in PARTS)))


def _complete(split: Split) -> Split:
    """The split, unless it has nothing to train on or to test on."""
    for part in (TRAIN, TEST):
        if not getattr(split, part):
            raise UserError(f"split '{split.name}' has an empty {part} part; give more images or other shares")
    return split
