"""Leaderboards: the purifiers of several benchmarks ranked by what attacks still gain behind them.

Parts of runs are ranked together where they compare: the same model, weights, settings and images, told by the scores
of the clean images and of those that the same attacks made. The others have boards of their own.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.matrix.finished import CellTable, Column, Part, gains
from nriqa_jax.metrics.correlation import bootstrap_interval

_SAME = 1e-3  # of the score range: machines differ by less, images by more


class Estimate(NamedTuple):
    """A mean over images, with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


class Standing(NamedTuple):
    """A purifier on a board.

    Attributes:
      purifier: the purifier.
      rank: from 1; equal gains share one.
      gain: what the attacks gain, on average over them, in shares of the score range.
      by_image: the same for each image.
      tables: what it is from, one for each attack.
    """

    purifier: str
    rank: int
    gain: Estimate
    by_image: Column
    tables: list[CellTable]


class Ranking(NamedTuple):
    """All purifiers under the attacks that each of them faced, on the images that no cell lacks.

    Attributes:
      adaptive: whether the attacks knew of the purifier.
      attacks: the attacks.
      undefended: what they gain without a purifier, knowing of none.
      standings: the purifiers, best first.
    """

    adaptive: bool
    attacks: list[str]
    undefended: Estimate
    standings: list[Standing]


class Board(NamedTuple):
    """What compares.

    Attributes:
      name: of the board.
      parts: of runs.
      tables: of all cells, each once.
      rankings: of the unaware and of the adaptive attacks, where there is one.
      notes: what readers must know.
    """

    name: str
    parts: list[Part]
    tables: list[CellTable]
    rankings: list[Ranking]
    notes: list[str]

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.parts[0].model

    @property
    def conditions(self) -> Mapping[str, Any]:
        """What all parts share."""
        return self.parts[0].conditions

    @property
    def images(self) -> int:
        """Number of images that are in any table."""
        return len(self.parts[0].clean_scores())


def make_boards(parts: Iterable[Part]) -> list[Board]:
    """Group what compares, and rank it."""
    groups: list[list[Part]] = []
    notes: list[list[str]] = []
    for part in parts:
        reasons = [next(filter(None, (difference(other, part) for other in group)), "") for group in groups]
        if "" in reasons:
            groups[reasons.index("")].append(part)
            continue
        apart = [(group[0], reason) for group, reason in zip(groups, reasons) if group[0].model == part.model]
        groups.append([part])
        notes.append([f"Not ranked with {first.run}: {reason}." for first, reason in apart])
    models = [group[0].model for group in groups]
    names = [f"{model}-{models[: i + 1].count(model)}" for i, model in enumerate(models)]
    return [_board(name, group, own) for name, group, own in zip(names, groups, notes)]


def difference(first: Part, second: Part) -> str:
    """Why two parts do not compare; empty where they do."""
    if first.model != second.model:
        return "another model"
    for name, value in first.conditions.items():
        if second.conditions[name] != value:
            return f"{name} is {second.conditions[name]} instead of {value}"
    low, high = first.range
    ours, theirs = first.clean_scores(), second.clean_scores()
    if ours.keys() != theirs.keys():
        return "other images"
    if any(abs(ours[name] - theirs[name]) > _SAME * (high - low) for name in ours):
        return "other clean scores, so other images"
    made, others = first.attacked_scores(), second.attacked_scores()
    for key in sorted(made.keys() & others.keys()):
        if abs(made[key] - others[key]) > _SAME * (high - low):
            return f"{key[0]} made other images"
    return ""


