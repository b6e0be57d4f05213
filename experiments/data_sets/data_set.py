"""What a labelled data set is: images, their subjective scores, and the scale of these scores."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import NamedTuple

from experiments.errors import UserError
from experiments.records import EXTENSIONS

TRAIN, VALIDATION, TEST = "train", "validation", "test"
PARTS = (TRAIN, VALIDATION, TEST)


class Scale(NamedTuple):
    """The scale of subjective scores; ``worst`` is above ``best`` where lower is better, as for a DMOS.

    Attributes:
      worst: nominal score of the worst quality.
      best: nominal score of the best quality.
    """

    worst: float
    best: float

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher score means better quality."""
        return self.best > self.worst

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest nominal score."""
        return min(self), max(self)


class Item(NamedTuple):
    """An image of a data set.

    Attributes:
      name: as the table of the set names it; identifies the image.
      file: path below the folder of the set.
      mos: subjective score, in the unit of the set; None where the set has none.
      reference: name of the pristine image that it was made from, if any.
      parts: part of the set that each published split gives it: train, validation or test.
    """

    name: str
    file: str
    mos: float | None
    reference: str | None = None
    parts: Mapping[str, str] = MappingProxyType({})

    @property
    def group(self) -> str:
        """What must stay on one side of a split: the reference, or the image itself."""
        return self.name if self.reference is None else PurePosixPath(self.reference).name.lower()


class Listing(NamedTuple):
    """What the table of a data set says, before its images are looked for.

    Attributes:
      source: the file that was read.
      items: the images; their ``file`` is not known yet, and repeats the name.
    """

    source: Path
    items: Sequence[Item]


@dataclasses.dataclass(frozen=True)
class Known:
    """What is known of a published data set.

    Attributes:
      name: key in the catalog.
      title: name in the literature.
      citation: paper that presents it.
      page: where its makers offer it, with the terms of use.
      images: number of labelled images.
      scale: of its scores; None where it has none.
      table: name of the file that its folder is known by, for messages.
      listing: reader of its original layout, ``root -> listing``.
      folders: where images may lie in it; the first one that holds them counts.
      excludes: what names of images begin with that its makers leave out, such as those raters were trained on.
      meta_info: name of pyiqa's table of it; "" where there is none.
    """

    name: str
    title: str
    citation: str
    page: str
    images: int
    scale: Scale | None
    table: str
    listing: Callable[[Path], Listing]
    folders: tuple[str, ...] = (".",)
    excludes: str = ""
    meta_info: str = ""

    def absent(self, root: Path, problem: str) -> UserError:
        """The error for a folder that does not hold the set."""
        return UserError(f"--data={root} is not {self.title}: {problem}; download it from {self.page}")

    def counts(self, item: Item) -> bool:
        """Whether an image is part of the set."""
        return not self.excludes or not PurePosixPath(item.name).name.startswith(self.excludes)


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set on disk.

    Attributes:
      name: key in the catalog, or name of the table.
      root: folder of its images.
      items: its images, in the order of its table.
      scale: of its scores; None where it is not known, or there are no scores.
      source: name of the file that the scores were read from.
      known: what is known of it, for a published one.
    """

    name: str
    root: Path
    items: tuple[Item, ...]
    scale: Scale | None
    source: str
    known: Known | None = None

    def path(self, item: Item) -> Path:
        """File of an image."""
        return self.root / item.file


def located(items: Sequence[Item], root: Path, folders: Iterable[str]) -> list[Item]:
    """The items with their files: by path below the first of some folders with images, else by an unambiguous name.

    Case counts only where names differ in nothing else, since published tables and archives do not agree in it.

    Raises:
      FileNotFoundError: when an image is not there; the message is the end of a sentence.
    """
    folder = next((root / name for name in folders if _images(root / name)), root)
    files = _by_name(_images(folder))
    found = [next((files[key] for key in _keys(item.name) if files.get(key)), None) for item in items]
    missing = [item.name for item, file in zip(items, found) if file is None]
    if missing:
        raise FileNotFoundError(f"{len(missing)} of its {len(items)} images are not there, such as {missing[0]}")
    return [
        item._replace(file=(folder / file).relative_to(root).as_posix()) for item, file in zip(items, found) if file
    ]


def _images(folder: Path) -> list[str]:
    """Image files below a folder, by their paths in it."""
    walk = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sorted(path.relative_to(folder).as_posix() for path in walk if path.suffix.lower() in EXTENSIONS)


def _by_name(paths: Sequence[str]) -> dict[str, str]:
    """Paths by themselves, and by all looser keys; "" for those that several files have."""
    files: dict[str, str] = {}
    for path in paths:
        for key in _keys(path):
            files[key] = path if files.get(key, path) == path else ""
    return files | {path: path for path in paths}


def _keys(name: str) -> tuple[str, ...]:
    """What a table may call a file: its path, in any case, or its name alone."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.as_posix(), path.as_posix().lower(), path.name, path.name.lower()
