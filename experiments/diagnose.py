"""The checks of ``nriqa_jax.attacks.diagnostics``, made from the tables of a run."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from experiments import pipeline
from experiments.ledger import Table
from nriqa_jax.attacks.diagnostics import AT_BUDGET, Checks, gain
from nriqa_jax.image import from_uint8
from nriqa_jax.parallel import plan_batches, run_attack, run_score
from nriqa_jax.types import ScoreFn, Scores, StepwiseAttack

COLUMNS = ("image", "status", "score_clean", "score_noise", "budget", "zero", "nonfinite")

MakeAttack = Callable[[Scores], StepwiseAttack]


def checks_of(table: Table, details: Table, more_steps: float | None) -> Checks:
    """The checks of a whole run, from ``rows.csv`` and ``diagnostics.csv``."""
    clean, adversarial = table.numbers("score_clean"), table.numbers("score_adversarial")
    noise = np.abs(details.numbers("score_noise") - clean)
    if not clean.size:
        return Checks(float("nan"), 0, float("nan"), float("nan"), float("nan"), None)
    return Checks(
        zero_gradient=float(np.mean(details.numbers("zero"))),
        nonfinite=int(np.sum(details.numbers("nonfinite"))),
        unmoved=float(np.mean(adversarial == clean)),
        at_budget=float(np.mean(details.numbers("budget") >= AT_BUDGET)),
        gain_over_noise=float(np.mean(np.abs(adversarial - clean)) / max(np.mean(noise), 1e-12)),
        more_steps=more_steps,
    )


def more_steps(
    images: pipeline.ImageSet, batch_size: int, seed: int, score_fn: ScoreFn, attack: MakeAttack, longer: MakeAttack
) -> float | None:
    """How much further twice the steps come on the first batch; None for an attack of one step."""
    names = list(images.sizes)
    if not names:
        return None
    first = plan_batches([images.sizes[name] for name in names], batch_size)[0]
    decoded, _ = pipeline.decode(images, [names[item] for item in first.items])
    if not decoded:
        return None
    pixels = from_uint8(jnp.asarray(np.stack(list(decoded.values()))))
    keys, clean = pipeline.image_keys(seed, list(decoded)), run_score(score_fn, pixels)
    short, long = attack(clean), longer(clean)
    if short.steps == long.steps:
        return None
    losses = [short.objective(run_attack(a, score_fn, pixels, keys).scores) for a in (short, long)]
    return float(gain(*losses))
