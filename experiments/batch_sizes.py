"""How many images of each size are computed together: as the user says, or as memory allows."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import jax

from experiments import processes
from experiments.ledger import write_json
from nriqa_jax.memory import gradient_bytes, scored_together
from nriqa_jax.types import Attack, ScoreFn

Size = tuple[int, int]

_SHARE_OF_MEMORY = 0.6  # the estimate leaves out what libraries keep for themselves
_MOST_ON_CPU, _MOST_ON_ACCELERATORS = 16, 256  # larger batches are no faster


class BatchSizes:
    """Largest batch on one device, by height and width of the images; kept in a file, so that a run can continue."""

    def __init__(self, path: Path, default: Callable[[Size], int]) -> None:
        """Continue with the sizes in a file, and with ``default`` for the others."""
        self._path, self._default = path, default
        self._settled = self._read()

    def settle(self, sizes: Iterable[Size]) -> None:
        """Decide for all sizes of a run; the first process decides for the others."""
        if processes.is_first():
            for size in sizes:
                self.of(size)
            self.save()
        processes.wait_for_all("batch sizes are settled")
        self._settled = self._read()

    def of(self, size: Size) -> int:
        """Batch size for images of a height and width."""
        return self._settled.setdefault(size, self._default(size))

    def halve(self, size: Size, failed: int) -> None:
        """Settle on half of a batch size that took too much memory."""
        self._settled[size] = -(-failed // 2)
        self.save()

    def _read(self) -> dict[Size, int]:
        saved = json.loads(self._path.read_text()) if self._path.exists() else {}
        return {_parse(text): int(value) for text, value in saved.items()}

    def save(self) -> None:
        """Write the sizes."""
        write_json(self._path, {f"{h}x{w}": n for (h, w), n in sorted(self._settled.items())})

    def describe(self) -> str:
        """One clause for people."""
        sizes = sorted(set(self._settled.values()))
        return f"batch size {sizes[0]}" + (f" to {sizes[-1]}, by image size" if len(sizes) > 1 else "")


def _parse(text: str) -> Size:
    height, width = text.split("x")
    return int(height), int(width)


def fixed(batch_size: int) -> Callable[[Size], int]:
    """The same batch size for all images."""
    return lambda size: batch_size


def automatic(score_fn: ScoreFn, largest: Size, devices: int, attack: Attack | None = None) -> Callable[[Size], int]:
    """Batch sizes for which memory should suffice, gradients included.

    Args:
      score_fn: the model.
      largest: size of the largest image, for which the need of memory is estimated; others are scaled by area.
      devices: number of devices in use.
      attack: what is done with the images, where that is more than scoring each.
    """
    together = scored_together(attack, *largest) if attack else 1
    per_pixel = together * gradient_bytes(score_fn, *largest) / (largest[0] * largest[1])
    share = _SHARE_OF_MEMORY * _free_memory(devices)
    most = _MOST_ON_CPU if jax.default_backend() == "cpu" else _MOST_ON_ACCELERATORS
    return lambda size: max(1, min(most // together, int(share / (per_pixel * size[0] * size[1]))))


def _free_memory(devices: int) -> float:
    """Bytes for each device; CPU devices share the memory of the machine."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
    return _available_memory() / devices


def _available_memory() -> float:
    """Bytes that the machine can give without swapping; half of all where it does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * float(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
