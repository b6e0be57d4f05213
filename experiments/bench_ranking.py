"""Hold the search for target scores against its speed goals and the usual PyTorch loop, on the CPU, in float64.

python -m experiments.bench_ranking --out=ranking.json
python -m experiments.bench_ranking --cases=paper_step,sixteen_weights --scores=scores.npy --repeats=3

paper_step: stage one of SMA at the settings of the paper, where soft ranks are the targets plus a constant.
strength_0.1_step: the same with ranks ten times harder, which have to be sorted and pooled.
paper_100000_steps: all steps of the paper; until targets have stopped moving, and to the last.
n_2015_step, n_10073_step: more images, at strengths (0.05, 0.005) so small that ranks are sorted and pooled here, too.
sixteen_weights: 16 pairs of weights at once, an equal share on each core, against one run of as many steps.
reachable_250: `targets_within` for 250 images and ten weights.

Contenders take turns in one process. The first call of each, in which JAX compiles or loads what was compiled before,
is given apart; an empty folder as JAX_COMPILATION_CACHE_DIR has everything compiled. Ours and PyTorch must end at the
same targets, else the exit code is 1. Everything takes one or two minutes on two CPU cores, which should be idle.
"""

import contextlib
import dataclasses
import importlib
import json
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import cli
from experiments.contenders import meter, results
from experiments.contenders.worker import describe
from experiments.contenders.workloads import OURS
from nriqa_jax.attacks.agreements import Number, Spearman
from nriqa_jax.attacks.ranking import SmaConfig, optimize_targets
from nriqa_jax.attacks.reachable import reach, targets_within
from nriqa_jax.parallel import Replicas

PEER, PEER_MODULE = "torch", "experiments.contenders.torch_ranking"
SAME = 1e-6  # targets that differ by less are the same

_COLUMNS = (  # and the formats of those that are measured
    "case contender images strength steps seconds:.4g spread:.1% ms_per_step:.4g ratio:.2f target met difference:.0e "
    "first_call_seconds:.1f"
)

Runner = Callable[[], tuple[Any, int | None]]  # gives targets, and how many steps it took, where it takes steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a measurement."""

    cases: str = cli.flag("all", "Cases, separated by commas: all, or some of those above.")
    repeats: int = cli.flag(7, "Measured runs of each contender.")
    share: float = cli.flag(1.0, "Share of the steps, and of the weights of reachable_250; a small one is for a try.")
    scores: str = cli.flag(
        "", "File (.npy) of scores in 0..100, whose first column counts; by default 232 random ones."
    )
    out: str = cli.flag("", "JSON file to write; by default results are printed only.")
    table: str = cli.flag("", "Only print the table of this JSON file, which an earlier --out wrote.")


class Case(NamedTuple):
    """What is measured, on how many random scores (0: those of the user); its target is a column, a sign, a bound."""

    runners: Callable[["Case"], dict[str, Runner]]
    target: tuple[str, str, float]
    images: int = 0
    strength: float = 1.0
    steps: int = 1  # or weights, where nothing takes steps
    peer_steps: int = 1  # fewer, to save time
    scores: Any = None
    start: Any = None
    peer: Any = None  # its module


def _ours(case: Case, tolerance: Number = -1.0, **settings: Any) -> Runner:
    """Stage one; by default it never stops early."""
    config = SmaConfig(agreement=Spearman(case.strength), steps=case.steps, tolerance=tolerance, **settings)
    scores, start = jax.device_put((case.scores, case.start))

    def run() -> tuple[Any, int]:
        found = jax.block_until_ready(optimize_targets(scores, config, start))
        return found.targets, int(found.steps)

    return run


def _against_peer(case: Case) -> dict[str, Runner]:
    settings = case.scores, case.start, case.strength, case.peer_steps
    peers: dict[str, Runner] = {PEER: lambda: (case.peer.run(*settings), case.peer_steps)} if case.peer else {}
    return {OURS: _ours(case), **peers}


