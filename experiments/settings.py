"""The settings that scripts on a model and a folder of images share, and what they resolve to."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments import batch_sizes, cli, ledger, weights
from experiments.catalog import MODELS
from experiments.loading import ImageSet
from nriqa_jax import types
from nriqa_jax.memory import rematerialize
from nriqa_jax.models.model import Model, Preprocess, Variables
from nriqa_jax.parallel import Replicas

Partial = jax.tree_util.Partial
PRECISIONS = ("highest", "tf32", "bf16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common(cli.Machine):
    """Settings of every script that runs a model on images."""

    model: str = cli.flag(cli.REQUIRED, "Quality model.", MODELS)
    weights: str = cli.flag(cli.REQUIRED, "A .safetensors or PyTorch file, random, or embedded.")
    protocol: str = cli.flag("", "Test protocol, such as published, grid or pyiqa; by default the model's first.")
    images: str = cli.flag(cli.REQUIRED, "Folder of images (with its sub-folders), or one image file.")
    out: str = cli.flag(cli.REQUIRED, "Run folder; the same command run again continues an interrupted run.")
    batch_size: int = cli.flag(0, "Largest number of images computed together on a device; 0 is as memory allows.")
    seed: int = cli.flag(0, "Seed of random weights, starts and noise.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack(Common):
    """Settings of every script that attacks images."""

    epsilon: str = cli.flag("", "Radius of the perturbation, such as 4/255 or 0.0157; by default the attack's own.")
    steps: int | None = cli.flag(None, "Number of gradient steps; by default the attack's own.")
    step_size: str = cli.flag("", "Size of a step, such as 1/255; by default the attack's own.")
    restarts: int | None = cli.flag(None, "Random starts, of which the best is kept per image.")
    precision: str = cli.flag("highest", "Of gradients; scores are always exact float32.", PRECISIONS)
    rematerialize: bool = cli.flag(False, "Save memory in gradients by computing more.")


class Scorers(NamedTuple):
    """A model as functions of images, with its weights as data.

    Attributes:
      score: in float32 with exact products; gives all reported scores.
      gradient: what attacks differentiate, where it is the same in another precision.
      surrogate: what attacks see instead of the model, where they are to carry over from another one.
    """

    score: types.ScoreFn
    gradient: types.ScoreFn | None = None
    surrogate: types.ScoreFn | None = None

    @property
    def attacked(self) -> types.ScoreFn:
        """What attacks compute gradients of."""
        return self.surrogate or self.gradient or self.score


class Loaded(NamedTuple):
    """A model that is ready to use.

    Attributes:
      model: its description.
      scorers: its functions.
      details: what ``config.json`` says of them.
    """

    model: Model
    scorers: Scorers
    details: dict[str, Any]


def load_model(config: Common, precision: str = "highest", remat: bool = False) -> Loaded:
    """The model of a run.

    Args:
      config: settings of the run.
      precision: of gradients, one of `PRECISIONS`.
      remat: whether to save memory in gradients by computing more.

    Raises:
      cli.UserError: when a setting does not make sense.
    """
    if config.batch_size < 0:
        raise cli.UserError(f"--batch_size={config.batch_size} must be at least 1, or 0 for what memory allows")
    cli.devices(config)
    model = MODELS[config.model]()
    try:
        model = model.with_protocol(config.protocol, config.seed) if config.protocol else model
    except ValueError as error:
        raise cli.UserError(f"--protocol={config.protocol}: {error}") from error
    variables, digest, model = weights.load(config.weights, model, config.seed)
    score = model.score_fn(model.prepare(variables))
    gradient = gradient_fn(model, variables, score, precision)
    if remat:
        gradient = rematerialize(gradient or score)
    details = {"model": describe(model), "weights_sha256": digest, **ledger.provenance(precision)}
    return Loaded(model, Scorers(score, gradient), details)


def gradient_fn(model: Model, variables: Variables, score: Partial, precision: str) -> Partial | None:
    """What attacks differentiate at a precision; None where it is the score function itself."""
    if precision == "bf16":
        return model.score_fn(model.prepare(variables, jnp.bfloat16))
    if precision == "tf32":
        return Partial(_with_fast_products(score.func), *score.args)
    return None


def _with_fast_products(apply: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def fast(*arguments: Any) -> jax.Array:
        with jax.default_matmul_precision("tensorfloat32"):
            return apply(*arguments)

    return fast


def replicas(config: Common, scorers: Scorers) -> Replicas:
    """The model on the devices of a run."""
    return Replicas(scorers, cli.devices(config))


def sizes_of_batches(
    config: Common, scorers: Scorers, images: ImageSet, attack: types.Attack | None = None
) -> batch_sizes.BatchSizes:
    """How many images of each size to compute together; as an earlier part of the run settled, if there was one."""
    if config.batch_size or not images.sizes:
        default = batch_sizes.fixed(config.batch_size or 1)
    else:
        largest = max(images.sizes.values(), key=lambda size: size[0] * size[1])
        default = batch_sizes.automatic(scorers.attacked, largest, len(cli.devices(config)), attack)
    return batch_sizes.BatchSizes(Path(config.out) / "batch_sizes.json", default)


def describe(model: Model) -> dict[str, Any]:
    """What a reader of scores must know of a model."""
    return {
        "name": model.name,
        "protocol": _protocol(model.preprocess),
        "score_range": list(model.score_range),
        "higher_is_better": model.higher_is_better,
        "training_data": model.card.training_data,
        "citation": model.card.citation,
        "licence": f"code: {model.card.code_licence}; weights: {model.card.weights_licence}",
    }


def _protocol(preprocess: Preprocess) -> str:
    seed = "" if preprocess.seed is None else f", seed {preprocess.seed}"
    return f"{preprocess.name} v{preprocess.version}{seed}"
