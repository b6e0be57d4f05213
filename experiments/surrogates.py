"""Attacks that are computed on other models than the one they are for."""

import dataclasses
from typing import Any

import jax

from experiments import cli, settings, weights
from experiments.catalog import MODELS
from nriqa_jax.attacks.transfer import aligned, signed_ensemble, smoothed, textured
from nriqa_jax.models.model import Model
from nriqa_jax.types import ScoreFn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Surrogates:
    """Settings of attacks that carry over."""

    surrogate: str = cli.flag("", "Compute the attack on this model, or on some separated by commas, instead.")
    surrogate_noise: str = cli.flag("", "Smooth surrogates by noise of this standard deviation, such as 8/255 (SEGA).")
    surrogate_share: float | None = cli.flag(
        None, "Follow surrogates in this share of the pixels alone, those in the most texture (SEGA's mask)."
    )
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
    _check(config, names)
    if not names:
        return loaded
    found = [_score_fn(name, file, config.seed, loaded.model) for name, file in zip(names, files)]
    members = [_smoothed(config, score_fn) for score_fn, _ in found]
    mask = None if config.surrogate_share is None else textured(config.surrogate_share)
    seen = members[0] if len(members) == 1 and mask is None else signed_ensemble(members, mask)
    details = {**loaded.details, "surrogates_sha256": [digest for _, digest in found]}
    return loaded._replace(scorers=loaded.scorers._replace(surrogate=seen), details=details)


def _check(config: Any, names: list[str]) -> None:
    asked = {"surrogate_noise": config.surrogate_noise, "surrogate_share": config.surrogate_share}
    for name, value in asked.items():
        if value not in ("", None) and not names:
            raise cli.UserError(f"--{name} needs --surrogate")
    if config.surrogate_share is not None and not 0 < config.surrogate_share <= 1:
        raise cli.UserError(f"--surrogate_share={config.surrogate_share:g} must be above 0, and at most 1")


def _smoothed(config: Any, score_fn: ScoreFn) -> ScoreFn:
    if not config.surrogate_noise:
        return score_fn
    sigma = cli.parse_epsilon(config.surrogate_noise, "surrogate_noise")
    return smoothed(score_fn, jax.random.key(config.seed), sigma=sigma)


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
