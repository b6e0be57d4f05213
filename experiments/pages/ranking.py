"""What a report shows of a rank attack: methods beside each other, targets, and figures as data URIs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.pages import figures, ranking_files
from experiments.pages.ranking_files import Method, Targets
from experiments.pages.run_files import Run
from experiments.pages.style import Picture, picture

_COMPARED = {  # in summary.json of rank_targets
    "targets_and_scores": "Targets and scores",
    "scores_and_mos": "Scores and MOS",
    "targets_and_mos": "Targets and MOS",
}
_ALTS = {
    "frontier": "SROCC with the clean scores against the mean absolute change of scores",
    "scores": "Scores of all images in order of their clean score",
    "ranks": "Rank by clean score against rank by reached score",
    "trace": "Agreement, variance, squared change and loss over the steps of stage one",
}


class Ranking(NamedTuple):
    """The section of a rank attack; `strongest` holds the names of the best attack and the best baseline."""

    methods: list[Method]
    strongest: list[str]
    shown: str
    images: float
    has_mos: bool
    pictures: dict[str, Picture]


class TargetTable(NamedTuple):
    """The page of a run that found targets only; `compared` holds the numbers of the summary by column."""

    compared: dict[str, Mapping[str, float]]
    rows: list[tuple[str, float, float, float]]
    has_mos: bool
    pictures: dict[str, Picture]


def read_ranking(run: Run) -> Ranking:
    """Read what a run of rank_attack found, and draw its figures.

    Raises:
      UserError: when a table is missing or damaged.
    """
    methods = ranking_files.read_methods(run)
    strongest = [method for role in ("attack", "baseline") if (method := ranking_files.best(methods, role))]
    pictures = _pictures(run, [_describe(method) for method in strongest])
    chosen = (run.config.get("flags") or {}).get("method")
    return Ranking(
        methods,
        [method.name for method in strongest],
        next((method.label for method in methods if method.name == chosen), ""),
        max((method.images for method in methods), default=0),
        any(np.isfinite(method.measures["mos_srocc"].value) for method in methods),
        pictures,
    )


def read_target_table(run: Run, summary: Mapping[str, Any]) -> TargetTable:
    """Read what a run of rank_targets found, and draw its figures.

    Raises:
      UserError: when a table is missing or damaged.
    """
    targets = ranking_files.read_targets(run)
    compared = {label: summary[key] for key, label in _COMPARED.items() if isinstance(summary.get(key), Mapping)}
    return TargetTable(compared, _rows(targets), bool(np.isfinite(targets.mos).any()), _pictures(run, []))


def _rows(targets: Targets) -> list[tuple[str, float, float, float]]:
    numbers = (values.tolist() for values in (targets.score, targets.mos, targets.target["sma"]))
    return list(zip(targets.images, *numbers))


def _describe(method: Method) -> str:
    srocc, mae = (method.measures[name].value for name in ("srocc", "mae"))
    return f"{method.label} reaches {figures.number(srocc, 3)} at {figures.number(mae)}"


def _pictures(run: Run, findings: Sequence[str]) -> dict[str, Picture]:
    pictures = {}
    for name, figure in figures.make_figures(run).items():
        alt = ": ".join(filter(None, [_ALTS[name], "; ".join(findings) if name == "frontier" else ""]))
        pictures[name] = picture(figure, alt)
    return pictures
