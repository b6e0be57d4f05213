"""The checks of ``nriqa_jax.attacks.diagnostics``, made from the tables of a run."""

import numpy as np

from experiments import attacking, loading
from experiments.attacking import Job, MakeAttack
from experiments.ledger import Table
from nriqa_jax.attacks.diagnostics import AT_BUDGET, Checks
from nriqa_jax.image import from_uint8
from nriqa_jax.parallel import call
from nriqa_jax.types import CompositeAttack
from nriqa_jax.units import plan_units


def checks_of(table: Table, details: Table, more_steps: float | None) -> Checks:
    """The checks of a whole run, from ``rows.csv`` and ``diagnostics.csv``."""
    clean, adversarial = table.numbers("score_clean"), table.numbers("score_adversarial")
    noise = np.abs(details.numbers("score_noise") - clean)
    if not clean.size:
        return Checks(float("nan"), 0, float("nan"), float("nan"), float("nan"), None)
    budget = details.numbers("budget")
    return Checks(
        zero_gradient=float(np.mean(details.numbers("zero"))),
        nonfinite=int(np.nansum(details.numbers("nonfinite"))),
        unmoved=float(np.mean(adversarial == clean)),
        at_budget=float(np.mean(np.where(np.isnan(budget), np.nan, budget >= AT_BUDGET))),
        gain_over_noise=float(np.mean(np.abs(adversarial - clean)) / max(np.mean(noise), 1e-12)),
        more_steps=more_steps,
    )


def more_steps(table: Table, job: Job, longer: MakeAttack) -> float | None:
    """How much further an attack with twice the steps comes than the run did, on its first batch.

    Returns:
      Mean fall of the objective; None for attacks of one step or of others, and where no image of the batch succeeded.
    """
    first = plan_units(list(job.images.sizes.values()), job.sizes.of)[:1]
    batch = next(loading.ahead(job.images, [first], job.replicas)) if first else None
    if not isinstance(batch, loading.Batch) or any(table.rows[name]["status"] != "ok" for name in batch.names):
        return None
    scorers, images = job.replicas.on(batch.devices), from_uint8(batch.rows)
    attack = longer(batch, call(scorers.score, images))
    if isinstance(attack, CompositeAttack) or attack.steps < 2:
        return None
    scores = attacking.run(scorers, attack, images, job.keys(batch)).scores
    before = batch.send(job.replicas, np.array([float(table.rows[n]["score_adversarial_float"]) for n in batch.names]))
    falls = batch.fetch(attack.objective(before.astype(scores.dtype)) - attack.objective(scores))
    return float(np.mean(falls))
