"""The images that an evaluation attacks: those that have subjective scores, whole or as random crops of them."""

import shutil
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from experiments import records, subjective
from experiments.errors import UserError


def scored_images(root: Path, table: Path) -> dict[str, float]:
    """Subjective score of each image of a folder that a table names, in order of name.

    Raises:
      UserError: when the folder holds no image, or not all images of the table.
    """
    try:
        names = records.list_images(root)
    except FileNotFoundError as error:
        raise UserError(str(error)) from error
    scores = subjective.read_scores(table)
    files: dict[str, list[str]] = defaultdict(list)
    for name in names:
        files[PurePosixPath(name).name].append(name)
    found = {named: [named] if named in set(names) else files[PurePosixPath(named).name] for named in scores}
    missing = [named for named, candidates in found.items() if len(candidates) != 1]
    if missing:
        raise UserError(f"--images={root} holds not exactly one image {missing[0]} of --mos={table}")
    return dict(sorted((found[named][0], score) for named, score in scores.items()))


def write_whole(root: Path, names: Sequence[str], folder: Path) -> None:
    """Copy images as they are, unless they are there."""
    for name in names:
        path = folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.part")
            shutil.copyfile(records.image_path(root, name), part)
            part.replace(path)


def write_crops(root: Path, names: Sequence[str], folder: Path, *, count: int, size: int, seed: int) -> None:
    """Cut square crops out of each image, as ``name/00.png`` and so on, unless they are there.

    Corners are a function of the seed and the name of the image alone.

    Raises:
      UserError: when an image cannot be read, or is smaller than a crop.
    """
    for name in names:
        paths = [folder / name / f"{number:02}.png" for number in range(count)]
        if all(path.exists() for path in paths):
            continue
        try:
            pixels = records.load_image(records.image_path(root, name))
        except records.ImageError as error:
            raise UserError(f"{name} {error}") from error
        if min(pixels.shape[:2]) < size:
            raise UserError(f"{name} is {pixels.shape[1]}x{pixels.shape[0]} pixels, smaller than --crop_size={size}")
        draw = np.random.default_rng((seed, zlib.crc32(name.encode()))).integers
        corners = zip(*(draw(0, side - size + 1, count) for side in pixels.shape[:2]))
        for path, (row, column) in zip(paths, corners):
            records.save_png(path, pixels[row : row + size, column : column + size])


def mean_by_image(values: Mapping[str, float], *, cropped: bool) -> dict[str, float]:
    """Means over the crops of each image; values of whole images as they are."""
    groups: dict[str, list[float]] = defaultdict(list)
    for name, value in values.items():
        groups[PurePosixPath(name).parent.as_posix() if cropped else name].append(value)
    return {name: float(np.mean(group)) for name, group in groups.items()}
