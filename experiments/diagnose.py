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
    table: Table, images: pipeline.ImageSet, batch_size: int, seed: int, score_fn: ScoreFn, longer: MakeAttack
) -> float | None:
    """How much further an attack with twice the steps comes than the run did, on its first batch.

    Returns:
      Mean fall of the objective; None for attacks of one step, and where no image of the batch could be read.
    """
    names = list(images.sizes)
    first = plan_batches([images.sizes[name] for name in names], batch_size)[:1]
    decoded, _ = pipeline.decode(images, [names[item] for batch in first for item in batch.items])
    pixels = {name: value for name, value in decoded.items() if table.rows[name]["status"] == "ok"}
    if not pixels:
        return None
    clean_images = from_uint8(jnp.asarray(np.stack(list(pixels.values()))))
    attack = longer(run_score(score_fn, clean_images))
    if attack.steps == 1:
        return None
    scores = run_attack(attack, score_fn, clean_images, pipeline.image_keys(seed, list(pixels))).scores
    before = jnp.asarray([float(table.rows[name]["score_adversarial_float"]) for name in pixels])
    return float(gain(attack.objective(before), attack.objective(scores)))
