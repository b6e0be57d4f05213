"""Instruments that every contender shares: memory of the process, and the rate of matrix products."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

_TIMINGS = 10
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak_memory() -> None:
    """Start a new high-water mark of resident memory, where the system lets a process do that."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return  # the mark then counts from the start of the process


def peak_memory() -> int | None:
    """Highest resident memory of this process in bytes since the last reset; None where Linux's /proc is missing."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    mark = next((line for line in lines if line.startswith("VmHWM:")), None)
    return None if mark is None else 1024 * int(mark.split()[1])


class OtherPrograms:
    """What the processor does beside a measurement, from Linux's accounts of processor time."""

    def __init__(self, processes: Iterable[int]) -> None:
        """Start; the given processes and this one belong to the measurement."""
        self._processes = (os.getpid(), *processes)
        self._start = self._accounts()

    def share(self) -> float | None:
        """Share of all cores that other programs have had since the start; None where Linux's /proc is missing."""
        now = self._accounts()
        if self._start is None or now is None:
            return None
        total, idle, ours = (after - before for before, after in zip(self._start, now))
        return max(0.0, (total - idle - ours) / total) if total else 0.0

    def _accounts(self) -> tuple[int, int, int] | None:
        """Ticks of all cores, those in which they were idle, and those of the measurement."""
        try:
            # user nice system idle iowait irq softirq steal; the rest is counted in these already
            ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
            return sum(ticks), ticks[3] + ticks[4], sum(map(_ticks, self._processes))
        except OSError:
            return None


def _ticks(process: int) -> int:
    """Ticks that a process has computed for."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def product_rate(multiply: Callable[[], Any], finish: Callable[[Any], Any], side: int, products: int) -> float:
    """Floating-point operations per second of square matrix products, the best of several timings.

    Args:
      multiply: starts one product.
      finish: waits for the last product.
      side: rows of a matrix.
      products: products per timing, enough of them to hide what starting one costs.
    """
    finish(multiply())
    seconds = []
    for _ in range(_TIMINGS):
        started = time.perf_counter()
        for _ in range(products - 1):
            multiply()
        finish(multiply())
        seconds.append(time.perf_counter() - started)
    return 2.0 * side**3 * products / min(seconds)
