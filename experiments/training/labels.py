"""From the scores of a data set to labels in the unit of a model, and from a trained network to that unit."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments.data_sets.data_set import DataSet, Scale
from experiments.errors import UserError
from nriqa_jax.models.model import Model, Variables

LABELS = ("model", "raw")


class Labelling(NamedTuple):
    """What a network is to predict.

    Attributes:
      label: from a score of the data set.
      scale: of labels.
    """

    label: Callable[[float], float]
    scale: Scale


@dataclasses.dataclass(frozen=True)
class Line:
    """``slope * value + offset``."""

    slope: float
    offset: float

    def __call__(self, value: float) -> float:
        """The value on the line."""
        return self.slope * value + self.offset


def scale_of(model: Model) -> Scale:
    """The nominal scale of a model's scores."""
    low, high = model.score_range
    return Scale(low, high) if model.higher_is_better else Scale(high, low)


def labelling(model: Model, data: DataSet, labels: str) -> Labelling:
    """The labels of a data set for a model.

    Args:
      model: what is trained.
      data: with the scale of its scores; without one, scores are taken to be in the unit of the model.
      labels: "model", to map the set's scale linearly to the model's; or "raw", to leave scores as they are.

    Raises:
      UserError: when raw scores would teach the model the wrong direction.
    """
    own = scale_of(model)
    if data.scale is None:
        _note_other_unit(model, data)
        return Labelling(Line(1.0, 0.0), own)
    if labels == "raw":
        if data.scale.higher_is_better != own.higher_is_better:
            better = "higher" if own.higher_is_better else "lower"
            raise UserError(f"--labels=raw: of {data.name} the other scores are better; of {model.name} {better} ones")
        return Labelling(Line(1.0, 0.0), data.scale)
    slope = (own.best - own.worst) / (data.scale.best - data.scale.worst)
    return Labelling(Line(slope, own.worst - slope * data.scale.worst), own)


def _note_other_unit(model: Model, data: DataSet) -> None:
    """Say so where scores cannot be in the unit of the model."""
    scores = [item.mos for item in data.items if item.mos is not None]
    low, high = model.score_range
    if scores and not low <= min(scores) <= max(scores) <= high:
        print(
            f"note: scores are from {min(scores):g} to {max(scores):g}, but {model.name} scores from {low:g} to "
            f"{high:g}; they are taken as they are. Say their scale with --mos_range=WORST,BEST",
            file=sys.stderr,
        )


def fitted_line(scores: Float[np.ndarray, " images"], labels: Float[np.ndarray, " images"]) -> Line:
    """The least-squares line from scores to labels; level, where all scores are equal."""
    centred = scores - scores.mean()
    slope = float(centred @ labels / max(float(centred @ centred), 1e-12))
    return Line(slope, float(labels.mean() - slope * scores.mean()))


def calibrated(variables: Variables, line: Line) -> Variables:
    """The variables of a network that carries a line of its own (LinearityIQA), with its scores moved along another."""
    old: Mapping[str, Float[np.ndarray, " heads"]] = variables["calibration"]
    k, b = jnp.asarray(old["k"]), jnp.asarray(old["b"])
    new = {"k": k.at[0].multiply(line.slope), "b": b.at[0].set(line.slope * b[0] + line.offset)}
    return {**variables, "calibration": new}
