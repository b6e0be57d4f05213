r"""Attack images: find small changes that move a quality model's scores, save them losslessly, score what was saved.

python -m experiments.attack_images --model=tinyiqa --weights=embedded --images=PHOTOGRAPHS --out=out/attack \
    --attack=ifgsm --objective=away --epsilon=4/255 --steps=10

Writes rows.csv (one row per image), adversarial/*.png, summary.json and diagnostics.csv. Run again, it continues where
it was. "quality" objectives know the model's direction; "score" objectives move the number itself.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments import attacking, cli, diagnose, ledger, pipeline, processes, settings, summary
from experiments.catalog import ATTACKS, OBJECTIVES
from nriqa_jax.models.model import Model


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
    sizes = settings.sizes_of_batches(config, scorers, images)
    job = attacking.Job(images, settings.replicas(config, scorers), sizes, config.seed)
    tables = attacking.attack_set(job, out, make_attack)

    def summarise() -> Mapping[str, Any]:
        more = diagnose.more_steps(tables.rows, job, attack_maker(config, model, more=2))
        return summary.of_attack(tables.rows, diagnose.checks_of(*tables, more), model)

    if processes.is_first():
        ledger.write_summary(out, tables, summarise)
    return tables.rows


def attack_maker(config: Config, model: Model, more: int = 1) -> attacking.MakeAttack:
    """A function from a batch to the attack that the flags ask for, with ``more`` times its steps.

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
    return lambda _, clean: preset(objective(model, clean, config.target), epsilon=epsilon, **chosen)


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
