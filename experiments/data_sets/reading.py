"""Data sets from disk: a folder in its makers' layout, or a table beside its images."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments import subjective
from experiments.data_sets.data_set import TEST, TRAIN, VALIDATION, DataSet, Item, Known, Listing, Scale, located
from experiments.errors import UserError

# What published tables call the parts of a split; those of FLIVE are numbered.
_PARTS = {
    **dict.fromkeys(("train", "training", "0"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "1"), VALIDATION),
    **dict.fromkeys(("test", "testing", "2"), TEST),
}


def read_folder(root: Path, known: Known) -> DataSet:
    """A published data set in the layout of its makers.

    Raises:
      UserError: when the folder does not hold it, with the page that offers it.
    """
    if not root.is_dir():
        raise known.absent(root, "there is no such folder")
    try:
        listing = known.listing(root)
        items = located(list(filter(known.counts, listing.items)), root, known.folders)
    except FileNotFoundError as error:
        raise known.absent(root, str(error)) from error
    except (KeyError, ValueError, IndexError) as error:
        raise known.absent(root, f"{known.table} has another form than the published one ({error})") from error
    return _checked(known.name, root, listing, items, known.scale, known)


def read_csv(path: Path, images: Path, known: Known | None = None) -> DataSet:
    """A data set from a table such as pyiqa's ``meta_info``: see `subjective.read_table` for its columns.

    Columns whose names contain "split", or are "set", are splits.

    Args:
      path: the table.
      images: folder that its names are relative to.
      known: the published set that this is, which fixes direction and range.

    Raises:
      UserError: when the table or an image is not as it should be.
    """
    table = subjective.read_table(path, "data")
    splits = {name: cells for name, cells in table.columns.items() if "split" in name or name == "set"}
    references: Sequence[str | None] = table.references or [None] * len(table.images)
    rows = zip(table.images, table.scores, references)
    items = [
        Item(name, name, score, reference, _parts_of({column: cells[row] for column, cells in splits.items()}))
        for row, (name, score, reference) in enumerate(rows)
    ]
    counted = list(filter(known.counts, items)) if known else items
    try:
        items = located(counted, images, known.folders if known else (".",))
    except FileNotFoundError as error:
        where = f"; download it from {known.page}" if known else ""
        raise UserError(f"--data={path}: under --images={images}, {error}{where}") from error
    scale = known.scale if known else None
    return _checked(known.name if known else path.stem, images, Listing(path, items), items, scale, known)


def _parts_of(cells: dict[str, str]) -> dict[str, str]:
    return {column: _PARTS[cell.lower()] for column, cell in cells.items() if cell.lower() in _PARTS}


def _checked(
    name: str, root: Path, listing: Listing, items: Iterable[Item], scale: Scale | None, known: Known | None
) -> DataSet:
    """The data set, unless names repeat or a score is not finite."""
    data = DataSet(name, root, tuple(items), scale, listing.source.name, known)
    for what, values in (("name", [item.name for item in data.items]), ("file", [item.file for item in data.items])):
        repeated = [value for value, count in Counter(values).items() if count > 1]
        if repeated:
            raise UserError(f"--data={root}: {listing.source.name} has the {what} {repeated[0]} more than once")
    unscored = [item.name for item in data.items if item.mos is not None and not math.isfinite(item.mos)]
    if unscored:
        raise UserError(f"--data={root}: {listing.source.name} has no finite score for {unscored[0]}")
    return data
