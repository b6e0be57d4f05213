r"""Hold the speed of attacks against PyTorch: same networks, weights, images and steps, in turns on the same machine.

python -m experiments.bench_speed --cases=cnniqa_step --batch_sizes=1,8 --out=speed.json
python -m experiments.bench_speed --cases=attacks --contenders=nriqa_jax,torch_one_by_one --batch_sizes=16 --repeats=1
python -m experiments.bench_speed --table=speed.json

A case is a model and a task: a step, or a whole attack with its own settings and the number of steps in its name, as in
cnniqa_madc5. Each contender draws random starts and views for itself. It is a process of its own; in each round each of
them runs once while the others wait. Prints a JSON line per case, batch size and contender as they come, and a table at
the end. Contenders whose package is missing are skipped. On two CPU cores, the first command takes two minutes, the
second twelve, and everything (no flags) hours. Measure on a machine that does nothing else: contenders suffer
differently from company.
"""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from experiments import cli, records
from experiments.contenders import results
from experiments.contenders.process import ContenderError, Process
from experiments.contenders.race import race, started
from experiments.contenders.workloads import CASES, CONTENDERS, GROUPS, OURS, PEER, SIZES, Workload


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a measurement."""

    cases: str = cli.flag(
        "all", f"Cases, separated by commas: all, attacks (all on CNNIQA), or some of {', '.join(CASES)}."
    )
    batch_sizes: str = cli.flag("1,8,32", "Batch sizes, separated by commas.")
    contenders: str = cli.flag("all", f"Who takes part: all that suit the device, or some of {', '.join(CONTENDERS)}.")
    repeats: int = cli.flag(7, "Measured runs of each contender.")
    device: str = cli.flag("auto", "Where to run; by default wherever JAX does.", ("auto", "cpu", "gpu"))
    precision: str = cli.flag("highest", "Arithmetic of products.", ("highest", "tf32", "bf16"))
    images: str = cli.flag("", "Folder of images for the case 'folder', which is skipped without one.")
    timeout: float = cli.flag(1800.0, "Seconds after which a contender's run counts as failed.")
    out: str = cli.flag("", "JSON file to write; by default results are printed only.")
    table: str = cli.flag("", "Only print the table of this JSON file, which an earlier --out wrote.")


def run(config: Config, report: results.Report | None = None) -> Iterator[results.Row]:
    """Yield one measurement per case, batch size and contender.

    Args:
      config: settings.
      report: filled with what `main` writes: machine, settings, peak_flops, rows, skipped.

    Raises:
      cli.UserError: for a setting that makes no sense, or a device that is not there.
    """
    report = {} if report is None else report
    report |= {"machine": results.machine(), "settings": dataclasses.asdict(config), "peak_flops": {}}
    report |= {"rows": [], "skipped": []}
    names = _chosen("contenders", config.contenders, CONTENDERS, {"all": CONTENDERS})
    plan = _plan(config, report)
    flops = _probe(config, report, plan)
    device, peak = report["settings"]["device"], max(report["peak_flops"].values())
    if config.contenders == "all":
        names = [name for name in names if device in CONTENDERS[name].devices]
    for case, workloads in plan.items():
        out = {entry["name"] for entry in report["skipped"]}
        field = [name for name in names if CASES[case][1] in CONTENDERS[name].tasks and name not in out]
        with started(field, partial(_start, config, device), partial(_skip, report)) as processes:
            for process in processes.values():
                report["machine"]["versions"] |= process.facts["versions"]
            for workload in workloads:
                outcomes = race(processes, workload, config.repeats)
                rows = results.rows(case, workload, outcomes, flops.get(case, 0) * workload.batch or None, peak)
                report["rows"] += rows
                yield from rows


def _plan(config: Config, report: results.Report) -> dict[str, list[Workload]]:
    """Workloads of each case, small batches first, so that the peak memory of a process is that of its last."""
    cases, sizes = _chosen("cases", config.cases, CASES, GROUPS), _sizes(config.batch_sizes)
    if config.repeats < 1:
        raise cli.UserError(f"--repeats={config.repeats} must be at least 1")
    plan = {}
    for case in cases:
        model, task = CASES[case]
        if task != "folder":
            plan[case] = [Workload(model, task, size, SIZES[model]) for size in sizes]
        elif config.images:
            files = _files(config.images)
            plan[case] = [Workload(model, task, len(files), folder=config.images, files=files)]
        else:
            _skip(report, case, "--images names no folder")
    return plan


def _chosen(flag: str, text: str, known: Iterable[str], groups: Mapping[str, Iterable[str]]) -> list[str]:
    """Names in a flag's text, each once; some stand for several others."""
    names = [name for part in text.split(",") for name in groups.get(part, (part,))]
    for name in names:
        if name not in known:
            choice = f"give {' or '.join(groups)}, or some of {', '.join(known)}"
            raise cli.UserError(f"--{flag}: there is no '{name}'; {choice}")
    return list(dict.fromkeys(names))


