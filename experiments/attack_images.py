r"""Attack images: find small changes that move a quality model's scores, save them losslessly, score what was saved.

python -m experiments.attack_images --model=tinyiqa --weights=embedded --images=PHOTOGRAPHS --out=out/attack \
    --attack=ifgsm --objective=away --epsilon=4/255 --steps=10

Writes rows.csv (one row per image), adversarial/*.png, summary.json and diagnostics.csv. Run again, it continues where
it was. "quality" objectives know the model's direction; "score" objectives move the number itself.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments import (
    attack_flags,
    attacking,
    batch_sizes,
    cli,
    diagnose,
    ledger,
    pipeline,
    processes,
    settings,
    summary,
    surrogates,
)
from experiments.catalog import OBJECTIVES
from nriqa_jax import memory
from nriqa_jax.attacks.objectives import per_range
from nriqa_jax.models.model import Model
from nriqa_jax.types import Attack, CompositeAttack, Scores, StepwiseAttack


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(attack_flags.AnyAttack, surrogates.Surrogates):
    """Settings of an attack run."""

    objective: str = cli.flag(
        "away", "What to do to each score: away is to the far end of the range, change is up or down.", OBJECTIVES
    )
    target: float | None = cli.flag(None, "Score to reach, for --objective=target.")


def run(config: Config) -> ledger.Table:
    """Attack images into ``config.out``; returns the table ``rows.csv``."""
    config = attack_flags.resolve(config)
    model, scorers, details = surrogates.load(config)
    make_attack = attack_maker(config, model)
    out = Path(config.out)
    images = pipeline.survey(Path(config.images), out, model.preprocess.min_side)
    attack = make_attack(None, jnp.zeros(1))
    _check_sizes(config, attack, images.sizes.values())
    ledger.open_run(out, pipeline.run_config("attack_images", config, images, details))
    sizes = settings.sizes_of_batches(config, scorers, images, attack)
    job = attacking.Job(images, settings.replicas(config, scorers), sizes, config.seed)
    tables = attacking.attack_set(job, out, make_attack)

    def summarise() -> Mapping[str, Any]:
        more = diagnose.more_steps(tables.rows, job, attack_maker(config, model, more=2))
        return summary.of_attack(tables.rows, diagnose.checks_of(*tables, more), model)

    if processes.is_first():
        ledger.write_summary(out, tables, summarise)
    return tables.rows


def _check_sizes(config: Config, attack: Attack, sizes: Iterable[batch_sizes.Size]) -> None:
    """Refuse images that are too small for an attack, which its program tells."""
    smallest = min(sizes, key=min, default=None)
    try:
        if smallest:
            memory.scored_together(attack, *smallest)
    except ValueError as error:
        raise cli.UserError(f"--attack={config.attack}: {error}") from error


def attack_maker(
    config: Config, model: Model, more: int = 1
) -> Callable[[Any, Scores], StepwiseAttack | CompositeAttack]:
    """A function from a batch to the attack that the flags ask for, with ``more`` times its steps.

    Raises:
      cli.UserError: when a flag does not fit the attack or the objective.
    """
    make, objective = attack_flags.preset(config, more), OBJECTIVES[config.objective]
    if (config.objective == "target") != (config.target is not None):
        raise cli.UserError("--target=SCORE and --objective=target belong together")

    def attack(_: Any, clean: Scores) -> Any:
        return make(per_range(objective(model, clean, config.target), *model.score_range))

    return attack


def main(config: Config) -> int:
    """Attack, and say how it went."""
    table = run(config)
    clean, adversarial = table.numbers("score_clean"), table.numbers("score_adversarial")
    change = f", mean score {np.mean(clean):.4f} -> {np.mean(adversarial):.4f}" if len(clean) else ""
    if not processes.is_first():
        return pipeline.exit_code(table)
    print(f"{len(clean)} of {len(table.rows)} images attacked{_radius(config)}{change}; see {config.out}/rows.csv")
    return pipeline.exit_code(table)


def _radius(config: Config) -> str:
    epsilon = attack_flags.resolve(config).epsilon
    return f" at epsilon {cli.format_epsilon(cli.parse_epsilon(epsilon))}" if epsilon else ""


if __name__ == "__main__":
    cli.run(Config, main)
