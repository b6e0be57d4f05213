"""Files of learned filters, the purifier FCN: the weights, the network that they are of, and how they were trained."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.errors import UserError
from nriqa_jax.defenses import fcn
from nriqa_jax.prepare import Variables
from weights_convert import store, tables, torch_file
from weights_convert.rules import CheckpointError, Problems, apply_rules, compare, flatten, unflatten

EXTENSION = ".safetensors"

_SWITCHES = ("normalised", "residual")  # of the network


def save(path: Path, network: fcn.FCN, variables: Variables, metadata: Mapping[str, Any]) -> None:
    """Write a filter, completely or not at all, making its folder if needed.

    Args:
      path: a ``.safetensors`` file.
      network: what the weights belong to.
      variables: the weights.
      metadata: how they were made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    switches = {name: getattr(network, name) for name in _SWITCHES}
    store.save_variables(path, variables, {**metadata, "purifier": "fcn", **switches})


def load(weights: str = "embedded", normalised: bool = True, residual: bool = False) -> fcn.LearnedFilter:
    """FCN, the learned filter of the purification study.

    Args:
      weights: ``embedded``, a ``.safetensors`` file of this project, or a PyTorch file with the published names.
      normalised: of the network of a PyTorch file, which does not say.
      residual: of the same.

    Raises:
      UserError: when there is no such file, or it holds something else.
    """
    path = _embedded() if weights == "embedded" else Path(weights)
    if not path.is_file():
        raise UserError(f"weights of the filter: {path} is not a file; give a .safetensors or PyTorch file")
    try:
        ours = path.suffix == EXTENSION
        network, arrays = _read(path) if ours else (fcn.FCN(normalised, residual), _convert(path))
    except CheckpointError as error:
        raise UserError(f"weights of the filter: {error}") from error
    return fcn.LearnedFilter(jax.device_put(unflatten(arrays)), network)


def _embedded() -> Path:
    return Path(str(resources.files("nriqa_jax.defenses"))) / "embedded" / f"fcn_residual{EXTENSION}"


def _read(path: Path) -> tuple[fcn.FCN, dict[str, np.ndarray]]:
    metadata, arrays = store.read(path)
    switches: list[Any] = [metadata.get(name) for name in _SWITCHES]
    problems = Problems()
    if metadata.get("purifier") != "fcn" or not all(isinstance(switch, bool) for switch in switches):
        raise CheckpointError(f"{path} is not of a filter that experiments.train_purifier made")
    compare(arrays, _shapes(), problems)
    if problems.count():
        raise CheckpointError(problems.message(f"{path}: the tensors do not fit").partition("\n")[0])
    return fcn.FCN(*switches), arrays


def _convert(path: Path) -> dict[str, np.ndarray]:
    tensors = torch_file.read_tensors(path)
    try:
        return apply_rules(tables.FCN, tensors, _shapes()).arrays
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {str(error).partition(chr(10))[0]}") from None


def _shapes() -> dict[str, jax.ShapeDtypeStruct]:
    """Of the weights, which are the same for all variants."""
    return flatten(jax.eval_shape(lambda key: fcn.init(fcn.ref(), key), jax.random.key(0)))
