"""What a run compiled: how many programs, how long it took, and how many came from the cache of an earlier run."""

import collections
import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"
_CACHE_HIT = "/jax/compilation_cache/cache_hits"


@dataclasses.dataclass
class Compilations:
    """Programs that were built while it watched.

    Attributes:
      programs: number of times that each function was compiled, or loaded from the cache.
      cached: how many of all were loaded.
      seconds: time that took.
    """

    programs: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    cached: int = 0
    seconds: float = 0.0

    def describe(self) -> str:
        """One clause for people."""
        total = self.programs.total()
        return f"{total - self.cached} programs compiled and {self.cached} loaded in {self.seconds:.1f} s"


@contextlib.contextmanager
def watch() -> Iterator[Compilations]:
    """Count compilations in this process until the block ends."""
    found, active = Compilations(), True

    def on_duration(event: str, duration_secs: float, **details: Any) -> None:
        if active and event == _COMPILED:
            found.programs[str(details.get("fun_name", "program"))] += 1
            found.seconds += duration_secs

    def on_event(event: str, **_: Any) -> None:
        found.cached += active and event == _CACHE_HIT

    # Not every version of JAX can unregister a listener; an inactive one does nothing.
    jax.monitoring.register_event_duration_secs_listener(on_duration)
    jax.monitoring.register_event_listener(on_event)
    try:
        yield found
    finally:
        active = False
