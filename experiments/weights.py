"""What ``--weights`` may be: converted weights, a PyTorch checkpoint, ``random`` or ``embedded``.

``--distance_weights``, of a full-reference distance, may be the same, but for ``embedded``.
"""

import hashlib
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import jax

from experiments import heap
from experiments.cli import UserError
from nriqa_jax.models.distance import Distance
from nriqa_jax.models.model import Model, Variables
from weights_convert import convert, store
from weights_convert.rules import Owner, unflatten
from weights_convert.torch_file import CheckpointError


class Weights(NamedTuple):
    """Weights of a model.

    Attributes:
      variables: the numbers.
      sha256: of the file that they came from, or of random weights themselves.
      model: the model, with the score range of these weights.
    """

    variables: Variables
    sha256: str
    model: Model


class DistanceWeights(NamedTuple):
    """Weights of a full-reference distance.

    Attributes:
      variables: the numbers.
      sha256: of the file, or the two, that they came from, or of random weights themselves.
    """

    variables: Variables
    sha256: str


def load(weights: str, model: Model, seed: int) -> Weights:
    """Weights of a model.

    Args:
      weights: path of a ``.safetensors`` or PyTorch file, ``random``, or ``embedded``.
      model: the model that they must fit.
      seed: seed of random weights.

    Raises:
      UserError: when there is no such file, or it does not fit the model.
    """
    found = _load(weights, model, seed)
    heap.suit_model(sum(leaf.nbytes for leaf in jax.tree.leaves(found.variables)))
    return found


def _load(weights: str, model: Model, seed: int) -> Weights:
    if weights == "random":
        return Weights(*_random(model, seed), model)
    path = _embedded(model) if weights == "embedded" else Path(weights)
    if not path.is_file():
        raise UserError(f"--weights={weights} is not a file; give a .safetensors or PyTorch file, random, or embedded")
    try:
        if path.suffix == ".safetensors":
            variables, model = store.load_variables(path, model), store.in_unit_of(path, model)
        else:
            layout, conversion = convert.convert_checkpoint(path, model)
            variables, model = unflatten(conversion.arrays), convert.in_unit_of(layout, model)
    except CheckpointError as error:
        raise UserError(f"--weights={error}") from error
    return Weights(jax.device_put(variables), hashlib.sha256(path.read_bytes()).hexdigest(), model)


def load_distance(weights: str, distance: Distance, seed: int, backbone: str = "") -> DistanceWeights:
    """Weights of a full-reference distance.

    Args:
      weights: path of a ``.safetensors`` or PyTorch file, or ``random``.
      distance: what they must fit.
      seed: seed of random weights.
      backbone: path of the backbone's PyTorch file, where ``weights`` is one of the heads alone, as published.

    Raises:
      UserError: when there is no such file, or it does not fit the distance.
    """
    path, converted = Path(weights), weights.endswith(".safetensors")
    if backbone and (weights == "random" or converted):
        raise UserError(f"--distance_backbone goes with a PyTorch file of heads, not with --distance_weights={weights}")
    if weights == "random":
        return DistanceWeights(*_random(distance, seed))
    if not path.is_file():
        raise UserError(f"--distance_weights={weights} is not a file; give a .safetensors or PyTorch file, or random")
    if backbone and not Path(backbone).is_file():
        raise UserError(f"--distance_backbone={backbone} is not a file; give the backbone's PyTorch file")
    try:
        if converted:
            variables = store.load_variables(path, distance)
        else:
            variables = convert.load_torch(path, distance, backbone=backbone or None)
    except CheckpointError as error:
        raise UserError(f"--distance_weights={error}") from error
    content = b"".join(Path(file).read_bytes() for file in (path, backbone) if file)
    return DistanceWeights(jax.device_put(variables), hashlib.sha256(content).hexdigest())


def _random(model: Owner, seed: int) -> tuple[Variables, str]:
    variables = jax.jit(model.init)(jax.random.key(seed))
    return variables, hashlib.sha256(store.serialize(variables, {})).hexdigest()


def _embedded(model: Model) -> Path:
    folder = Path(str(resources.files("nriqa_jax.models") / "embedded"))
    path = folder / f"{model.name}.safetensors"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.safetensors")))
        raise UserError(f"--weights=embedded: {model.name} has no embedded weights; models that have: {known}")
    return path
