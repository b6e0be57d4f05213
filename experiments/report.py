"""Write the page of a run folder: one HTML file that holds its pictures, style and script and loads nothing.

python -m experiments.report --run=out/attack

Writes report.html into the folder of an attack or a scoring run, in about half a second for each image in the gallery.
The same folder always gives the same bytes: the page holds no date or time of its own.
"""

import base64
import csv
import io
import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from PIL import Image

from experiments import cli, ledger, records
from weights_convert.store import write_atomic

LONG_SIDE = 512  # of an embedded picture, in pixels
GAIN = 10  # of an embedded difference


@dataclass(frozen=True)
class Config:
    """Settings of the page."""

    run: str = cli.flag(cli.REQUIRED, "Folder of an attack_images or score_images run.")
    out: str = cli.flag("", "File to write; by default report.html in the run folder.")
    max_gallery: int = cli.flag(60, "Images to embed at most; one takes up to a megabyte.")


class Kind(NamedTuple):
    """What one script leaves in its run folder."""

    script: str
    table: str
    numbers: tuple[str, ...]  # number columns of the table
    shown: tuple[str, ...]  # numbers under a picture; the gallery sorts by them


_SHOWN = ("score_clean", "score_adversarial", "change", "linf_255", "psnr", "ssim")
ATTACK = Kind("attack_images", "rows.csv", ledger.ATTACK_COLUMNS[5:], _SHOWN)
SCORING = Kind("score_images", "scores.csv", ledger.SCORE_COLUMNS[5:], ("score",))


class Row(NamedTuple):
    """One image of the run; `numbers` is empty when it failed."""

    position: int
    image: str
    error: str
    numbers: dict[str, float]


class Card(NamedTuple):
    """One entry of the gallery; `uris` holds the pictures clean, adversarial and difference, as far as they exist."""

    row: Row
    uris: dict[str, str]
    full_size: tuple[int, int]
    size: tuple[int, int]
    notes: list[str]


def find_kind(run_dir: Path) -> Kind:
    """Tell an attack run from a scoring run by the table in the folder."""
    for kind in (ATTACK, SCORING):
        if (run_dir / kind.table).is_file():
            return kind
    fault = "is not a run folder" if run_dir.is_dir() else "does not exist"
    raise cli.UserError(
        f"--run={run_dir} {fault}; expected is a folder with rows.csv (python -m experiments.attack_images "
        f"--out={run_dir} writes it) or scores.csv (python -m experiments.score_images --out={run_dir})"
    )


def read_json(path: Path, kind: Kind) -> dict[str, Any]:
    """Read config.json or summary.json."""
    remedy = f"run python -m experiments.{kind.script} --out={path.parent} again to complete the folder"
    if not path.is_file():
        raise cli.UserError(f"{path} is missing; {remedy}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise cli.UserError(f"{path} is not valid JSON ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise cli.UserError(f"{path} does not hold a JSON object; {remedy}")
    return content


def read_rows(path: Path, kind: Kind) -> list[Row]:
    """Read the table of the run; the scores of an attack get their change beside them."""
    rows = []
    # File names need not be UTF-8, and one that is not must still find its file.
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file)
        missing = {"image", "status", "error", *kind.numbers} - set(reader.fieldnames or ())
        source = f"expected is the table that python -m experiments.{kind.script} writes"
        if missing:
            raise cli.UserError(f"{path} has no column {', '.join(sorted(missing))}; {source}")
        for position, line in enumerate(reader):
            numbers: dict[str, float] = {}
            try:
                if line["status"] == "ok":
                    numbers = {name: float("nan" if line[name] == "" else line[name]) for name in kind.numbers}
            except (TypeError, ValueError) as error:
                raise cli.UserError(f"{path}, line {reader.line_num}, lacks a number; {source}") from error
            if kind is ATTACK and numbers:
                numbers["change"] = numbers["score_adversarial"] - numbers["score_clean"]
            rows.append(Row(position, line["image"], line["error"] or "", numbers))
    return rows


