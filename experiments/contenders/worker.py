"""The side of a contender: answers requests, one JSON line each, until its standard input ends.

The first request names the contender, the device and the precision; its answer, like all others, is a JSON object,
which holds ``error`` where something went wrong. A workload is prepared, run as often as asked for, and dropped.
"""

import dataclasses
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TextIO

import numpy as np

from experiments.contenders.workloads import Workload

Runner = Callable[[], np.ndarray]


class Contender(Protocol):
    """A program that is measured."""

    def facts(self) -> dict[str, Any]:
        """``device`` (cpu, gpu or tpu), ``device_name``, ``versions`` of packages."""
        ...

    def peak_flops(self) -> float:
        """Measured rate of matrix products at the precision in use."""
        ...

    def count_flops(self, workload: Workload) -> int | None:
        """Floating-point operations of one run; None from a contender that cannot count."""
        ...

    def prepare(self, workload: Workload) -> Runner:
        """A function that does the workload once, waits until all of it is done, and returns the scores."""
        ...

    def reset_peak_memory(self) -> None:
        """Start measuring memory anew, where that is possible."""
        ...

    def peak_memory(self) -> int | None:
        """Highest use of the device's memory since the reset, in bytes."""
        ...


@dataclasses.dataclass
class Service:
    """Requests as methods."""

    contender: Any = None
    runner: Runner | None = None

    def start(self, target: str, options: dict[str, Any], device: str, precision: str) -> dict[str, Any]:
        """Make the contender."""
        module, _, name = target.partition(":")
        self.contender = getattr(importlib.import_module(module), name)(device, precision, **options)
        return self.contender.facts()

    def peak_flops(self) -> dict[str, Any]:
        """Rate of matrix products."""
        return {"peak_flops": self.contender.peak_flops()}

    def flops(self, workload: dict[str, Any]) -> dict[str, Any]:
        """Operations of one run of a workload."""
        return {"flops": self.contender.count_flops(Workload.read(workload))}

    def prepare(self, workload: dict[str, Any]) -> dict[str, Any]:
        """Build a workload and run it twice: once to compile, and once more for whatever the second call still does."""
        runner = self.contender.prepare(Workload.read(workload))
        started = time.perf_counter()
        scores = runner()
        seconds = time.perf_counter() - started
        runner()
        self.runner = runner
        self.contender.reset_peak_memory()
        return {"first_call_seconds": seconds, "score": float(np.mean(scores))}

    def run(self) -> dict[str, Any]:
        """Seconds of one run."""
        assert self.runner is not None, "nothing is prepared"
        started = time.perf_counter()
        self.runner()
        return {"seconds": time.perf_counter() - started}

    def drop(self) -> dict[str, Any]:
        """Forget the workload; its peak memory."""
        self.runner = None
        return {"peak_memory_bytes": self.contender.peak_memory()}


def serve(requests: Iterable[str], answers: TextIO) -> None:
    """Answer requests until there are no more."""
    service = Service()
    for line in requests:
        request = json.loads(line)
        try:
            answer = getattr(service, request.pop("command"))(**request)
        except Exception as error:  # noqa: BLE001 - any failure of a contender is a row, and the next workload may work
            traceback.print_exc()
            answer = {"error": describe(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def describe(error: Exception) -> str:
    """An exception as one line."""
    if isinstance(error, ModuleNotFoundError):
        return f"the package {error.name} is not installed"
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}".removesuffix(": ")[:300]


def main() -> None:
    """Serve standard input; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
