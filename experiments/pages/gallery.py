"""The gallery of a report: which images it shows, and their pictures as data URIs."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from experiments import ledger, records
from experiments.pages.run_files import Row, Run

LONG_SIDE = 512  # of an embedded picture, in pixels
GAIN = 10  # of an embedded difference


class Card(NamedTuple):
    """One entry of the gallery; `uris` holds the pictures clean, adversarial and difference, as far as they exist."""

    row: Row
    uris: dict[str, str]
    full_size: tuple[int, int]
    size: tuple[int, int]
    notes: list[str]


def choose(run: Run, rows: Sequence[Row], limit: int) -> list[Row]:
    """The rows of the gallery: the largest changes, or scores spread evenly over their ranking."""
    done = sorted((row for row in rows if row.numbers), key=lambda row: row.image)
    if run.kind.is_attack:
        done.sort(key=lambda row: -abs(np.nan_to_num(row.numbers["change"])))
        return done[:limit]
    done.sort(key=lambda row: -np.nan_to_num(row.numbers["score"]))
    return [done[round(k)] for k in np.linspace(0, len(done) - 1, min(limit, len(done)))]


def make_cards(run: Run, rows: Sequence[Row], limit: int) -> list[Card]:
    """Choose rows, and find and embed their pictures."""
    root = Path(run.config.get("images_root") or run.folder / "images")
    pngs = ledger.adversarial_names([row.image for row in rows])
    folder = run.folder / "adversarial" if run.kind.is_attack else None
    return [
        make_card(row, records.image_path(root, row.image), folder and folder / pngs[row.image])
        for row in choose(run, rows, limit)
    ]


def make_card(row: Row, clean: Path, adversarial: Path | None) -> Card:
    """Embed the pictures of one image; what cannot be shown is said in the notes."""
    pictures, notes = read_pictures({"clean": clean} | ({"adversarial": adversarial} if adversarial else {}))
    if len(pictures) == 2 and pictures["clean"].shape != pictures["adversarial"].shape:
        notes.append("The clean image no longer has the size that was attacked.")
        del pictures["clean"]
    if len(pictures) == 2:
        pictures["difference"] = difference(pictures["clean"], pictures["adversarial"])
        change = np.abs(pictures["adversarial"].astype(int) - pictures["clean"]).max()
        if abs(change - row.numbers["linf_255"]) > 0.5:
            notes.append(f"The two files differ by {change}/255: one has changed since the run.")
    height, width = next(iter(pictures.values())).shape[:2] if pictures else (3, 4)
    size = fitted((width, height), LONG_SIDE)
    return Card(row, {name: picture_uri(p, size) for name, p in pictures.items()}, (width, height), size, notes)


def read_pictures(paths: Mapping[str, Path]) -> tuple[dict[str, np.ndarray], list[str]]:
    """The pictures that can be read, by name, and a sentence for each of the others."""
    pictures: dict[str, np.ndarray] = {}
    notes = []
    for name, path in paths.items():
        try:
            pictures[name] = records.load_image(path)
        except records.ImageError as error:
            notes.append(f"The {name} image {error if path.exists() else 'is no longer there'}.")
    return pictures, notes


def difference(clean: np.ndarray, adversarial: np.ndarray) -> np.ndarray:
    """The change by an attack, `GAIN` times as large, about mid-grey."""
    return np.clip(128 + GAIN * (adversarial.astype(int) - clean), 0, 255).astype(np.uint8)


def fitted(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """Width and height made smaller, where needed, so that the longer one is at most this."""
    scale = min(1.0, long_side / max(size))
    width, height = size
    return max(1, round(width * scale)), max(1, round(height * scale))


def picture_uri(pixels: np.ndarray, size: tuple[int, int]) -> str:
    """The picture at this size as a data URI: WebP or PNG, whichever is smaller, and lossless either way."""
    image = Image.fromarray(pixels)
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    uris = []
    for name in ("png", "webp"):
        buffer = io.BytesIO()
        image.save(buffer, name, lossless=True)  # PNG is so anyway and ignores the option
        uris.append(data_uri(f"image/{name}", buffer.getvalue()))
    return min(uris, key=len)


def data_uri(media_type: str, content: bytes) -> str:
    """A file as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
