"""Attacks that are computed on other models than the one they are for."""

import dataclasses
from typing import Any

from experiments import cli, settings, weights
from experiments.catalog import MODELS
from nriqa_jax.attacks.transfer import aligned, signed_ensemble
from nriqa_jax.models.model import Model
from nriqa_jax.types import ScoreFn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Surrogates:
    """Settings of attacks that carry over."""

    surrogate: str = cli.flag("", "Compute the attack on this model, or on some separated by commas, instead.")
    surrogate_weights: str = cli.flag("", "Weights of each surrogate, as for --weights, separated by commas.")


def load(config: Any) -> settings.Loaded:
    """The model of a run, and what attacks see of it.

    Raises:
      cli.UserError: when a setting does not make sense.
    """
    loaded = settings.load_model(config, config.precision, config.rematerialize)
    names, files = _listed(config.surrogate), _listed(config.surrogate_weights)
    if len(names) != len(files):
        raise cli.UserError(f"--surrogate names {len(names)} models, and --surrogate_weights {len(files)} weights")
    if not names:
        return loaded
    found = [_score_fn(name, file, config.seed, loaded.model) for name, file in zip(names, files)]
    seen = found[0][0] if len(found) == 1 else signed_ensemble([score_fn for score_fn, _ in found])
    details = {**loaded.details, "surrogates_sha256": [digest for _, digest in found]}
    return loaded._replace(scorers=loaded.scorers._replace(surrogate=seen), details=details)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _score_fn(name: str, file: str, seed: int, wanted: Model) -> tuple[ScoreFn, str]:
    """A surrogate, its scores in the range and direction of the model that is attacked; and what its weights are."""
    if name not in MODELS:
        raise cli.UserError(f"--surrogate: there is no '{name}'; give some of {', '.join(MODELS)}")
    variables, digest, model = weights.load(file, MODELS[name](), seed)
    score_fn = model.score_fn(model.prepare(variables))
    same = model.higher_is_better == wanted.higher_is_better
    return aligned(score_fn, model.score_range, wanted.score_range, same_direction=same), digest
