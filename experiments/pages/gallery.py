"""The gallery of a report: which images it shows, and their pictures as data URIs."""

import base64
import io
from collections.abc import Sequence
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
    pictures: dict[str, np.ndarray] = {}
    notes = []
    for name, path in (("clean", clean), ("adversarial", adversarial)):
        if path is None:
            continue
        try:
            pictures[name] = records.load_image(path)
        except records.ImageError as error:
            notes.append(f"The {name} image {error if path.exists() else 'is no longer there'}.")
    if len(pictures) == 2 and pictures["clean"].shape != pictures["adversarial"].shape:
        notes.append("The clean image no longer has the size that was attacked.")
        del pictures["clean"]
    if len(pictures) == 2:
        change = pictures["adversarial"].astype(int) - pictures["clean"]
        pictures["difference"] = np.clip(128 + GAIN * change, 0, 255).astype(np.uint8)
        if abs(np.abs(change).max() - row.numbers["linf_255"]) > 0.5:
            notes.append(f"The two files differ by {np.abs(change).max()}/255: one has changed since the run.")
    height, width = next(iter(pictures.values())).shape[:2] if pictures else (3, 4)
    scale = min(1.0, LONG_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Card(row, {name: picture_uri(p, size) for name, p in pictures.items()}, (width, height), size, notes)


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
