"""Progress of a run: a bar with speed and time left on a terminal, plain lines elsewhere."""

import sys
import time

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Shows how many images of how many are done."""

    def __init__(self, total: int) -> None:
        """Start with none done."""
        self._total, self._done = total, 0
        self._start = self._last = time.monotonic()
        self._bar = tqdm(total=total, unit="image", smoothing=0.1) if sys.stderr.isatty() and total else None

    def advance(self, count: int) -> None:
        """Count images as done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
            return
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_LINES or self._done == self._total:
            speed = self._done / max(now - self._start, 1e-9)
            left = (self._total - self._done) / speed
            line = f"{self._done}/{self._total} images, {speed:.2f} images/s, {left:.0f} s left"
            print(line, file=sys.stderr, flush=True)
            self._last = now

    def close(self) -> None:
        """Leave the terminal as it should be."""
        if self._bar is not None:
            self._bar.close()
