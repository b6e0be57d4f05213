"""Contenders against each other: each in its own process, one run at a time, in turns."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping

from experiments.contenders import meter
from experiments.contenders.process import ContenderError, Process
from experiments.contenders.workloads import Workload

# Thread pools spin for a moment after their last task, on the cores that the next contender is to have for itself.
_PAUSE = 0.05

Processes = Mapping[str, Process]


@dataclasses.dataclass
class Outcome:
    """What was measured of one contender on one workload.

    Attributes:
      first_call_seconds: the first run, with whatever is compiled in it.
      score: mean score of that run, which shows whether contenders compute the same.
      runs: seconds of each further run.
      peak_memory_bytes: highest memory use during these runs.
      others_share: share of the processor that other programs had meanwhile.
      error: what went wrong, if anything did; the rest is then incomplete.
    """

    first_call_seconds: float | None = None
    score: float | None = None
    runs: list[float] = dataclasses.field(default_factory=list)
    peak_memory_bytes: int | None = None
    others_share: float | None = None
    error: str | None = None


@contextlib.contextmanager
def started(
    names: list[str], start: Callable[[str], Process], on_failure: Callable[[str, str], None]
) -> Iterator[dict[str, Process]]:
    """Processes of the contenders that can be started, all at once; they end with the context.

    Args:
      names: contenders.
      start: begins to start one.
      on_failure: told the name of each that fails to start, and why.
    """
    processes = {name: start(name) for name in names}
    try:
        ready = {}
        for name, process in processes.items():
            try:
                process.wait_until_ready()
                ready[name] = process
            except ContenderError as error:
                on_failure(name, str(error))
        yield ready
    finally:
        for process in processes.values():
            process.close()


def race(processes: Processes, workload: Workload, repeats: int) -> dict[str, Outcome]:
    """Measure all contenders on a workload.

    In each of ``repeats`` rounds every contender runs once before any runs again, so that a machine that slows down
    does so for all of them. A contender that fails is out; the others go on.
    """
    outcomes = {name: Outcome() for name in processes}
    for name, outcome in outcomes.items():
        with _recorded(outcome):
            answer = processes[name].ask("prepare", workload=workload.message())
            outcome.first_call_seconds, outcome.score = answer["first_call_seconds"], answer["score"]
    others = meter.OtherPrograms(process.pid for process in processes.values())
    for _ in range(repeats):
        for name, outcome in outcomes.items():
            if outcome.error is None:
                with _recorded(outcome):
                    time.sleep(_PAUSE)
                    outcome.runs.append(processes[name].ask("run")["seconds"])
    others_share = others.share()
    for name, outcome in outcomes.items():
        outcome.others_share = others_share
        if processes[name].alive:
            with _recorded(outcome):
                outcome.peak_memory_bytes = processes[name].ask("drop")["peak_memory_bytes"]
    return outcomes


@contextlib.contextmanager
def _recorded(outcome: Outcome) -> Iterator[None]:
    try:
        yield
    except ContenderError as error:
        outcome.error = outcome.error or str(error)
