"""Converted weights on disk: safetensors files that say which model they belong to and where they come from.

Keys are the paths of the variables (``params/conv1/kernel``). All metadata is one JSON text under the key
``nriqa_jax``, because safetensors writes several keys in random order and equal weights should give equal bytes.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

import nriqa_jax
from nriqa_jax.models.distance import Distance
from nriqa_jax.models.model import Model
from weights_convert.pickle_names import CheckpointError
from weights_convert.rules import Owner, Problems, compare, expected_shapes, flatten, unflatten

_KEY = "nriqa_jax"


def describe(model: Owner) -> dict[str, Any]:
    """Metadata that follow from the model or the distance alone."""
    if isinstance(model, Distance):
        return {
            "model": model.name,
            "code_licence": model.code_licence,
            "weights_licence": model.weights_licence,
            "nriqa_jax": nriqa_jax.__version__,
        }
    return {
        "model": model.name,
        "score_range": list(model.score_range),
        "protocol": model.preprocess.name,
        "protocol_version": str(model.preprocess.version),
        "code_licence": model.card.code_licence,
        "weights_licence": model.card.weights_licence,
        "nriqa_jax": nriqa_jax.__version__,
    }


def serialize(variables: Mapping[str, Any], metadata: Mapping[str, Any]) -> bytes:
    """A safetensors file as bytes; equal arguments give equal bytes."""
    arrays = {path: np.array(array, order="C") for path, array in sorted(flatten(variables).items())}
    return safetensors.numpy.save(arrays, metadata={_KEY: json.dumps(dict(metadata), sort_keys=True)})


def save_variables(path: str | os.PathLike, variables: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Write variables to a safetensors file, completely or not at all.

    Args:
      path: the file.
      variables: nested variables of a model.
      metadata: ``describe(model)`` and whatever else a user should know, such as the source file and its hash.

    Raises:
      OSError: if the file cannot be written.
    """
    write_atomic(path, serialize(variables, metadata))


def write_atomic(path: str | os.PathLike, data: bytes) -> None:
    """Write a file under a temporary name in its folder, then rename it: readers see the old bytes or the new."""
    path = Path(path)
    # One name per file: what a killed process left is overwritten by the next, not kept for ever.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """Metadata of a converted file.

    Raises:
      CheckpointError: if it is no safetensors file, or not one of this project.
    """
    return read(path, arrays=False)[0]


def load_variables(path: str | os.PathLike, model: Owner) -> dict[str, Any]:
    """Read the variables of a model or a distance.

    Args:
      path: a file written by ``save_variables``.
      model: the model that they must belong to.

    Returns:
      Nested variables, as numpy arrays on the host.

    Raises:
      CheckpointError: if the file is damaged, belongs to another model, or is incomplete.
    """
    metadata, arrays = read(path)
    name = metadata.get("model", "no named model")
    if name != model.name:
        raise CheckpointError(f"{os.fspath(path)}: these are weights of {name}, not of {model.name}")
    problems = Problems()
    compare(arrays, expected_shapes(model), problems)
    if problems.count():
        raise CheckpointError(problems.message(f"{os.fspath(path)}: the tensors do not fit {model.name}"))
    return unflatten(arrays)


def read(path: str | os.PathLike, *, arrays: bool = True) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Metadata and, if wanted, arrays by path, of whatever they are.

    Raises:
      CheckpointError: if it is no safetensors file, or not one of this project.
    """
    try:
        with safetensors.safe_open(os.fspath(path), framework="numpy") as file:
            metadata = json.loads((file.metadata() or {}).get(_KEY, "null"))
            content = {key: file.get_tensor(key) for key in file.keys()} if arrays else {}  # noqa: SIM118
    except OSError as error:
        raise CheckpointError(f"{os.fspath(path)}: it cannot be read ({error.strerror or error})") from None
    except (safetensors.SafetensorError, ValueError, TypeError) as error:
        raise CheckpointError(f"{os.fspath(path)}: this is not a sound safetensors file ({error})") from None
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{os.fspath(path)}: this safetensors file was not written by weights_convert")
    return metadata, content


def in_unit_of(path: str | os.PathLike, model: Model) -> Model:
    """The model with the score range that a converted file states; older files state none.

    Raises:
      CheckpointError: as `read_metadata`.
    """
    match read_metadata(path).get("score_range"):
        case [int() | float() as low, int() | float() as high]:
            return model.with_score_range((float(low), float(high)))
    return model
