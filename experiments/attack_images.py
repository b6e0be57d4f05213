r"""Attack images: find small changes that move a quality model's scores, save them losslessly, score what was saved.

python -m experiments.attack_images --model=tinyiqa --weights=embedded --images=PHOTOGRAPHS --out=out/attack \
    --attack=ifgsm --objective=away --epsilon=4/255 --steps=10

Writes rows.csv (one row per image), adversarial/*.png, summary.json and diagnostics.csv. Run again, it continues where
it was. "quality" objectives know the model's direction; "score" objectives move the number itself.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from experiments import cli, diagnose, ledger, loading, pipeline, processes, records, settings, summary
from experiments.catalog import ATTACKS, OBJECTIVES
from experiments.settings import Scorers
from nriqa_jax.attacks.diagnostics import same_size_noise
from nriqa_jax.image import from_uint8, quantize_toward
from nriqa_jax.metrics import fidelity
from nriqa_jax.models.model import Model
from nriqa_jax.parallel import call, run_attack
from nriqa_jax.types import Images, ScoreFn, Scores, StepwiseAttack

MakeAttack = Callable[[Scores], StepwiseAttack]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.Common):
    """Settings of an attack run."""

    attack: str = cli.flag("ifgsm", "Attack.", ATTACKS)
    objective: str = cli.flag("away", "What to do to each score; away is to the far end of the range.", OBJECTIVES)
    target: float | None = cli.flag(None, "Score to reach, for --objective=target.")
    epsilon: str = cli.flag("4/255", "Radius of the perturbation, such as 4/255 or 0.0157.")
    steps: int | None = cli.flag(None, "Number of gradient steps; by default the attack's own.")
    step_size: str = cli.flag("", "Size of a step, such as 1/255; by default the attack's own.")
    restarts: int | None = cli.flag(None, "Random starts, of which the best is kept per image.")
    precision: str = cli.flag("highest", "Of gradients; scores are always exact float32.", settings.PRECISIONS)
    rematerialize: bool = cli.flag(False, "Save memory in gradients by computing more.")


def run(config: Config) -> ledger.Table:
    """Attack images into ``config.out``; returns the table ``rows.csv``."""
    model, scorers, details = settings.load_model(config, config.precision, config.rematerialize)
    make_attack = attack_maker(config, model)
    out = Path(config.out)
    images = pipeline.survey(Path(config.images), out, model.preprocess.min_side)
    ledger.open_run(out, pipeline.run_config("attack_images", config, images, details))
    table = ledger.Table(out / "rows.csv", ledger.ATTACK_COLUMNS)
    checks = ledger.Table(out / "diagnostics.csv", diagnose.COLUMNS)
    timings = ledger.Table(out / "timings.csv", pipeline.TIMING_COLUMNS)
    replicas, sizes = settings.replicas(config, scorers), settings.sizes_of_batches(config, scorers, images)
    files = ledger.adversarial_names(images.names)

    def work(batch: loading.Batch) -> pipeline.Cells:
        on_devices = replicas.on(batch.devices)
        keys = pipeline.image_keys(
            jax.random.key(config.seed), batch.send(replicas, pipeline.image_numbers(batch.names))
        )
        found = batch.fetch(attack_batch(on_devices, make_attack, batch.rows, keys))
        saved = save_and_read([out / "adversarial" / files[name] for name in batch.names], found["saved"])
        measured = batch.fetch(measure_batch(on_devices, batch.rows, batch.send(replicas, saved)))
        return [_by_name(batch.names, {**found["rows"], **measured}), _by_name(batch.names, found["checks"])]

    pipeline.Rows(images, [table, checks, timings], sizes, replicas, out).fill(work)

    def summarise() -> Mapping[str, Any]:
        longer = attack_maker(config, model, more=2)
        more = diagnose.more_steps(table, images, sizes, replicas, config.seed, longer)
        return summary.of_attack(table, diagnose.checks_of(table, checks, more), model)

    if processes.is_first():
        ledger.write_summary(out, [table, checks], summarise)
    return table


def attack_maker(config: Config, model: Model, more: int = 1) -> MakeAttack:
    """A function from clean scores to the attack that the flags ask for, with ``more`` times its steps.

    Raises:
      cli.UserError: when a flag does not fit the attack or the objective.
    """
    preset, accepted = ATTACKS[config.attack], inspect.signature(ATTACKS[config.attack]).parameters
    step_size = cli.parse_epsilon(config.step_size, "step_size") if config.step_size else None
    asked = {"steps": config.steps, "step_size": step_size, "restarts": config.restarts}
    chosen = {name: value for name, value in asked.items() if value is not None}
    for name, value in chosen.items():
        if name not in accepted:
            raise cli.UserError(f"--{name} does not apply to --attack={config.attack}")
        if value < 1 and name != "step_size":
            raise cli.UserError(f"--{name}={value} must be at least 1")
    if (config.objective == "target") != (config.target is not None):
        raise cli.UserError("--target=SCORE and --objective=target belong together")
    if more > 1 and "steps" in accepted:
        chosen["steps"] = more * chosen.get("steps", accepted["steps"].default)
    epsilon = cli.parse_epsilon(config.epsilon)
    objective = OBJECTIVES[config.objective]
    return lambda clean: preset(objective(model, clean, config.target), epsilon=epsilon, **chosen)


def attack_batch(scorers: Scorers, make_attack: MakeAttack, pixels: Array, keys: Array) -> PyTree:
    """Attack one batch of 8-bit images: what to save, and the numbers that only the attack knows."""
    images, clean = call(with_scores, scorers.score, pixels)
    result = run_attack(make_attack(clean), scorers.score, images, keys, gradient_fn=scorers.gradient)
    saved, noise = call(_outcome, scorers.score, pixels, result.images, keys)
    health = result.health._asdict() if result.health else {}
    return {
        "saved": saved,
        "rows": {"score_clean": clean, "score_adversarial_float": result.scores, "queries": result.queries},
        "checks": {"score_clean": clean, "score_noise": noise, **health},
    }


def with_scores(score_fn: ScoreFn, pixels: Array) -> tuple[Images, Scores]:
    """8-bit images as floats, and their scores."""
    images = from_uint8(pixels)
    return images, score_fn(images)


def _outcome(score_fn: ScoreFn, pixels: Array, adversarial: Images, keys: Array) -> tuple[Array, Scores]:
    """What to save, and the scores of random noise of the same size."""
    noisy = same_size_noise(from_uint8(pixels), adversarial, keys)
    return quantize_toward(adversarial, pixels), score_fn(noisy)


def save_and_read(paths: Sequence[Path], pixels: np.ndarray) -> np.ndarray:
    """Save images as PNG, and return what the files hold."""

    def save(path: Path, image: np.ndarray) -> np.ndarray:
        records.save_png(path, image)
        return records.load_image(path)

    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(save, paths, pixels)))


def measure_batch(scorers: Scorers, pixels: Array, saved: Array) -> dict[str, Array]:
    """Numbers of the saved files: their scores and their distance from the clean images."""
    _, scores = call(with_scores, scorers.score, saved)
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


def main(config: Config) -> int:
    """Attack, and say how it went."""
    table = run(config)
    clean, adversarial = table.numbers("score_clean"), table.numbers("score_adversarial")
    radius = cli.format_epsilon(cli.parse_epsilon(config.epsilon))
    change = f", mean score {np.mean(clean):.4f} -> {np.mean(adversarial):.4f}" if len(clean) else ""
    if not processes.is_first():
        return pipeline.exit_code(table)
    print(f"{len(clean)} of {len(table.rows)} images attacked at epsilon {radius}{change}; see {config.out}/rows.csv")
    return pipeline.exit_code(table)


if __name__ == "__main__":
    cli.run(Config, main)
