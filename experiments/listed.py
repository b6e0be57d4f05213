"""Lists in flags, and models in them: ``tinyiqa:embedded,metaiqa:METAIQA.pth:protocol=msu``."""

from collections.abc import Iterable
from typing import NamedTuple

from experiments import weights
from experiments.catalog import MODELS
from experiments.errors import UserError
from nriqa_jax.models.model import Model
from nriqa_jax.types import ScoreFn


class ListedModel(NamedTuple):
    """A model as a list names it.

    Attributes:
      weights: as for ``--weights``.
      protocol: as for ``--protocol``.
    """

    weights: str
    protocol: str


class LoadedModel(NamedTuple):
    """A model of a list.

    Attributes:
      model: its description.
      score_fn: in float32.
      sha256: of its weights.
    """

    model: Model
    score_fn: ScoreFn
    sha256: str


def parts(text: str) -> list[str]:
    """What commas separate, without spaces around it."""
    return [part.strip() for part in text.split(",") if part.strip()]


def known(flag: str, names: Iterable[str], table: Iterable[str]) -> None:
    """Refuse names that a table lacks, and an empty list.

    Raises:
      UserError: then.
    """
    accepted, names = list(table), list(names)
    if not names:
        raise UserError(f"--{flag} is empty; give some of {', '.join(accepted)}")
    for name in names:
        if name not in accepted:
            raise UserError(f"--{flag}: there is no '{name}'; give some of {', '.join(accepted)}")


def load_models(text: str, seed: int) -> dict[str, LoadedModel]:
    """The models of ``--models``, by name.

    Args:
      text: ``NAME:WEIGHTS`` or ``NAME:WEIGHTS:protocol=PROTOCOL``, separated by commas.
      seed: of random weights, and of protocols that draw crops.

    Raises:
      UserError: when one is unknown or named twice, or its weights or protocol cannot be used.
    """
    found: dict[str, LoadedModel] = {}
    for name, one in read_models(text).items():
        try:
            model = MODELS[name]().with_protocol(one.protocol, seed) if one.protocol else MODELS[name]()
        except ValueError as error:
            raise UserError(f"--models: {error}") from error
        variables, digest, model = weights.load(one.weights, model, seed)
        found[name] = LoadedModel(model, model.score_fn(model.prepare(variables)), digest)
    return found


def read_models(text: str) -> dict[str, ListedModel]:
    """The models of ``--models`` as it writes them, by name.

    Args:
      text: as for `load_models`.

    Raises:
      UserError: when one is unknown, named twice, or has no weights.
    """
    pairs = [part.partition(":") for part in parts(text)]
    known("models", (name for name, _, _ in pairs), MODELS)
    found: dict[str, ListedModel] = {}
    for name, _, rest in pairs:
        file, _, protocol = rest.partition(":protocol=")
        if not file or name in found:
            fault = "is there twice" if name in found else f"has no weights; give {name}:FILE, or {name}:random"
            raise UserError(f"--models: {name} {fault}")
        found[name] = ListedModel(file, protocol)
    return found
