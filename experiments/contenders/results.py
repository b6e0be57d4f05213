"""From times to rows, and from rows to a table."""

import contextlib
import json
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.contenders.race import Outcome
from experiments.contenders.workloads import OURS, Workload
from experiments.errors import UserError
from weights_convert.store import write_atomic

Row = dict[str, Any]
Report = dict[str, Any]

_HEADER = (
    *("case", "batch", "contender", "seconds", "spread", "images/s", "ours is faster by"),
    *("of peak", "peak MB", "first call s"),
)
_LEFT = (0, 2)  # columns of words


def rows(case: str, workload: Workload, outcomes: Mapping[str, Outcome], flops: int | None, peak: float) -> list[Row]:
    """One row per contender.

    Args:
      case: name of the case.
      workload: what was done.
      outcomes: what was measured.
      flops: floating-point operations of one run, the same number for all.
      peak: rate that counts as the machine's highest.
    """
    ours = outcomes.get(OURS)
    ours_seconds = float(np.median(ours.runs)) if ours and ours.error is None else None
    start = {"case": case, "batch": workload.batch}
    return [
        {**start, "contender": name, **_measured(workload, outcome, flops, peak, ours_seconds)}
        if outcome.error is None
        else {**start, "contender": name, "error": outcome.error}
        for name, outcome in outcomes.items()
    ]


def _measured(workload: Workload, outcome: Outcome, flops: int | None, peak: float, ours: float | None) -> Row:
    low, median, high = (float(value) for value in np.percentile(outcome.runs, (25, 50, 75)))
    rate = None if flops is None else flops / median
    return {
        "seconds": median,
        "seconds_min": min(outcome.runs),
        "seconds_max": max(outcome.runs),
        "spread": (high - low) / median,
        "images_per_second": workload.batch / median,
        "ratio": None if ours is None else median / ours,
        "flops": flops,
        "flops_per_second": rate,
        "share_of_peak": None if rate is None else rate / peak,
        "peak_memory_bytes": outcome.peak_memory_bytes,
        "others_share": outcome.others_share,
        "first_call_seconds": outcome.first_call_seconds,
        "score": outcome.score,
        "runs": outcome.runs,
    }


def machine() -> dict[str, Any]:
    """Processor, memory and system; what frameworks know is added by who asks them."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "os": platform.platform(),
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "devices": {},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def table(report: Report) -> str:
    """A report as text: the machine, a markdown table, and a line on each failure and on what was skipped."""
    cells = [_HEADER, *map(_cells, report["rows"])]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_HEADER))]
    pad = [str.ljust if column in _LEFT else str.rjust for column in range(len(_HEADER))]
    lines = ["| " + " | ".join(p(cell, width) for p, cell, width in zip(pad, row, widths)) + " |" for row in cells]
    rule = ("-" * (width + 2) if column in _LEFT else "-" * (width + 1) + ":" for column, width in enumerate(widths))
    lines.insert(1, "|" + "|".join(rule) + "|")
    notes = [
        f"- {row['contender']} failed on {row['case']}, batch {row['batch']}: {row['error']}"
        for row in report["rows"]
        if "error" in row
    ]
    notes += [f"- {entry['name']} was skipped: {entry['reason']}" for entry in report["skipped"]]
    return "\n\n".join(part for part in (_caption(report), "\n".join(lines), "\n".join(notes)) if part)


def _caption(report: Report) -> str:
    """The machine and the settings in one paragraph."""
    about, settings = report["machine"], report["settings"]
    peak = max((value for value in report["peak_flops"].values() if value), default=0.0)
    parts = (
        f"{about['cpu']}, {about['cores']} cores, {about['memory_bytes'] / 1e9:.0f} GB",
        *(f"{name} {about['versions'][name]} on {device}" for name, device in about["devices"].items()),
        f"precision {settings['precision']}",
        f"matrix products reach {peak / 1e9:,.0f} GFLOP/s",
        f"medians of {settings['repeats']} interleaved runs; spread is their interquartile range",
        *_company(report["rows"]),
    )
    return "; ".join(parts) + "."


def _company(rows: list[Row]) -> list[str]:
    """How quiet the machine was."""
    shares = [row["others_share"] for row in rows if row.get("others_share") is not None]
    return [f"other programs had at most {max(shares):.0%} of the processor meanwhile"] if shares else []


def _cells(row: Row) -> tuple[str, ...]:
    start = (row["case"], str(row["batch"]), row["contender"])
    if "error" in row:
        return (*start, "failed", *[""] * (len(_HEADER) - len(start) - 1))
    memory = row["peak_memory_bytes"]
    return (
        *start,
        f"{row['seconds']:.4g}",
        f"{row['spread']:.1%}",
        f"{row['images_per_second']:.4g}",
        "" if row["ratio"] is None or row["contender"] == OURS else f"{row['ratio']:.2f}",
        "" if row["share_of_peak"] is None else f"{100 * row['share_of_peak']:.3g}%",
        "" if memory is None else f"{memory / 1e6:.0f}",
        f"{row['first_call_seconds']:.1f}",
    )


def save(path: str, report: Report) -> None:
    """Write a report as JSON, in a folder that is made; nothing without a path."""
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, f"{json.dumps(report, indent=1)}\n".encode())


def table_of(path: str, table: Callable[[Report], str]) -> str:
    """The table of a file that `save` wrote.

    Raises:
      UserError: when the file is none.
    """
    with contextlib.suppress(ValueError, LookupError, TypeError):
        return table(json.loads(Path(path).read_text()))
    raise UserError(f"--table={path} is no file that --out wrote")
