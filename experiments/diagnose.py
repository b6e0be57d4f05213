"""The checks of ``nriqa_jax.attacks.diagnostics``, made from the tables of a run."""

from collections.abc import Callable

import jax
import numpy as np

from experiments import loading, pipeline
from experiments.batch_sizes import BatchSizes
from experiments.ledger import Table
from experiments.loading import ImageSet
from nriqa_jax.attacks.diagnostics import AT_BUDGET, Checks
from nriqa_jax.image import from_uint8
from nriqa_jax.parallel import Replicas, call, plan_units, run_attack
from nriqa_jax.types import Scores, StepwiseAttack

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
    table: Table, images: ImageSet, sizes: BatchSizes, replicas: Replicas, seed: int, longer: MakeAttack
) -> float | None:
    """How much further an attack with twice the steps comes than the run did, on its first batch.

    Returns:
      Mean fall of the objective; None for attacks of one step, and where no image of the batch succeeded.
    """
    first = plan_units(list(images.sizes.values()), sizes.of)[:1]
    batch = next(loading.ahead(images, [first], replicas)) if first else None
    if not isinstance(batch, loading.Batch) or any(table.rows[name]["status"] != "ok" for name in batch.names):
        return None
    scorers, numbers = replicas.on(batch.devices), pipeline.image_numbers(batch.names)
    keys = pipeline.image_keys(jax.random.key(seed), batch.send(replicas, numbers))
    clean_images = from_uint8(batch.rows)
    attack = longer(call(scorers.score, clean_images))
    if attack.steps == 1:
        return None
    scores = run_attack(attack, scorers.score, clean_images, keys, gradient_fn=scorers.gradient).scores
    before = batch.send(replicas, np.array([float(table.rows[n]["score_adversarial_float"]) for n in batch.names]))
    falls = batch.fetch(attack.objective(before.astype(scores.dtype)) - attack.objective(scores))
    return float(np.mean(falls))
