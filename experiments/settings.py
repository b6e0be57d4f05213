"""The settings that scripts on a model and a folder of images share, and what they resolve to."""

import dataclasses
from typing import Any

import jax

from experiments import cli, ledger, weights
from experiments.catalog import MODELS
from nriqa_jax.models.model import Model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
    """Settings of every script that runs a model on images."""

    model: str = cli.flag(cli.REQUIRED, "Quality model.", MODELS)
    weights: str = cli.flag(cli.REQUIRED, "A .safetensors or PyTorch file, random, or embedded.")
    protocol: str = cli.flag("", "Test protocol of the model: published or grid; by default the model's first.")
    images: str = cli.flag(cli.REQUIRED, "Folder of images (with its sub-folders), or one image file.")
    out: str = cli.flag(cli.REQUIRED, "Run folder; the same command run again continues an interrupted run.")
    batch_size: int = cli.flag(16, "Largest number of images computed together.")
    seed: int = cli.flag(0, "Seed of random weights, starts and noise.")


def load_model(config: Common) -> tuple[Model, jax.tree_util.Partial, dict[str, Any]]:
    """The model, its score function, and what ``config.json`` says of them.

    Raises:
      cli.UserError: when a setting does not make sense.
    """
    if config.batch_size < 1:
        raise cli.UserError(f"--batch_size={config.batch_size} must be at least 1")
    model = MODELS[config.model]()
    try:
        model = model.with_protocol(config.protocol) if config.protocol else model
    except ValueError as error:
        raise cli.UserError(f"--protocol={config.protocol}: {error}") from error
    variables, digest = weights.load(config.weights, model, config.seed)
    description = {"model": describe(model), "weights_sha256": digest, **ledger.provenance()}
    return model, model.score_fn(variables), description


def describe(model: Model) -> dict[str, Any]:
    """What a reader of scores must know of a model."""
    return {
        "name": model.name,
        "protocol": f"{model.preprocess.name} v{model.preprocess.version}",
        "score_range": list(model.score_range),
        "higher_is_better": model.higher_is_better,
        "training_data": model.training_data,
        "citation": model.citation,
        "licence": f"code: {model.code_licence}; weights: {model.weights_licence}",
    }
