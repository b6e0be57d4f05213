"""From images to attacked images and their rows: what every script that attacks a folder shares."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from experiments import ledger, loading, pipeline, records
from experiments.batch_sizes import BatchSizes
from experiments.settings import Scorers
from nriqa_jax.attacks.diagnostics import same_size_noise
from nriqa_jax.image import from_uint8, quantize_toward
from nriqa_jax.metrics import fidelity
from nriqa_jax.parallel import Replicas, call, run_attack, score
from nriqa_jax.types import AttackResult, CompositeAttack, Images, Scores, StepwiseAttack

MakeAttack = Callable[[loading.Batch, Scores], StepwiseAttack | CompositeAttack]

CHECK_COLUMNS = ("image", "status", "score_clean", "score_noise", "budget", "zero", "nonfinite")


class Job(NamedTuple):
    """A model and a set of images that are attacked, once or in several ways.

    Attributes:
      images: the images.
      replicas: the `Scorers` of the model on all devices.
      sizes: how many images are computed together.
      seed: of starts and noise.
    """

    images: loading.ImageSet
    replicas: Replicas
    sizes: BatchSizes
    seed: int

    def keys(self, batch: loading.Batch) -> Array:
        """The keys of the computed rows of a batch; each is a function of the name of its image."""
        numbers = batch.send(self.replicas, pipeline.image_numbers(batch.names))
        return pipeline.image_keys(jax.random.key(self.seed), numbers)


class Tables(NamedTuple):
    """The tables of an attack.

    Attributes:
      rows: ``rows.csv``.
      checks: ``diagnostics.csv``.
    """

    rows: ledger.Table
    checks: ledger.Table


def attack_set(job: Job, out: Path, make_attack: MakeAttack) -> Tables:
    """Attack the images of a job that ``out/rows.csv`` lacks, and save them below ``out/adversarial``.

    Args:
      job: model and images.
      out: folder of the tables and of the adversarial images.
      make_attack: the attack on a batch, whose clean scores are known.
    """
    tables = Tables(
        ledger.Table(out / "rows.csv", ledger.ATTACK_COLUMNS), ledger.Table(out / "diagnostics.csv", CHECK_COLUMNS)
    )
    timings = ledger.Table(out / "timings.csv", pipeline.TIMING_COLUMNS)
    files = ledger.adversarial_names(job.images.names)

    def work(batch: loading.Batch) -> pipeline.Cells:
        scorers = job.replicas.on(batch.devices)
        found = batch.fetch(_attack(scorers, lambda clean: make_attack(batch, clean), batch.rows, job.keys(batch)))
        saved = _save_and_read([out / "adversarial" / files[name] for name in batch.names], found["saved"])
        measured = batch.fetch(_measure(scorers, batch.rows, batch.send(job.replicas, saved)))
        return [_by_name(batch.names, {**found["rows"], **measured}), _by_name(batch.names, found["checks"])]

    pipeline.Rows(job.images, [*tables, timings], job.sizes, job.replicas, out).fill(work)
    return tables


def _attack(
    scorers: Scorers, make_attack: Callable[[Scores], StepwiseAttack | CompositeAttack], pixels: Array, keys: Array
) -> PyTree:
    """Attack one batch of 8-bit images: what to save, and the numbers that only the attack knows."""
    images = call(from_uint8, pixels)
    clean = score(scorers.score, images)
    result = run(scorers, make_attack(clean), images, keys)
    saved, noisy = call(_outcome, pixels, result.images, keys)
    health = result.health._asdict() if result.health else {}
    return {
        "saved": saved,
        "rows": {"score_clean": clean, "score_adversarial_float": result.scores, "queries": result.queries},
        "checks": {"score_clean": clean, "score_noise": score(scorers.score, noisy), **health},
    }


def run(scorers: Scorers, attack: StepwiseAttack | CompositeAttack, images: Images, keys: Array) -> AttackResult:
    """An attack on the model; one that sees a surrogate alone asks the model nothing, and is scored by it."""
    if scorers.surrogate is None:
        return run_attack(attack, scorers.score, images, keys, gradient_fn=scorers.gradient)
    result = run_attack(attack, scorers.surrogate, images, keys)
    return result._replace(scores=score(scorers.score, result.images), queries=jnp.zeros_like(result.queries))


def _outcome(pixels: Array, adversarial: Images, keys: Array) -> tuple[Array, Images]:
    """What to save, and random noise of the same size."""
    return quantize_toward(adversarial, pixels), same_size_noise(from_uint8(pixels), adversarial, keys)


def _save_and_read(paths: Sequence[Path], pixels: np.ndarray) -> np.ndarray:
    """Save images as PNG, and return what the files hold."""

    def save(path: Path, image: np.ndarray) -> np.ndarray:
        records.save_png(path, image)
        return records.load_image(path)

    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(save, paths, pixels)))


def _measure(scorers: Scorers, pixels: Array, saved: Array) -> dict[str, Array]:
    """Numbers of the saved files: their scores and their distance from the clean images."""
    scores = score(scorers.score, call(from_uint8, saved))
    return {"score_adversarial": scores, **call(_distances, pixels, saved)}


def _distances(pixels: Array, saved: Array) -> dict[str, Array]:
    images, others = from_uint8(pixels), from_uint8(saved)
    small = min(images.shape[1:3]) < fidelity.SSIM_WINDOW
    return {
        "linf_255": jnp.max(jnp.abs(saved.astype(jnp.int32) - pixels.astype(jnp.int32)), axis=(1, 2, 3)),
        "l2": fidelity.l2(images, others),
        "psnr": fidelity.psnr(images, others),
        "ssim": jnp.full(len(images), jnp.nan) if small else fidelity.ssim(images, others),
    }


def _by_name(names: Sequence[str], columns: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    return {name: {key: values[i] for key, values in columns.items()} for i, name in enumerate(names)}