def _board(name: str, parts: list[Part], notes: list[str]) -> Board:
    found: dict[tuple[str, str, bool], CellTable] = {}
    low, high = parts[0].range
    for part in parts:
        again = [table for table in part.tables if _cell(table) in found]
        found |= {_cell(table): table for table in part.tables if _cell(table) not in found}
        if again:
            apart = max(abs(_mean(table, low, high) - _mean(found[_cell(table)], low, high)) for table in again)
            notes.append(
                f"{part.run} repeats {len(again)} cells of runs before it, which count; gains differ by {apart:.4f} "
                "at most."
            )
    tables = list(found.values())
    rankings = []
    for adaptive in (False, True):
        own = [table for table in tables if table.adaptive == adaptive]
        ranking = rank(own, low, high)
        if ranking is not None:
            rankings.append(ranking)
        elif own:
            kind = "adaptive" if adaptive else "unaware"
            notes.append(f"Under {kind} attacks there is no ranking: no attack and image is common to all purifiers.")
    return Board(name, parts, tables, rankings, notes)


def _cell(table: CellTable) -> tuple[str, str, bool]:
    return table.attack, table.purifier, table.adaptive


def _mean(table: CellTable, low: float, high: float) -> float:
    return float(np.mean(gains(table, low, high))) if table.images else math.nan


def rank(tables: Sequence[CellTable], low: float, high: float) -> Ranking | None:
    """Rank purifiers under the attacks that each of them faced; None where there is no such attack or image.

    Args:
      tables: cells of one kind of attack.
      low: lower end of the score range.
      high: upper end of it.
    """
    by_purifier: dict[str, dict[str, CellTable]] = {}
    for table in tables:
        by_purifier.setdefault(table.purifier, {})[table.attack] = table
    attacks = [a for a in dict.fromkeys(t.attack for t in tables) if all(a in own for own in by_purifier.values())]
    used = [own[attack] for own in by_purifier.values() for attack in attacks]
    images = sorted(set.intersection(*(set(table.images) for table in used))) if used else []
    if not images:
        return None
    unranked = [
        standing_of(purifier, [own[attack].on(images) for attack in attacks], low, high)
        for purifier, own in by_purifier.items()
    ]
    values = [standing.gain.value for standing in unranked]
    standings = [one._replace(rank=1 + sum(value < one.gain.value for value in values)) for one in unranked]
    standings.sort(key=lambda one: (one.rank, one.purifier))
    undefended = np.mean([undefended_gains(table, low, high) for table in standings[0].tables], axis=0)
    return Ranking(tables[0].adaptive, attacks, estimate(undefended), standings)


def standing_of(purifier: str, tables: list[CellTable], low: float, high: float) -> Standing:
    """A purifier under some attacks, not ranked yet: its tables are of the same images."""
    by_image = np.mean([gains(table, low, high) for table in tables], axis=0)
    return Standing(purifier, 0, estimate(by_image), by_image, tables)


def knowledge(board: Board) -> list[tuple[Standing, Standing]]:
    """The standing of each purifier under adaptive attacks, and under the same attacks when they know of none."""
    unaware = {(table.purifier, table.attack): table for table in board.tables if not table.adaptive}
    pairs = []
    for standing in (one for ranking in board.rankings if ranking.adaptive for one in ranking.standings):
        own = [unaware.get((standing.purifier, table.attack)) for table in standing.tables]
        images = standing.tables[0].images
        known = [table.on(images) for table in own if table is not None and set(images) <= set(table.images)]
        if len(known) == len(own):
            pairs.append((standing, standing_of(standing.purifier, known, *board.parts[0].range)))
    return pairs


def agreements(board: Board) -> dict[str, CellTable]:
    """A table for each purifier whose clean images tell what it does to them: their scores are not all the same."""
    found: dict[str, CellTable] = {}
    for table in board.tables:
        if all(len(set(table.columns[name])) > 1 for name in ("clear", "defended_clear")):
            found.setdefault(table.purifier, table)
    return found


def undefended_gains(table: CellTable, low: float, high: float) -> Column:
    """What the attack gains without a purifier, knowing of none, of each image, in shares of the score range."""
    return np.abs(table.columns["clear"] - table.columns["attacked_unaware"]) / (high - low)


def estimate(by_image: Column) -> Estimate:
    """The mean of numbers by image."""
    low, high = bootstrap_interval(np.mean, by_image) if len(by_image) > 1 else (math.nan, math.nan)
    return Estimate(float(np.mean(by_image)), low, high)
