"""How well a network scores images: whole ones under its test protocol, against their labels."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from experiments import loading, records
from experiments.data_sets.data_set import DataSet, Item
from experiments.errors import UserError
from experiments.score_images import score_pixels
from nriqa_jax.metrics.correlation import krocc, mae, plcc, rmse, srocc
from nriqa_jax.models.model import Model, Variables
from nriqa_jax.parallel import Replicas, call
from nriqa_jax.units import group_units, plan_units

_TOGETHER = 8  # images on a device; fixed, so that scores do not depend on the machine's memory

METRICS: Mapping[str, Callable[..., float]] = {"srocc": srocc, "plcc": plcc, "krocc": krocc, "rmse": rmse, "mae": mae}


class Part(NamedTuple):
    """A part of a split, ready to be scored.

    Attributes:
      images: its images.
      labels: by file, in the unit of the model.
    """

    images: loading.ImageSet
    labels: Mapping[str, float]


def part(data: DataSet, items: Sequence[Item], label: Callable[[float], float], min_side: int) -> Part:
    """Images of a data set with their labels.

    Args:
      data: the set.
      items: images of it.
      label: from scores in the unit of the set to labels.
      min_side: shortest side that the model can score.

    Raises:
      UserError: when an image cannot be used.
    """
    labels = {item.file: label(item.mos) for item in items if item.mos is not None}
    sizes = {}
    for file in sorted(labels):
        try:
            sizes[file] = records.read_size(data.root / file)
        except records.ImageError as error:
            raise UserError(f"{data.root / file} {error}") from error
        if min(sizes[file]) < min_side:
            raise UserError(f"{data.root / file} is smaller than the {min_side} pixels that this model needs")
    return Part(loading.ImageSet(data.root, list(sizes), sizes, {}), labels)


def scores(model: Model, variables: Variables, part: Part, devices: Sequence[jax.Device]) -> dict[str, float]:
    """Score of each image."""
    replicas = Replicas(model.score_fn(model.prepare(variables)), devices)
    units = plan_units(list(part.images.sizes.values()), lambda size: _TOGETHER)
    groups = group_units(units, lambda unit: part.images.sizes[part.images.names[unit.items[0]]], len(devices))
    found: dict[str, float] = {}
    for batch in loading.ahead(part.images, groups, replicas):
        if not isinstance(batch, loading.Batch) or batch.failures:
            failures = batch.failures if isinstance(batch, loading.Batch) else batch
            name, why = next(iter(failures.items()))
            raise UserError(f"{part.images.root / name} {why}")
        values = batch.fetch(call(score_pixels, replicas.on(batch.devices), batch.rows))
        found |= {name: float(value) for name, value in zip(batch.names, values)}
    return {name: found[name] for name in part.images.names}


def quality(found: Mapping[str, float], labels: Mapping[str, float]) -> dict[str, float]:
    """How scores agree with labels: correlations and errors, without any mapping between them."""
    predictions, truth = arrays(found, labels)
    return {name: float(metric(predictions, truth)) for name, metric in METRICS.items()}


def arrays(
    found: Mapping[str, float], labels: Mapping[str, float]
) -> tuple[Float[np.ndarray, " images"], Float[np.ndarray, " images"]]:
    """Scores and labels in one order."""
    return np.array(list(found.values())), np.array([labels[name] for name in found])
