r"""Find target scores that disagree with the scores of a set of images: stage one of SMA (arXiv 2404.13277) alone.

python -m experiments.rank_targets --scores=scores.csv --out=out/targets

Reads scores in 0..100 (or --low..--high) from a CSV file (image, score and perhaps mos), such as score_images writes,
or from an .npy file of shape [n], or [n, 2] with subjective scores in the second column. Writes targets.csv, trace.csv,
frontier.csv (targets for other weights of variance and error), summary.json, figures and report.html.
"""

import csv
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import cli, ledger, report, subjective
from experiments.catalog import AGREEMENTS
from experiments.pages import figures
from nriqa_jax.attacks.ranking import SmaConfig, TargetRun, optimize_targets
from nriqa_jax.metrics.correlation import krocc, mae, plcc, rmse, srocc
from nriqa_jax.parallel import Replicas

FRONTIER_COLUMNS = ("family", "label", "variance_weight", "error_weight", "change_weight", "srocc", "mae")
TRACE_COLUMNS = ("step", "agreement", "variance", "error", "loss")
_WEIGHTS = (0.0, 1e-6, 3e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4)  # of variance and error, for the frontier


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageOne(cli.Machine):
    """Settings of stage one; the defaults are those of the published code."""

    agreement: str = cli.flag("srocc", "Correlation with the clean scores that is made small.", AGREEMENTS)
    strength: float = cli.flag(1.0, "Of soft ranks; for n < 200 images try 200/n, or targets get stuck.")
    variance_weight: float = cli.flag(1e-4, "Of the variance of targets.")
    error_weight: float = cli.flag(1e-4, "Of the squared difference from the clean scores.")
    learning_rate: float = cli.flag(0.005, "Of Adam; about how far a target moves in a step.")
    target_steps: int = cli.flag(100_000, "Largest number of steps; it stops when targets stand still.")
    target_seed: int = cli.flag(919, "Seed of the start.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(StageOne):
    """Settings of a run on scores alone."""

    scores: str = cli.flag(cli.REQUIRED, "CSV or .npy file of scores.")
    mos: str = cli.flag("", "CSV file of subjective scores, where --scores holds none.")
    low: float = cli.flag(0.0, "Lowest possible score.")
    high: float = cli.flag(100.0, "Highest possible score.")
    out: str = cli.flag(cli.REQUIRED, "Run folder.")


class Scale(NamedTuple):
    """A range of scores, which stage one sees as 0..100."""

    low: float
    high: float

    def shrink(self, scores: np.ndarray) -> np.ndarray:
        """Scores on 0..100."""
        return (scores - self.low) * (100.0 / (self.high - self.low))

    def restore(self, scores: np.ndarray) -> np.ndarray:
        """Scores on the range."""
        return self.low + scores * ((self.high - self.low) / 100.0)


class Found(NamedTuple):
    """Targets, and the rows of ``trace.csv`` and ``frontier.csv``."""

    targets: np.ndarray
    steps: int
    trace: list[dict[str, Any]]
    frontier: list[dict[str, Any]]


def stage_one(config: StageOne, scores: np.ndarray, scale: Scale) -> Found:
    """Stage one in float64, at the settings and at other weights."""
    with cli.double_precision():
        percent = jnp.asarray(scale.shrink(scores))
        sma = SmaConfig(
            agreement=AGREEMENTS[config.agreement](config.strength),
            variance_weight=config.variance_weight,
            error_weight=config.error_weight,
            learning_rate=config.learning_rate,
            seed=config.target_seed,
            steps=config.target_steps,
        )
        run = jax.device_get(optimize_targets(percent, sma))
        # Runs are spread over the devices; the points of the frontier are theirs.
        replicas = Replicas(None, cli.devices(config))
        count = max(k for k in range(1, len(replicas.devices) + 1) if len(_WEIGHTS) % k == 0)
        weights = replicas.rows(count, jnp.asarray(_WEIGHTS))
        others = optimize_targets(percent, dataclasses.replace(sma, variance_weight=weights, error_weight=weights))
        frontier = [
            {"family": "sma", "label": f"{w:.3g}", "variance_weight": f"{w:.3g}", "error_weight": f"{w:.3g}"}
            | trade_off(scores, scale.restore(targets))
            for w, targets in zip(_WEIGHTS, np.asarray(others.targets))
        ]
    return Found(scale.restore(run.targets), int(run.steps), _trace(config, sma, run), frontier)


def check(config: StageOne) -> None:
    """Refuse settings that do not make sense.

    Raises:
      cli.UserError: with the first of them.
    """
    for name in ("strength", "learning_rate", "target_steps"):
        if not getattr(config, name) > 0:
            raise cli.UserError(f"--{name}={getattr(config, name)} must be positive")
    for name in ("variance_weight", "error_weight"):
        if not getattr(config, name) >= 0:
            raise cli.UserError(f"--{name}={getattr(config, name)} must not be negative")


def trade_off(scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Where targets lie between a low correlation and a large change."""
    return {"srocc": srocc(targets, scores), "mae": mae(targets, scores)}


def _trace(config: StageOne, sma: SmaConfig, run: TargetRun) -> list[dict[str, Any]]:
    count = -(-int(run.steps) // sma.record_every)
    rows = []
    for i in range(count):
        agreement, variance, error = (float(term[i]) for term in run.trace)
        loss = agreement - config.variance_weight * variance - config.error_weight * error
        step = min((i + 1) * sma.record_every, int(run.steps))
        rows.append({"step": step, "agreement": agreement, "variance": variance, "error": error, "loss": loss})
    return rows


def statistics(scores: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """The correlations and errors of the field."""
    return {fn.__name__: fn(scores, others) for fn in (srocc, krocc, plcc, rmse, mae)}


def read(config: Config) -> tuple[list[str], np.ndarray, np.ndarray | None]:
    """Names, scores and, where given, subjective scores.

    Raises:
      cli.UserError: when a file does not hold them.
    """
    path = Path(config.scores)
    if path.suffix == ".npy":
        names, scores, mos = _read_npy(path)
    else:
        found = subjective.read_scores(path, "scores", ("score", "prediction", "pred"))
        names, scores, mos = list(found), np.array(list(found.values())), _mos_beside(path, found)
    if config.mos:
        mos = np.array(subjective.match(subjective.read_scores(Path(config.mos)), names, Path(config.mos)))
    if len(scores) < 2:
        raise cli.UserError(f"--scores={path} holds {len(scores)} score(s); a ranking needs at least two")
    return names, scores, mos


def _read_npy(path: Path) -> tuple[list[str], np.ndarray, np.ndarray | None]:
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise cli.UserError(f"--scores={path} is no .npy file of numbers: {error}") from error
    if values.dtype.kind not in "fiu" or values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[1] != 2):
        raise cli.UserError(f"--scores={path} has shape {values.shape} and type {values.dtype}; expected [n] or [n, 2]")
    if not np.all(np.isfinite(values)):
        raise cli.UserError(f"--scores={path} holds NaN or infinite scores")
    columns = values.astype(np.float64).reshape(len(values), -1).T
    return [str(i) for i in range(len(values))], columns[0], columns[1] if len(columns) > 1 else None


def _mos_beside(path: Path, scores: Mapping[str, float]) -> np.ndarray | None:
    with path.open(newline="", encoding="utf-8-sig") as file:
        if "mos" not in next(csv.reader(file)):
            return None
    found = subjective.read_scores(path, "scores", ("mos",))
    return np.array([found[name] for name in scores])


def run(config: Config) -> dict[str, Any]:
    """Find targets and write them into ``config.out``; returns what ``summary.json`` holds."""
    check(config)
    names, scores, mos = read(config)
    if not config.low < config.high:
        raise cli.UserError(f"--low={config.low} must be below --high={config.high}")
    out, digest = Path(config.out), hashlib.sha256(Path(config.scores).read_bytes()).hexdigest()
    details = {"scores_sha256": digest, **ledger.provenance("float64")}
    ledger.open_run(out, {"script": "rank_targets", "flags": dataclasses.asdict(config), **details})
    found = stage_one(config, scores, Scale(config.low, config.high))
    rows = zip(names, scores, [None] * len(names) if mos is None else mos, found.targets)
    ledger.write_rows(out / "targets.csv", ("image", "score", "mos", "target"), rows)
    write_stage_one(out, found.trace, found.frontier)
    summary = {"images": len(names), "steps": found.steps, "targets_and_scores": statistics(found.targets, scores)}
    if mos is not None:
        summary |= {"scores_and_mos": statistics(scores, mos), "targets_and_mos": statistics(found.targets, mos)}
    ledger.write_json(out / "summary.json", summary)
    figures.write_figures(out)
    report.write_report(out)
    return summary


def write_stage_one(out: Path, trace: Sequence[dict[str, Any]], frontier: Sequence[dict[str, Any]]) -> None:
    """Write ``trace.csv`` and ``frontier.csv``."""
    for name, columns, rows in (("trace", TRACE_COLUMNS, trace), ("frontier", FRONTIER_COLUMNS, frontier)):
        ledger.write_rows(out / f"{name}.csv", columns, ([row.get(column) for column in columns] for row in rows))


def main(config: Config) -> int:
    """Find targets, and say what they do."""
    summary = run(config)
    now = summary["targets_and_scores"]
    print(
        f"{summary['images']} targets after {summary['steps']} steps: SROCC with the scores {now['srocc']:.6f}, "
        f"PLCC {now['plcc']:.6f}, mean absolute change {now['mae']:.6f}; see {config.out}/targets.csv"
    )
    for name, label in (("scores_and_mos", "scores"), ("targets_and_mos", "targets")):
        if name in summary:
            print(f"{label} and MOS: " + ", ".join(f"{key} {value:.6f}" for key, value in summary[name].items()))
    return 0


if __name__ == "__main__":
    cli.run(Config, main)
