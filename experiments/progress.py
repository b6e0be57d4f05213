"""Progress of a run: a bar with speed and time left on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
_SECONDS_BETWEEN_LINES = 10.0


def progress(items: Sequence[Item], counts: Sequence[int]) -> Iterator[Item]:
    """Pass items on, showing how many images of how many are done; ``counts`` are the images of each item."""
    if sys.stderr.isatty():
        with tqdm(total=sum(counts), unit="image", smoothing=0.1) as bar:
            for item, count in zip(items, counts):
                yield item
                bar.update(count)
    else:
        yield from _lines(items, counts)


def _lines(items: Sequence[Item], counts: Sequence[int]) -> Iterator[Item]:
    start = last = time.monotonic()
    done, total = 0, sum(counts)
    for item, count in zip(items, counts):
        yield item
        done, now = done + count, time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES or done == total:
            speed = done / (now - start)
            print(
                f"{done}/{total} images, {speed:.2f} images/s, {(total - done) / speed:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
            last = now
