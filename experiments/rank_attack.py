r"""Attack the ranking of a set of images by a model: SMA (arXiv 2404.13277), both stages, and what it is held against.

python -m experiments.rank_attack --model=tinyiqa --weights=embedded --images=PHOTOGRAPHS --out=out/rank

Writes what attack_images writes, for the method of --method; the ledgers of all other methods below methods/;
targets.csv (where each method wanted every score, and where it came), methods.csv (all methods beside each other),
trace.csv and frontier.csv of stage one; figures and report.html. Stage two is the published one by default: epsilon
0.005, ten steps of a fifth of it. Run again, it continues where it was.
"""

import dataclasses
import inspect
from functools import partial
from pathlib import Path

from experiments import (
    attack_flags,
    attacking,
    cli,
    diagnose,
    ledger,
    pipeline,
    processes,
    report,
    settings,
    subjective,
    summary,
)
from experiments.catalog import ATTACKS, BALL_ATTACKS
from experiments.pages import figures
from experiments.rank_targets import StageOne, check, stage_one, write_stage_one
from experiments.ranking import tables
from experiments.ranking.methods import METHODS, frontier
from experiments.ranking.study import Presets, Study
from nriqa_jax.attacks.objectives import raise_score
from nriqa_jax.models.model import Model

_SHARE = 5  # epsilon in steps of the published stage two
_PROBES = 10  # of how many steps one is spent on each probe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(StageOne, settings.Attack):
    """Settings of an attack on a ranking."""

    attack: str = cli.flag("ifgsm", f"Attack:\n{attack_flags.describe(BALL_ATTACKS)}", BALL_ATTACKS)
    epsilon: str = cli.flag("0.005", "Radius of the perturbation, such as 4/255 or 0.005.")
    step_size: str = cli.flag("", "Size of a step, such as 1/255; by default a fifth of epsilon, as published.")
    method: str = cli.flag("sma", "The method whose ledger and images are those of the run.", METHODS)
    compare: str = cli.flag("all", "Methods to hold it against, separated by commas: all, none, or names of --method.")
    mos: str = cli.flag("", "CSV file of subjective scores, with the image in the first column.")


def run(config: Config) -> ledger.Table:
    """Attack the ranking of images into ``config.out``; returns the table ``rows.csv``."""
    check(config)
    methods = [config.method, *_compared(config)]
    presets = _presets(config)
    model, scorers, details = settings.load_model(config, config.precision, config.rematerialize)
    out = Path(config.out)
    images = pipeline.survey(Path(config.images), out, model.preprocess.min_side)
    mos = _mos(config, images.names)
    ledger.open_run(out, pipeline.run_config("rank_attack", config, images, details))
    sizes = settings.sizes_of_batches(config, scorers, images, presets.whole(raise_score()))
    job = attacking.Job(images, settings.replicas(config, scorers), sizes, config.seed)
    study = Study(job, out, presets, model.score_range, partial(stage_one, config), config.method)
    if len(study.names) < 2:
        count = f"{len(study.names)} image(s) could be scored"
        raise cli.UserError(f"--images={config.images}: {count}; a ranking needs two")
    outcomes = {name: METHODS[name].run(study, name) for name in METHODS if name in methods}
    if processes.is_first():
        tables.write(study, out, outcomes, mos)
        write_stage_one(out, study.sma.trace, [*study.sma.frontier, *frontier(study, outcomes.values())])
        _write_summary(out, model)
        figures.write_figures(out)
        report.write_report(out)
    return outcomes[config.method].rows


def _compared(config: Config) -> list[str]:
    names = {"all": list(METHODS), "none": []}.get(config.compare, config.compare.split(","))
    for name in names:
        if name not in METHODS:
            raise cli.UserError(f"--compare: there is no '{name}'; give all, none, or some of {', '.join(METHODS)}")
    return names


def _presets(config: Config) -> Presets:
    """Stage two; probes of a tenth of its steps, which cross the ball; and the steps that two probes leave."""
    accepted = inspect.signature(ATTACKS[config.attack]).parameters
    whole, epsilon = dataclasses.asdict(config), cli.parse_epsilon(config.epsilon)
    if "step_size" in accepted and not config.step_size:
        whole["step_size"] = str(epsilon / _SHARE)
    probe, rest = dict(whole), dict(whole)
    if "steps" in accepted:
        steps = config.steps or accepted["steps"].default
        probe["steps"] = max(steps // _PROBES, 1)
        rest["steps"] = max(steps - 2 * probe["steps"], 1)
        if "step_size" in accepted:
            probe["step_size"] = str(epsilon / probe["steps"])
    return Presets(*(attack_flags.preset(Config(**chosen)) for chosen in (whole, probe, rest)))


def _mos(config: Config, images: list[str]) -> dict[str, float] | None:
    if not config.mos:
        return None
    path = Path(config.mos)
    return dict(zip(images, subjective.match(subjective.read_scores(path), images, path)))


def _write_summary(out: Path, model: Model) -> None:
    rows = ledger.Table(out / "rows.csv", ledger.ATTACK_COLUMNS)
    checks = ledger.Table(out / "diagnostics.csv", attacking.CHECK_COLUMNS)
    checks.write()  # of methods that only choose among attacked images there are none
    ledger.write_summary(
        out, [rows, checks], lambda: summary.of_attack(rows, diagnose.checks_of(rows, checks, None), model)
    )


def main(config: Config) -> int:
    """Attack, and say how the methods compare."""
    table = run(config)
    if processes.is_first():
        print(tables.describe(Path(config.out)))
        print(f"{len(table.numbers('score_clean'))} of {len(table.rows)} images; see {config.out}/report.html")
    return pipeline.exit_code(table)


if __name__ == "__main__":
    cli.run(Config, main)
