"""Readers of published data sets as their makers offer them: ``root -> listing``.

A file that is missing raises FileNotFoundError, one that makes no sense ValueError, with the end of a sentence.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import scipy

from experiments.data_sets.data_set import TEST, TRAIN, VALIDATION, Item, Listing
from experiments.data_sets.sheets import read_sheet
from experiments.records import EXTENSIONS

OFFICIAL = "official_split"

_LIVE_FOLDERS = (("jp2k", 227), ("jpeg", 233), ("wn", 174), ("gblur", 174), ("fastfading", 174))
_CSIQ_NAMES = {
    "noise": "AWGN",
    "blur": "BLUR",
    "contrast": "contrast",
    "fnoise": "fnoise",
    "jpeg": "JPEG",
    "jpeg 2000": "jpeg2000",
}
_KONIQ_PARTS = {"training": TRAIN, "validation": VALIDATION, "test": TEST}


def live(root: Path) -> Listing:
    """LIVE, release 2: realigned DMOS where ``dmos_realigned.mat`` is there, ``dmos.mat`` otherwise."""
    source = root / "dmos_realigned.mat"
    source, variable = (source, "dmos_new") if source.is_file() else (root / "dmos.mat", "dmos")
    content = _matlab(source)
    names = [f"{folder}/img{number}.bmp" for folder, count in _LIVE_FOLDERS for number in range(1, count + 1)]
    references = _texts(_matlab(root / "refnames_all.mat")["refnames_all"])
    rows = zip(names, np.ravel(content[variable]), np.ravel(content["orgs"]), references, strict=True)
    return Listing(source, [Item(name, name, float(mos), ref) for name, mos, pristine, ref in rows if not pristine])


def csiq(root: Path) -> Listing:
    """CSIQ: one sheet of a spreadsheet, whose table starts some rows down."""
    source = _existing(root / "csiq.DMOS.xlsx")
    table = read_sheet(source, "all_by_image")
    start = next((number for number, row in enumerate(table) if "dmos" in row), 0)
    items = []
    for row in _dicts(table[start], table[start + 1 :]):
        if row.get("dst_type") in _CSIQ_NAMES:
            level, image = int(float(row["dst_lev"])), row["image"].removesuffix(".0")
            items.append(_item(f"{image}.{_CSIQ_NAMES[row['dst_type']]}.{level}.png", row["dmos"], f"{image}.png"))
    return Listing(source, items)


def tid2013(root: Path) -> Listing:
    """TID2013: a score and a name in each line."""
    source = _existing(root / "mos_with_names.txt")
    rows = (line.split() for line in source.read_text().splitlines() if line.strip())
    return Listing(source, [_item(name, mos, f"{name[:3].upper()}.BMP") for mos, name in rows])


def kadid10k(root: Path) -> Listing:
    """KADID-10k: its column "dmos" holds degradation scores, of which higher is better."""
    source = _existing(root / "dmos.csv")
    return Listing(source, [_item(row["dist_img"], row["dmos"], row["ref_img"]) for row in _csv(source)])


def livec(root: Path) -> Listing:
    """LIVE In the Wild: two MATLAB files of names and scores."""
    source = root / "Data" / "AllMOS_release.mat"
    scores = np.ravel(_matlab(source)["AllMOS_release"])
    names = _texts(_matlab(root / "Data" / "AllImages_release.mat")["AllImages_release"])
    return Listing(source, [Item(name, name, float(mos)) for name, mos in zip(names, scores, strict=True)])


def koniq10k(root: Path) -> Listing:
    """KonIQ-10k: MOS from 1 to 100, with the official split where its table has one."""
    source = root / "koniq10k_distributions_sets.csv"
    if source.is_file():
        rows = [_item(row["image_name"], row["MOS"], None, _KONIQ_PARTS[row["set"]]) for row in _csv(source)]
        return Listing(source, rows)
    source = _existing(root / "koniq10k_scores_and_distributions.csv")
    return Listing(source, [_item(row["image_name"], row["MOS_zscore"]) for row in _csv(source)])


def spaq(root: Path) -> Listing:
    """SPAQ: the first two columns of a spreadsheet."""
    source = _existing(root / "Annotations" / "MOS and Image attribute scores.xlsx")
    return Listing(source, [_item(row[0], row[1]) for row in read_sheet(source)[1:]])


def flive(root: Path) -> Listing:
    """FLIVE: whole pictures, with the official split where its tables are there too."""
    source = _existing(root / "labels_image.csv")
    test, others = root / "labels640.csv", root / "labels=640_padded.csv"
    if not (test.is_file() and others.is_file()):
        return Listing(source, [_item(row["name"], row["mos"]) for row in _csv(source)])
    parts = {row["name_image"]: VALIDATION for row in _csv(others) if row["is_valid"].lower() in ("true", "1")}
    parts |= {row["name_image"]: TEST for row in _csv(test)}
    rows = _csv(source)
    return Listing(source, [_item(row["name"], row["mos"], None, parts.get(row["name"], TRAIN)) for row in rows])


def bid(root: Path) -> Listing:
    """BID: numbers of images and their scores in a spreadsheet."""
    source = _existing(root / "DatabaseGrades.xlsx")
    rows = [row for row in read_sheet(source)[1:] if row[0] and len(row) > 1]
    return Listing(source, [_item(f"DatabaseImage{int(float(row[0])):04}.JPG", row[1]) for row in rows])


def pipal(root: Path) -> Listing:
    """PIPAL: the Elo scores of the training part, in one text file for each reference."""
    folder = root / "Train_Label"
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise FileNotFoundError("it has no Train_Label/*.txt")
    rows = (line.split(",") for file in files for line in file.read_text().splitlines() if line.strip())
    return Listing(folder, [_item(name, mos, f"{name.split('_')[0]}.bmp") for name, mos in rows])


def agiqa3k(root: Path) -> Listing:
    """AGIQA-3k: scores of quality, not those of how well an image fits its text."""
    source = _existing(root / "data.csv")
    return Listing(source, [_item(row["name"], row["mos_quality"]) for row in _csv(source)])


def nips2017(root: Path) -> Listing:
    """NIPS 2017: photographs without scores."""
    folder = root / "images" if (root / "images").is_dir() else root
    names = sorted(path.name for path in folder.glob("*") if path.suffix.lower() in EXTENSIONS)
    if not names:
        raise FileNotFoundError("it holds no images")
    return Listing(folder, [Item(name, name, None) for name in names])


def _item(name: str, mos: str, reference: str | None = None, part: str = "") -> Item:
    name = PurePosixPath(name.strip()).as_posix()
    return Item(name, name, float(mos), reference, {OFFICIAL: part} if part else {})


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"it has no {path.name}")
    return path


def _csv(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        yield from csv.DictReader(file)


def _dicts(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[dict[str, str]]:
    return (dict(zip(header, row)) for row in rows)


def _matlab(path: Path) -> Mapping[str, Any]:
    return scipy.io.loadmat(_existing(path))


def _texts(cells: np.ndarray) -> list[str]:
    """A MATLAB cell array of texts."""
    return [str(np.ravel(cell)[0]) for cell in np.ravel(cells)]
