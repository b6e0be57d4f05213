"""Write the page of a run folder: one HTML file that holds its pictures, style and script and loads nothing.

python -m experiments.report --run=out/attack

Writes report.html into the folder of an attack, a scoring run, a rank attack, a search for targets or a benchmark of
defenses, in about half a second for each image in the gallery. The same folder always gives the same bytes: the page
holds no date or time of its own.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import cli
from experiments.pages import benchmark, ranking, run_files
from experiments.pages.gallery import GAIN, make_cards
from experiments.pages.rendering import render
from experiments.pages.run_files import BENCHMARK, RANK_ATTACK, RANK_TARGETS, SCORING, Run
from weights_convert.store import write_atomic


@dataclass(frozen=True)
class Config:
    """Settings of the page."""

    run: str = cli.flag(
        cli.REQUIRED, "Folder of a run of attack_images, score_images, rank_attack, rank_targets or benchmark."
    )
    out: str = cli.flag("", "File to write; by default report.html in the run folder.")
    max_gallery: int = cli.flag(60, "Images to embed at most; one takes up to a megabyte.")


def write_report(run_dir: Path, out: Path | None = None, max_gallery: int = 60) -> Path:
    """Write the page of a run folder.

    Args:
      run_dir: folder of an attack, a scoring run, a rank attack, a search for targets or a benchmark.
      out: the file to write; `report.html` in the run folder when not given.
      max_gallery: how many images the gallery embeds at most.

    Returns:
      The path of the page.

    Raises:
      cli.UserError: the folder is not a complete run folder, or the page cannot be written.
    """
    if max_gallery < 0:
        raise cli.UserError(f"--max_gallery={max_gallery} is negative; give 0 for a page without pictures")
    run = run_files.read_run(run_dir)
    page = _PAGES.get(run.kind, _images_page)(run, max_gallery)
    out = out or run_dir / "report.html"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, page.encode("utf-8", "replace"))
    except OSError as error:
        raise cli.UserError(f"--out={out} cannot be written: {error.strerror}") from error
    return out


def _images_page(run: Run, max_gallery: int) -> str:
    has_summary = run.kind != SCORING or (run.folder / "summary.json").exists()
    summary = _summary(run) if has_summary else {}
    rows = run_files.read_rows(run)
    cards = make_cards(run, rows, max_gallery)
    scores = [v for row in rows for k, v in row.numbers.items() if k.startswith("score") and math.isfinite(v)]
    score_range = (run.config.get("model") or {}).get("score_range") or [None]
    score_range = None if None in score_range else score_range  # JSON has null for an open end
    low, high = score_range or (min(scores, default=0), max(scores, default=1))
    return render(
        "report.html.j2",
        kind=run.kind,
        columns=[*run.kind.shown, *(name for name in run.kind.numbers if name not in run.kind.shown)],
        config=run.config,
        summary=summary,
        ranking=ranking.read_ranking(run) if run.kind == RANK_ATTACK else None,
        rows=[row for row in rows if row.numbers],
        failed=[row for row in rows if not row.numbers],
        cards=cards,
        # Two decimals for scores in 0..100, four in 0..1.
        decimals=min(6, max(0, 4 - math.ceil(math.log10(high - low)))) if high > low else 3,
        range=score_range,
        ratio=np.clip(np.median([card.size[0] / card.size[1] for card in cards] or [1.0]), 0.75, 2).round(4),
        gain=GAIN,
    )


def _targets_page(run: Run, max_gallery: int) -> str:
    summary = _summary(run)
    table = ranking.read_target_table(run, summary)
    return render("targets.html.j2", config=run.config, summary=summary, table=table)


def _benchmark_page(run: Run, max_gallery: int) -> str:
    found = benchmark.read_benchmark(run, max_gallery)
    images = int(max((cell.numbers["images"] for cell in found.cells), default=0))
    return render("benchmark.html.j2", config=run.config, benchmark=found, images=images, gain=GAIN)


_PAGES = {RANK_TARGETS: _targets_page, BENCHMARK: _benchmark_page}


def _summary(run: Run) -> dict[str, Any]:
    return run_files.read_json(run.folder / "summary.json", run.kind)


def main(config: Config) -> int:
    """Write the page that the flags ask for."""
    print(write_report(Path(config.run), Path(config.out) if config.out else None, config.max_gallery))
    return 0


if __name__ == "__main__":
    cli.run(Config, main)
