"""Checkpoints of a training run: the state after some step, from which a killed run goes on as if nothing had been."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax

State = TypeVar("State")


class Checkpoints:
    """The last checkpoints in a folder; each is there as a whole or not at all."""

    def __init__(self, manager: Any) -> None:
        """Use a manager of orbax; see `opened`."""
        self._manager = manager

    def restore(self, state: State) -> tuple[State, int]:
        """The newest state and its step; the state given and 0 where there is none.

        Args:
          state: of the structure, shapes and number formats that were saved.
        """
        from orbax.checkpoint import args

        step = self._manager.latest_step()
        if step is None:
            return state, 0
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
        return self._manager.restore(step, args=args.StandardRestore(shapes)), step

    def save(self, step: int, state: Any) -> None:
        """Write the state after a step, and drop the one before the last."""
        from orbax.checkpoint import args

        self._manager.save(step, args=args.StandardSave(state))


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