def _sizes(text: str) -> list[int]:
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise cli.UserError(f"--batch_sizes={text} is not a list of numbers; give one like 1,8") from error
    if sizes[0] < 1:
        raise cli.UserError(f"--batch_sizes={text} holds a size below 1")
    return sizes


def _files(folder: str) -> tuple[str, ...]:
    try:
        return tuple(records.list_images(Path(folder)))
    except FileNotFoundError as error:
        raise cli.UserError(str(error)) from error


def _skip(report: results.Report, name: str, reason: str) -> None:
    report["skipped"].append({"name": name, "reason": reason})
    print(f"{name} is skipped: {reason}", file=sys.stderr, flush=True)


def _start(config: Config, device: str, name: str) -> Process:
    return Process(CONTENDERS[name], device, config.precision, config.timeout)


def _probe(config: Config, report: results.Report, plan: dict[str, list[Workload]]) -> dict[str, int]:
    """Find the device, measure the peaks; returns the operations of each case on one image, where PyTorch counts them.

    Processes of their own do this, so that those that are measured later have done nothing else.
    """
    flops: dict[str, int] = {}
    with contextlib.closing(_start(config, config.device, OURS)) as ours:
        try:
            device = _describe(report, "jax", ours)
        except ContenderError as error:
            raise cli.UserError(f"--device={config.device}: {OURS} cannot start: {error}") from error
    report["settings"]["device"] = device
    if device not in CONTENDERS[PEER].devices:
        return flops
    with contextlib.closing(_start(config, device, PEER)) as peer:
        try:
            _describe(report, "torch", peer)
            for case, (workload, *_) in plan.items():
                if workload.task != "folder":
                    one = dataclasses.replace(workload, batch=1)
                    if counted := peer.ask("flops", workload=one.message())["flops"]:
                        flops[case] = counted
        except ContenderError as error:
            _skip(report, "the count of operations", str(error))
    return flops


def _describe(report: results.Report, framework: str, process: Process) -> str:
    """Add what a framework knows of the machine to the report; returns the kind of device."""
    process.wait_until_ready()
    report["machine"]["versions"] |= process.facts["versions"]
    report["machine"]["devices"][framework] = process.facts["device_name"]
    report["peak_flops"][framework] = process.ask("peak_flops")["peak_flops"]
    return process.facts["device"]


def main(config: Config) -> int:
    """Print measurements as they come, then the table; 1 when a contender failed or this library did not take part."""
    if config.table:
        print(results.table(_read(config.table)))
        return 0
    report: results.Report = {}
    for row in run(config, report):
        print(json.dumps(row), flush=True)
        results.save(config.out, report)
    results.save(config.out, report)
    print(results.table(report))
    skipped = {entry["name"] for entry in report["skipped"]}
    return int(OURS in skipped or any("error" in row for row in report["rows"]))


def _read(path: str) -> results.Report:
    try:
        report = json.loads(Path(path).read_text())
    except ValueError as error:
        raise cli.UserError(f"--table={path} is no file that --out wrote: {error}") from error
    if not isinstance(report, dict) or not {"machine", "rows", "skipped"} <= report.keys():
        raise cli.UserError(f"--table={path} is no file that --out wrote")
    return report


if __name__ == "__main__":
    cli.run(Config, main)
