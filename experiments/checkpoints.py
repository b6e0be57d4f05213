"""Checkpoints of a training run, by orbax: enough to go on as if nothing had happened, on any number of devices."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

_STATE, _PROGRESS = "state", "progress"


class Checkpoints:
    """The newest checkpoint of a run, replaced as a whole; the one before it stays until then.

    To be used in a ``with`` statement, or closed.
    """

    def __init__(self, folder: Path) -> None:
        """Open the folder of checkpoints, or make it."""
        logging.getLogger("absl").setLevel(logging.WARNING)  # orbax tells of each step of each save
        options = ocp.CheckpointManagerOptions(max_to_keep=1, create=True, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, step: int, state: PyTree, progress: Mapping[str, Any]) -> None:
        """Save a state, as host arrays, and what JSON can say of the run so far."""
        leaves = {str(number): np.asarray(leaf) for number, leaf in enumerate(jax.tree.leaves(state))}
        items = {_STATE: ocp.args.StandardSave(leaves), _PROGRESS: ocp.args.JsonSave(dict(progress))}
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def restore(self, like: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
        """The newest state and its progress; None where there is none.

        Args:
          like: a state of the same form.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        leaves, structure = jax.tree.flatten(like)
        empty = {str(number): np.empty(leaf.shape, leaf.dtype) for number, leaf in enumerate(leaves)}
        items = {_STATE: ocp.args.StandardRestore(empty), _PROGRESS: ocp.args.JsonRestore()}
        found = self._manager.restore(step, args=ocp.args.Composite(**items))
        state = jax.tree.unflatten(structure, [found[_STATE][str(number)] for number in range(len(leaves))])
        return state, found[_PROGRESS]

    def close(self) -> None:
        """Let go of the folder."""
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