def _stopped_and_not(case: Case) -> dict[str, Runner]:
    return {OURS: _ours(case, SmaConfig().tolerance), f"{OURS}, all steps": _ours(case)}


def _one_and_sixteen(case: Case) -> dict[str, Runner]:
    weights = np.geomspace(1e-5, 1e-3, 4)
    replicas = Replicas((case.scores, case.start), jax.local_devices(backend="cpu"))
    count = max(n for n in (1, 2, 4, 8, 16) if n <= len(replicas.devices))
    variance, error = replicas.rows(count, (np.repeat(weights, 4), np.tile(weights, 4)))
    scores, start = replicas.on(count)
    sixteen = _ours(case._replace(scores=scores, start=start), variance_weight=variance, error_weight=error)
    return {f"{OURS}, one": _ours(case), f"{OURS}, sixteen": sixteen}


def _within_reach(case: Case) -> dict[str, Runner]:
    down, up = np.random.default_rng(2).uniform(0, 30, (2, case.images))
    reached, weights = reach(case.scores, case.scores - down, case.scores + up), np.linspace(0, 2, case.steps)
    return {OURS: lambda: (targets_within(reached, weights.tolist()), None)}


CASES = {
    "paper_step": Case(_against_peer, ("ratio", ">=", 100), steps=50_000, peer_steps=2000),
    "strength_0.1_step": Case(_against_peer, ("ratio", ">=", 5), strength=0.1, steps=4000, peer_steps=2000),
    "paper_100000_steps": Case(_stopped_and_not, ("seconds", "<=", 3), steps=100_000),
    "n_2015_step": Case(_against_peer, ("ms_per_step", "<=", 5), 2015, 0.05, 1000, 500),
    "n_10073_step": Case(_against_peer, ("ms_per_step", "<=", 60), 10_073, 0.005, 100, 50),
    "sixteen_weights": Case(_one_and_sixteen, ("ratio", "<", 6), steps=20_000),
    "reachable_250": Case(_within_reach, ("", "", 0), 250, steps=10),
}


def run(config: Config, report: results.Report | None = None) -> Iterator[results.Row]:
    """Yield one measurement per case and contender.

    Args:
      config: settings.
      report: filled with what `main` writes: machine, settings, rows, skipped.

    Raises:
      cli.UserError: for a setting that makes no sense.
    """
    report = {} if report is None else report
    cases, cpus, about = _cases(config), jax.local_devices(backend="cpu"), results.machine()
    report |= {"machine": about, "settings": dataclasses.asdict(config), "rows": [], "skipped": []}
    about["versions"] |= {name: metadata.version(name) for name in ("nriqa_jax", "jax", "jaxlib", "scipy")}
    about["devices"]["jax"] = f"cpu x{len(cpus)}"
    peer = None
    try:
        peer = importlib.import_module(PEER_MODULE)
        about["versions"][PEER], about["devices"][PEER] = peer.facts()
    except ModuleNotFoundError as error:
        report["skipped"].append({"name": PEER, "reason": describe(error)})
    for name, case in cases.items():
        with cli.double_precision(), jax.default_device(cpus[0]):  # a yield in here would let this out
            rows = _measure(case._replace(peer=peer), config.repeats, {"case": name, "images": len(case.scores)})
        report["rows"] += rows
        yield from rows


def _cases(config: Config) -> dict[str, Case]:
    """The chosen cases with their scores, and a share of their steps."""
    names = list(CASES) if config.cases == "all" else config.cases.split(",")
    if unknown := [name for name in names if name not in CASES]:
        raise cli.UserError(f"--cases: there is no '{unknown[0]}'; give all, or some of {', '.join(CASES)}")
    if config.repeats < 1 or not 0 < config.share <= 1:
        raise cli.UserError(f"--repeats={config.repeats} must be at least 1, and --share={config.share} in (0, 1]")
    cases, given = {}, _scores(config.scores)
    for name, case in ((name, CASES[name]) for name in names):
        scores = _scores("", case.images) if case.images else given
        start = scores - 0.01 * np.random.default_rng(1).integers(0, 2, len(scores))
        steps, peer_steps = (max(1, round(config.share * steps)) for steps in (case.steps, case.peer_steps))
        cases[name] = case._replace(steps=steps, peer_steps=peer_steps, scores=scores, start=start)
    return cases