def choose(rows: Sequence[Row], kind: Kind, limit: int) -> list[Row]:
    """The rows of the gallery: the largest changes, or scores spread evenly over their ranking."""
    done = sorted((row for row in rows if row.numbers), key=lambda row: row.image)
    if kind is ATTACK:
        done.sort(key=lambda row: -abs(np.nan_to_num(row.numbers["change"])))
        return done[:limit]
    done.sort(key=lambda row: -np.nan_to_num(row.numbers["score"]))
    return [done[round(k)] for k in np.linspace(0, len(done) - 1, min(limit, len(done)))]


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
    return Card(row, {name: data_uri(p, size) for name, p in pictures.items()}, (width, height), size, notes)


def data_uri(pixels: np.ndarray, size: tuple[int, int]) -> str:
    """The picture at this size as a data URI: WebP or PNG, whichever is smaller, and lossless either way."""
    image = Image.fromarray(pixels)
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    uris = []
    for name in ("png", "webp"):
        buffer = io.BytesIO()
        image.save(buffer, name, lossless=True)  # PNG is so anyway and ignores the option
        uris.append(f"data:image/{name};base64,{base64.b64encode(buffer.getvalue()).decode()}")
    return min(uris, key=len)


def make_cards(run_dir: Path, root: Path, rows: Sequence[Row], chosen: Sequence[Row], kind: Kind) -> list[Card]:
    """Find and embed the pictures of the chosen rows."""
    pngs = ledger.adversarial_names([row.image for row in rows])
    folder = run_dir / "adversarial" if kind is ATTACK else None
    return [make_card(row, records.image_path(root, row.image), folder and folder / pngs[row.image]) for row in chosen]


def render(
    kind: Kind, config: dict[str, Any], summary: dict[str, Any], rows: Sequence[Row], cards: Sequence[Card]
) -> str:
    """Fill the template."""
    scores = [v for row in rows for k, v in row.numbers.items() if k.startswith("score") and math.isfinite(v)]
    score_range = (config.get("model") or {}).get("score_range") or [None]
    score_range = None if None in score_range else score_range  # JSON has null for an open end
    low, high = score_range or (min(scores, default=0), max(scores, default=1))
    # Two decimals for scores in 0..100, four in 0..1.
    decimals = min(6, max(0, 4 - math.ceil(math.log10(high - low)))) if high > low else 3
    ratio = np.clip(np.median([card.size[0] / card.size[1] for card in cards] or [1.0]), 0.75, 2).round(4)
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["shell"] = lambda value: shlex.quote(str(value))
    return environment.get_template("report.html.j2").render(
        kind=kind,
        columns=[*kind.shown, *(name for name in kind.numbers if name not in kind.shown)],
        config=config,
        summary=summary,
        rows=[row for row in rows if row.numbers],
        failed=[row for row in rows if not row.numbers],
        cards=cards,
        decimals=decimals,
        range=score_range,
        ratio=ratio,
        gain=GAIN,
    )


def write_report(run_dir: Path, out: Path | None = None, max_gallery: int = 60) -> Path:
    """Write the page of a run folder.

    Args:
      run_dir: folder of an attack or a scoring run.
      out: the file to write; `report.html` in the run folder when not given.
      max_gallery: how many images the gallery embeds at most.

    Returns:
      The path of the page.

    Raises:
      cli.UserError: the folder is not a complete run folder, or the page cannot be written.
    """
    if max_gallery < 0:
        raise cli.UserError(f"--max_gallery={max_gallery} is negative; give 0 for a page without pictures")
    kind = find_kind(run_dir)
    config = read_json(run_dir / "config.json", kind)
    has_summary = kind is ATTACK or (run_dir / "summary.json").exists()
    summary = read_json(run_dir / "summary.json", kind) if has_summary else {}
    rows = read_rows(run_dir / kind.table, kind)
    cards = make_cards(
        run_dir, Path(config.get("images_root") or run_dir / "images"), rows, choose(rows, kind, max_gallery), kind
    )
    page = render(kind, config, summary, rows, cards)
    out = out or run_dir / "report.html"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, page.encode("utf-8", "replace"))
    except OSError as error:
        raise cli.UserError(f"--out={out} cannot be written: {error.strerror}") from error
    return out


def main(config: Config) -> int:
    """Write the page that the flags ask for."""
    print(write_report(Path(config.run), Path(config.out) if config.out else None, config.max_gallery))
    return 0


if __name__ == "__main__":
    cli.run(Config, main)
