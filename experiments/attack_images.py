r"""Attack images: find small changes that move a quality model's scores, save them losslessly, score what was saved.

python -m experiments.attack_images --model=tinyiqa --weights=embedded --images=PHOTOGRAPHS --out=out/attack \
    --attack=ifgsm --objective=away --epsilon=4/255 --steps=10

Writes rows.csv (one row per image), adversarial/*.png, summary.json and diagnostics.csv. Run again, it continues where
it was. "quality" objectives know the model's direction; "score" objectives move the number itself.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from experiments import cli, diagnose, ledger, pipeline, records, settings, summary
from experiments.catalog import ATTACKS, OBJECTIVES
from nriqa_jax.attacks.diagnostics import same_size_noise
from nriqa_jax.image import from_uint8, quantize_toward
from nriqa_jax.metrics import fidelity
from nriqa_jax.models.model import Model
from nriqa_jax.parallel import call_padded, run_attack, run_score
from nriqa_jax.types import ScoreFn, Scores, StepwiseAttack

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


def run(config: Config) -> ledger.Table:
    """Attack images into ``config.out``; returns the table ``rows.csv``."""
    model, score_fn, description = settings.load_model(config)
    make_attack = attack_maker(config, model)
    out = Path(config.out)
    images = pipeline.survey(Path(config.images), out, model.preprocess.min_side)
    ledger.open_run(out, pipeline.run_config("attack_images", config, images, description))
    table = ledger.Table(out / "rows.csv", ledger.ATTACK_COLUMNS)
    checks = ledger.Table(out / "diagnostics.csv", diagnose.COLUMNS)
    timings = ledger.Table(out / "timings.csv", pipeline.TIMING_COLUMNS)
    files = ledger.adversarial_names(images.names)

    def work(names: Sequence[str], pixels: pipeline.Pixels, size: int) -> Sequence[Mapping[str, Mapping[str, Any]]]:
        keys = pipeline.image_keys(config.seed, names)
        found = call_padded(lambda *batch: attack_batch(score_fn, make_attack, *batch), size, pixels, keys)
        saved = [save_and_read(out / "adversarial" / files[name], image) for name, image in zip(names, found["saved"])]
        measured = call_padded(lambda *batch: measure_batch(score_fn, *batch), size, pixels, np.stack(saved))
        rows = _by_name(names, {**found["rows"], **measured})
        return [rows, _by_name(names, found["checks"])]

    pipeline.run_rows(images, config.batch_size, [table, checks, timings], work)

    def summarise() -> Mapping[str, Any]:
        longer = attack_maker(config, model, more=2)
        more = diagnose.more_steps(table, images, config.batch_size, config.seed, score_fn, longer)
        return summary.of_attack(table, diagnose.checks_of(table, checks, more), model)

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


def attack_batch(score_fn: ScoreFn, make_attack: MakeAttack, pixels: Array, keys: Array) -> PyTree:
    """Attack one batch of 8-bit images: what to save, and the numbers that only the attack knows."""
    images = from_uint8(pixels)
    clean = run_score(score_fn, images)
    result = run_attack(make_attack(clean), score_fn, images, keys)
    noisy = same_size_noise(images, result.images, keys)
    health = result.health._asdict() if result.health else {}
    return {
        "saved": quantize_toward(result.images, pixels),
        "rows": {"score_clean": clean, "score_adversarial_float": result.scores, "queries": result.queries},
        "checks": {"score_clean": clean, "score_noise": run_score(score_fn, noisy), **health},
    }


def save_and_read(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Save an image as PNG, and return what the file holds."""
    records.save_png(path, pixels)
    return records.load_image(path)


def measure_batch(score_fn: ScoreFn, pixels: Array, saved: Array) -> dict[str, Array]:
    """Numbers of the saved files: their scores and their distance from the clean images."""
    return {
        "score_adversarial": run_score(score_fn, from_uint8(saved)),
        "linf_255": jnp.max(jnp.abs(saved.astype(jnp.int32) - pixels.astype(jnp.int32)), axis=(1, 2, 3)),
        **_distances(from_uint8(pixels), from_uint8(saved)),
    }


@jax.jit
def _distances(images: Array, others: Array) -> dict[str, Array]:
    small = min(images.shape[1:3]) < fidelity.SSIM_WINDOW
    return {
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
    print(f"{len(clean)} of {len(table.rows)} images attacked at epsilon {radius}{change}; see {config.out}/rows.csv")
    return pipeline.exit_code(table)


if __name__ == "__main__":
    cli.run(Config, main)
