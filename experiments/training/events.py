"""The rows of a training run as events for TensorBoard, by tensorboardX, an optional package."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from experiments.errors import UserError

FOLDER = "events"


def check_installed() -> None:
    """Refuse to write events without the package.

    Raises:
      UserError: when it is not installed.
    """
    if find_spec("tensorboardX") is None:
        raise UserError("--tensorboard needs the package tensorboardX, which is not installed")


def write_events(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the numbers of all epochs, in place of those that an earlier call wrote.

    Args:
      folder: of the run.
      rows: of its log.
    """
    from tensorboardX import SummaryWriter

    earlier = list((folder / FOLDER).glob("events.out.tfevents.*"))
    with SummaryWriter(str(folder / FOLDER), filename_suffix=f".{len(rows)}") as writer:
        for row in rows:
            for name, value in row.items():
                if name not in ("epoch", "steps") and value is not None:
                    writer.add_scalar(name, value, row["epoch"])
    for path in earlier:
        path.unlink()


def write_nothing(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """What runs do that nobody watches with TensorBoard."""
