"""The orchestrator's side of a contender: a process that answers one request at a time, and is idle in between."""

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.contenders.workloads import Entry

_ROOT = Path(__file__).parents[2]

# JAX would take most of a GPU's memory at its start, which several processes have to share; and compilations that were
# kept from an earlier measurement would not be compilations.
_SETTINGS = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}


class ContenderError(Exception):
    """What a contender could not do; the message is one sentence without its name."""


class Process:
    """A contender in a process of its own, on the same cores and in the same process group as this one.

    Attributes:
      facts: what it says of itself, once `wait_until_ready` has returned; see `worker.Contender.facts`.
    """

    facts: dict[str, Any]

    def __init__(self, entry: Entry, device: str, precision: str, timeout: float) -> None:
        """Start the process, without waiting for it.

        Args:
          entry: which contender.
          device: auto, cpu or gpu.
          precision: highest, tf32 or bf16.
          timeout: seconds after which an answer counts as missing.
        """
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        self._timeout, self._pending = timeout, b""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "experiments.contenders.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **_SETTINGS, "PYTHONPATH": path},
        )
        self._send("start", target=entry.target, options=dict(entry.options), device=device, precision=precision)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
          ContenderError: when it fails, takes too long, or the process ends.
        """
        self._send(command, **arguments)
        return self._receive()

    def wait_until_ready(self) -> None:
        """Wait until requests are served.

        Raises:
          ContenderError: as in `ask`.
        """
        self.facts = self._receive()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process, by force where it does not end with its input."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._kill()
        self._process.stdout.close()
        self._log.close()

    def _send(self, command: str, **arguments: Any) -> None:
        """Send a request; a process that has ended is noticed when its answer is missing."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
            self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        answer = json.loads(self._line())
        if "error" in answer:
            raise ContenderError(answer["error"])
        return answer

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        output, deadline = self._process.stdout.fileno(), time.monotonic() + self._timeout
        while b"\n" not in self._pending:
            ready, _, _ = select.select([output], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self._kill()  # its answer, if it came after all, would be taken for that of the next request
                raise ContenderError(f"gave no answer within {self._timeout:g} s")
            chunk = os.read(output, 1 << 16)
            if not chunk:
                raise ContenderError(self._epitaph())
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _epitaph(self) -> str:
        """How the process ended, and the last thing it said."""
        code = self._process.wait()
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip().splitlines()
        return f"its process {how}" + (f"; its last words: {said[-1][:200]}" if said else "")
