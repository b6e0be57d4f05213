r"""Rank purifiers by several finished benchmarks: one page, and each number with what it is computed from.

python -m experiments.leaderboard --runs=out/benchmark,out/benchmark_of_filters --out=out/leaderboard

For each model, purifiers are ranked by what attacks still gain behind them, those that know of the purifier and those
that do not. Runs with other weights, settings or images are not ranked together but on boards of their own. Writes
report.html, and claims.json: each claim with the tables, rows and formula that give its number again.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import cli, ledger, listed
from experiments.matrix import claims
from experiments.matrix.boards import Board, make_boards
from experiments.matrix.finished import BENCHMARK, read_run
from experiments.pages import leaderboard
from experiments.pages.rendering import render
from weights_convert.store import write_atomic


@dataclass(frozen=True)
class Config:
    """Settings of a leaderboard."""

    runs: str = cli.flag(cli.REQUIRED, "Folders of finished runs of experiments.benchmark, separated by commas.")
    out: str = cli.flag(cli.REQUIRED, "Folder for report.html and claims.json.")


def run(config: Config) -> list[Board]:
    """Rank what the runs say, into ``config.out``; returns the boards."""
    runs, out = listed.parts(config.runs), Path(config.out)
    if not runs:
        raise cli.UserError("--runs is empty; give folders of finished runs of experiments.benchmark")
    for one in runs:
        if runs.count(one) > 1:
            raise cli.UserError(f"--runs: {one} is there twice")
    if (out / "config.json").exists():
        raise cli.UserError(f"--out={out} is the folder of a run; choose another")
    boards = make_boards([part for one in runs for part in read_run(one)])
    try:
        out.mkdir(parents=True, exist_ok=True)
        ledger.write_json(out / "claims.json", _claims(runs, boards))
        page = render("leaderboard.html.j2", runs=runs, boards=[leaderboard.describe(board) for board in boards])
        write_atomic(out / "report.html", page.encode("utf-8", "replace"))
    except OSError as error:
        raise cli.UserError(f"--out={out} cannot be written: {error.strerror}") from error
    return boards


def _claims(runs: list[str], boards: list[Board]) -> dict[str, Any]:
    """What ``claims.json`` says."""
    return {
        "value": claims.VALUE,
        "interval": claims.INTERVAL,
        "runs": {one: _hashes(Path(one)) for one in runs},
        "boards": {
            board.name: {
                "model": board.model,
                "runs": [part.run for part in board.parts],
                "images": board.images,
                "notes": board.notes,
                **board.conditions,
            }
            for board in boards
        },
        "claims": [claim.as_json() for board in boards for claim in claims.claims(board)],
    }


def _hashes(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("config.json", BENCHMARK.table)}


def main(config: Config) -> int:
    """Rank, and say who leads."""
    for board in run(config):
        for ranking in board.rankings:
            best = ranking.standings[0]
            print(
                f"{board.name}, {claims.kind(ranking.adaptive)} attacks: {best.purifier} is first of "
                f"{len(ranking.standings)}, {best.gain.value:.4f} of the score range is gained behind it, "
                f"{ranking.undefended.value:.4f} without"
            )
    print(f"see {config.out}/report.html and claims.json")
    return 0


if __name__ == "__main__":
    cli.run(Config, main)
