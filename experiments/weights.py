"""What ``--weights`` may be: converted weights, a PyTorch checkpoint, ``random`` or ``embedded``."""

import hashlib
from importlib import resources
from pathlib import Path

import jax

from experiments.cli import UserError
from nriqa_jax.models.model import Model, Variables
from weights_convert.convert import load_torch
from weights_convert.store import load_variables, serialize
from weights_convert.torch_file import CheckpointError


def load(weights: str, model: Model, seed: int) -> tuple[Variables, str]:
    """Variables of a model, and the sha256 of the file that they came from (or of random weights themselves).

    Args:
      weights: path of a ``.safetensors`` or PyTorch file, ``random``, or ``embedded``.
      model: the model that they must fit.
      seed: seed of random weights.

    Raises:
      UserError: when there is no such file, or it does not fit the model.
    """
    if weights == "random":
        variables = jax.jit(model.init)(jax.random.key(seed))
        return variables, hashlib.sha256(serialize(variables, {})).hexdigest()
    path = _embedded(model) if weights == "embedded" else Path(weights)
    if not path.is_file():
        raise UserError(f"--weights={weights} is not a file; give a .safetensors or PyTorch file, random, or embedded")
    try:
        read = load_variables if path.suffix == ".safetensors" else load_torch
        variables = read(path, model)
    except CheckpointError as error:
        raise UserError(f"--weights={error}") from error
    return jax.device_put(variables), hashlib.sha256(path.read_bytes()).hexdigest()


def _embedded(model: Model) -> Path:
    folder = Path(str(resources.files("nriqa_jax.models") / "embedded"))
    path = folder / f"{model.name}.safetensors"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.safetensors")))
        raise UserError(f"--weights=embedded: {model.name} has no embedded weights; models that have: {known}")
    return path
