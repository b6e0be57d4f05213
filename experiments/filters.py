"""Files of learned filters, the purifier FCN: the weights, which variant they are of, and how they were trained."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.catalog import FILTERS
from experiments.errors import UserError
from nriqa_jax.defenses import fcn
from nriqa_jax.prepare import Variables
from weights_convert import store, tables, torch_file
from weights_convert.rules import CheckpointError, Problems, apply_rules, compare, flatten, unflatten

EXTENSION = ".safetensors"
PUBLISHED = "ref"  # the variant of PyTorch files

_VARIANT = "variant"


def save(path: Path, variant: str, variables: Variables, metadata: Mapping[str, Any]) -> None:
    """Write a filter, completely or not at all, making its folder if needed.

    Args:
      path: a ``.safetensors`` file.
      variant: one of `FILTERS`.
      variables: its weights.
      metadata: how they were made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    store.save_variables(path, variables, {**metadata, "purifier": "fcn", _VARIANT: variant})


def load(weights: str = "embedded", variant: str = "") -> fcn.LearnedFilter:
    """The filter in a file.

    Args:
      weights: ``embedded``, a ``.safetensors`` file of this project, or a PyTorch file with the published names.
      variant: of a PyTorch file, which does not say; by default the published one.

    Raises:
      UserError: when there is no such file, or it holds something else.
    """
    path = _embedded() if weights == "embedded" else Path(weights)
    if not path.is_file():
        known = "none is embedded here" if weights == "embedded" else "there is no such file"
        raise UserError(f"weights of the filter '{weights}': {known}; give a .safetensors or PyTorch file")
    try:
        variant, arrays = _read(path) if path.suffix == EXTENSION else (variant or PUBLISHED, _convert(path))
    except CheckpointError as error:
        raise UserError(f"weights of the filter: {error}") from error
    return fcn.LearnedFilter(jax.device_put(unflatten(arrays)), FILTERS[variant]())


def _embedded() -> Path:
    return Path(str(resources.files("nriqa_jax.defenses"))) / "embedded" / f"fcn_residual{EXTENSION}"


def _read(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    metadata, arrays = store.read(path)
    variant, problems = metadata.get(_VARIANT), Problems()
    if metadata.get("purifier") != "fcn" or variant not in FILTERS:
        raise CheckpointError(f"{path} is not of a filter that experiments.train_purifier made")
    compare(arrays, _shapes(), problems)
    if problems.count():
        raise CheckpointError(problems.message(f"{path}: the tensors do not fit").partition("\n")[0])
    return str(variant), arrays


def _convert(path: Path) -> dict[str, np.ndarray]:
    tensors = torch_file.read_tensors(path)
    try:
        return apply_rules(tables.FCN, tensors, _shapes()).arrays
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {str(error).partition(chr(10))[0]}") from None


def _shapes() -> dict[str, jax.ShapeDtypeStruct]:
    """Of the weights, which are the same for all variants."""
    return flatten(jax.eval_shape(lambda key: fcn.init(fcn.ref(), key), jax.random.key(0)))
