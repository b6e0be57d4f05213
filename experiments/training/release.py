"""The end of a training run: test scores of the chosen weights, and these weights with their card."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments import ledger
from experiments.catalog import BLIND_TO_SCALE
from experiments.data_sets.data_set import Scale
from experiments.training import evaluation, outputs
from experiments.training.evaluation import Part
from experiments.training.labels import calibrated, fitted_line
from experiments.training.loop import Outcome
from experiments.training.plan import Plan
from nriqa_jax.models.model import Model, Variables
from weights_convert import store


class Release(NamedTuple):
    """What must be known of released weights.

    Attributes:
      model: with its test protocol.
      plan: of their training.
      scale: of the labels.
      data: of `outputs.data_record`.
      initial_weights: where they came from.
      selection: how the epoch was chosen.
      command: what trained them.
    """

    model: Model
    plan: Plan
    scale: Scale
    data: dict[str, Any]
    initial_weights: str
    selection: str
    command: str


def write(
    release: Release, outcome: Outcome, parts: Mapping[str, Part], devices: Sequence[jax.Device], folder: Path
) -> dict[str, Any]:
    """Score the test part, and write ``test_scores.csv``, ``weights.safetensors`` and ``weights.md``.

    Returns:
      What ``result.json`` holds: the chosen epoch, the data, and the test metrics.
    """
    variables, score_range = in_unit(release, outcome.variables, parts["train"], devices)
    test = parts["test"]
    scores = evaluation.scores(release.model, variables, test, devices)
    outputs.write_test_scores(folder / "test_scores.csv", scores, test.labels)
    metrics = evaluation.quality(scores, test.labels)
    record = {
        **release._asdict(),
        "plan": dataclasses.asdict(release.plan),
        "epoch": outcome.epoch,
        "test": metrics,
    }
    described = store.describe(release.model) | {"score_range": list(score_range)}
    outputs.write_card(folder / "weights.md", release.model, record | described)
    training = ledger.finite({name: value for name, value in record.items() if name not in ("model", "scale")})
    store.save_variables(folder / "weights.safetensors", variables, described | {"training": training})
    return {"epoch": outcome.epoch, "data": release.data, "test": metrics}


def in_unit(
    release: Release, variables: Variables, training: Part, devices: Sequence[jax.Device]
) -> tuple[Variables, tuple[float, float]]:
    """The weights, and the range of their scores.

    After a loss that is blind to scale, scores are in the unit of the labels only if the network carries a line for
    that; else their range is what it is on the training part.
    """
    if release.plan.loss not in BLIND_TO_SCALE:
        return variables, release.scale.range
    found = evaluation.scores(release.model, variables, training, devices)
    if "calibration" not in variables:
        return variables, (min(found.values()), max(found.values()))
    return calibrated(variables, fitted_line(*evaluation.arrays(found, training.labels))), release.scale.range