def _scores(path: str, n: int = 232) -> np.ndarray:
    if not path:
        return 100 * np.random.default_rng(0).beta(2, 2, n)
    with contextlib.suppress(ValueError, TypeError, AttributeError, EOFError):
        scores = np.load(path).astype(np.float64)
        scores = scores.reshape(len(scores), -1)[:, 0]
        if len(scores) > 1 and np.all((scores >= 0) & (scores <= 100)):
            return scores
    raise cli.UserError(f"--scores={path} is no .npy file of two or more scores in 0..100")


def _measure(case: Case, repeats: int, about: results.Row) -> list[results.Row]:
    """A row per contender: its first call, then rounds in which each of them runs once."""
    runners, rows = case.runners(case), list[results.Row]()
    firsts = [_timed(runner) for runner in runners.values()]
    others = meter.OtherPrograms(())
    rounds = [[_timed(runner)[0] for runner in runners.values()] for _ in range(repeats)]
    about["others_share"] = others.share()
    for name, (first, (targets, steps)), runs in zip(runners, firsts, zip(*rounds)):
        low, median, high = np.percentile(runs, (25, 50, 75)).tolist()
        row = {**about, "contender": name, "strength": steps and case.strength, "steps": steps, "seconds": median}
        row |= {"spread": (high - low) / median, "first_call_seconds": first, "runs": list(runs)}
        row |= {"ms_per_step": steps and 1000 * median / steps}
        if rows and case.runners is not _stopped_and_not:
            row["ratio"] = row["ms_per_step"] / rows[0]["ms_per_step"]
        if name == PEER:
            same_steps, _ = _ours(case._replace(steps=case.peer_steps))()
            row["difference"] = float(np.max(np.abs(same_steps - targets)))
        column, sign, bound = case.target
        if row.get(column) is not None and (name != PEER or column == "ratio"):
            met = row[column] >= bound if sign == ">=" else row[column] <= bound
            row |= {"target": f"{column} {sign} {bound:g}", "met": "yes" if met else "no"}
        rows.append(row)
    return rows


def _timed(runner: Runner) -> tuple[float, tuple[Any, int | None]]:
    time.sleep(0.05)  # thread pools spin for a moment after their last task
    started = time.perf_counter()
    found = runner()
    return time.perf_counter() - started, found


def table(report: results.Report) -> str:
    """The machine, a markdown table, and what was skipped."""
    about, columns = report["machine"], [column.partition(":")[::2] for column in _COLUMNS.split()]
    where = (f"{name} {about['versions'][name]} on {device}" for name, device in about["devices"].items())
    method = f"medians of {report['settings']['repeats']} interleaved runs; spread is their interquartile range"
    rows = [
        ["" if row.get(name) is None else format(row[name], form) for name, form in columns] for row in report["rows"]
    ]
    rows.insert(0, [name.replace("_", " ") for name, _ in columns])
    widths = [max(map(len, cells)) for cells in zip(*rows)]
    rows.insert(1, ["-" * width for width in widths])
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    notes = [f"- {entry['name']} was skipped: {entry['reason']}" for entry in report["skipped"]]
    return "\n".join([f"{about['cpu']}, {about['cores']} cores; {'; '.join(where)}; {method}.", "", *lines, "", *notes])


def main(config: Config) -> int:
    """Print measurements as they come, then the table; 1 where this library and the peer end at different targets."""
    report: results.Report = {}
    if config.table:
        print(results.table_of(config.table, table))
        return 0
    for row in run(config, report):
        print(json.dumps(row), flush=True)
    results.save(config.out, report)
    print(table(report))
    return int(not all(row.get("difference", 0) <= SAME for row in report["rows"]))


if __name__ == "__main__":
    cli.run(Config, main)
