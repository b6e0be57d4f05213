"""Checkpoints of a training run: the state after some step, from which a killed run goes on as if nothing had been.

Arrays are kept as those of the host, so that a run may go on with other devices.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Checkpoint(NamedTuple):
    """What a run goes on from.

    Attributes:
      state: the arrays.
      step: after which step; 0 before the first one.
      progress: what else is known of the run.
    """

    state: Any
    step: int
    progress: Mapping[str, Any]


class Checkpoints:
    """The last checkpoints in a folder; each is there as a whole or not at all."""

    def __init__(self, manager: Any) -> None:
        """Use a manager of orbax; see `opened`."""
        self._manager = manager

    def restore(self, state: Any) -> Checkpoint:
        """The newest checkpoint; the state given where there is none.

        Args:
          state: of the structure, shapes, number formats and devices that are wanted.
        """
        from orbax.checkpoint import args

        step = self._manager.latest_step()
        if step is None:
            return Checkpoint(state, 0, _NOTHING)
        leaves, structure = jax.tree.flatten(state)
        like = {str(number): np.empty(leaf.shape, leaf.dtype) for number, leaf in enumerate(leaves)}
        wanted = args.Composite(state=args.StandardRestore(like), progress=args.JsonRestore())
        found = self._manager.restore(step, args=wanted)
        placed = [jax.device_put(found.state[str(number)], leaf.sharding) for number, leaf in enumerate(leaves)]
        return Checkpoint(jax.tree.unflatten(structure, placed), step, found.progress)

    def save(self, step: int, state: Any, progress: Mapping[str, Any] = _NOTHING) -> None:
        """Write the state after a step, and drop the one before the last.

        Args:
          step: number of steps taken.
          state: arrays.
          progress: what else is known of the run, as JSON can say it.
        """
        from orbax.checkpoint import args

        leaves = {str(number): np.asarray(leaf) for number, leaf in enumerate(jax.tree.leaves(state))}
        items = args.Composite(state=args.StandardSave(leaves), progress=args.JsonSave(dict(progress)))
        self._manager.save(step, args=items, force=True)


@contextmanager
def opened(folder: Path, keep: int = 2) -> Iterator[Checkpoints]:
    """The checkpoints in a folder, which is made if needed; all are written when this ends.

    Args:
      folder: where they are.
      keep: number of the newest ones that stay.
    """
    import orbax.checkpoint as ocp  # imports much that other scripts do not need

    logging.getLogger("absl").setLevel(logging.WARNING)  # orbax tells of each step of each save
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
    with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
        yield Checkpoints(manager)
