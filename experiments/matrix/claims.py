"""Claims of leaderboards: each number with the tables, rows and formula that it can be computed from again.

The value of a claim is the mean of its formula over ``tables``, minus the mean over ``minus`` where there are some. A
formula is an expression of the columns of a table and of ``low`` and ``high``, the ends of the board's score range.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import ledger
from experiments.matrix.boards import Board, Estimate, Ranking, Standing, agreements, estimate, knowledge
from experiments.matrix.finished import CellTable
from nriqa_jax.metrics.correlation import srocc

GAIN = "mean(abs(defended_clear - defended_attacked)) / (high - low)"
UNDEFENDED = "mean(abs(clear - attacked_unaware)) / (high - low)"
AGREEMENT = "srocc(clear, defended_clear)"

VALUE = "mean of formula over tables, minus the mean over minus where there are some"
INTERVAL = "nriqa_jax.metrics.correlation.bootstrap_interval(mean, the same image by image, averaged over tables)"


class Claim(NamedTuple):
    """A number, and where it is from.

    Attributes:
      name: of the claim.
      board: name of its board.
      sentence: what it says.
      estimate: the number; the ends are NaN where there is no interval.
      formula: of a table.
      tables: whose mean it is.
      minus: whose mean is subtracted.
    """

    name: str
    board: str
    sentence: str
    estimate: Estimate
    formula: str
    tables: Sequence[CellTable]
    minus: Sequence[CellTable] = ()

    def as_json(self) -> dict[str, Any]:
        """For ``claims.json``."""
        value, low, high = self.estimate
        found = {"name": self.name, "board": self.board, "claim": self.sentence, "value": value}
        found |= {"interval": ledger.finite([low, high]), "formula": self.formula}
        return found | {side: [_place(table) for table in getattr(self, side)] for side in ("tables", "minus")}


def _place(table: CellTable) -> dict[str, Any]:
    rows = "all" if table.is_whole else list(table.images)
    return {"run": table.run, "table": table.file, "sha256": table.sha256, "rows": rows}


def claims(board: Board) -> list[Claim]:
    """All claims of a board."""
    return [claim for ranking in board.rankings for claim in _of_ranking(board, ranking)] + [
        *_of_knowledge(board),
        *_of_clean_images(board),
    ]


def kind(adaptive: bool) -> str:
    """What attacks are called that know of the purifier, or do not."""
    return "adaptive" if adaptive else "unaware"


def _of_ranking(board: Board, ranking: Ranking) -> Iterator[Claim]:
    """What is gained without a purifier, behind each of them, and by how much each is better than the next."""
    attacks, head = kind(ranking.adaptive), f"{board.name}/{kind(ranking.adaptive)}"
    count, best = len(ranking.standings), ranking.standings[0]
    yield Claim(
        f"{head}/undefended",
        board.name,
        f"{', '.join(ranking.attacks)}: {_text(ranking.undefended)} of the score range of {board.model} is gained "
        "without a purifier.",
        ranking.undefended,
        UNDEFENDED,
        best.tables,
    )
    for one in ranking.standings:
        sentence = f"{one.purifier} ranks {one.rank} of {count} under {attacks} attacks: {_text(one.gain)} is gained."
        yield Claim(f"{head}/gain/{one.purifier}", board.name, sentence, one.gain, GAIN, one.tables)
    for one, following in zip(ranking.standings, ranking.standings[1:]):
        found, names = estimate(following.by_image - one.by_image), f"{one.purifier} and {following.purifier}"
        apart = "are told apart" if found.low > 0 else "are not told apart"
        sentence = f"{names} {apart} by {attacks} attacks: the gains differ by {_text(found)}."
        yield _compared(f"{head}/lead/{one.purifier}", board, sentence, found, following, one)


def _of_knowledge(board: Board) -> Iterator[Claim]:
    """How much more attacks gain that know of the purifier."""
    for standing, unaware in knowledge(board):
        found = estimate(standing.by_image - unaware.by_image)
        sentence = f"Attacks that know of {standing.purifier} gain {_text(found)} more."
        yield _compared(f"{board.name}/knowledge/{standing.purifier}", board, sentence, found, standing, unaware)


def _of_clean_images(board: Board) -> Iterator[Claim]:
    """How far a purifier leaves clean images in order: one that makes all scores the same leaves no gain, too."""
    for purifier, table in agreements(board).items():
        value = srocc(table.columns["clear"], table.columns["defended_clear"])
        sentence = f"Behind {purifier} the SROCC of clean images with their undefended scores is {value:.3f}."
        found = Estimate(float(value), np.nan, np.nan)
        yield Claim(f"{board.name}/agreement/{purifier}", board.name, sentence, found, AGREEMENT, [table])


def _compared(name: str, board: Board, text: str, found: Estimate, more: Standing, less: Standing) -> Claim:
    return Claim(name, board.name, text, found, GAIN, more.tables, less.tables)


def _text(found: Estimate) -> str:
    if np.isnan(found.low):
        return f"{found.value:.4f}"
    return f"{found.value:.4f} ({found.low:.4f} to {found.high:.4f})"
