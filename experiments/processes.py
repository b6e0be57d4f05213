"""One run on several processes: each computes its share of the images, the first one merges what they found.

All processes must see the folder of the run. A run started by Slurm, Open MPI or on a TPU pod finds its peers by
itself; elsewhere the flags say where the first process listens.
"""

import os
from collections.abc import Mapping, Sequence
from typing import TypeVar

import jax

from experiments.errors import UserError

Item = TypeVar("Item")


def join(coordinator: str, num_processes: int, process_id: int) -> None:
    """Join the other processes of this run, if there are any. Must come before the first use of a device.

    Raises:
      UserError: when only some of the three settings are given.
    """
    given = (bool(coordinator), num_processes > 0, process_id >= 0)
    if coordinator == "auto" or (not any(given) and launched_together(os.environ)):
        jax.distributed.initialize()
    elif all(given):
        if process_id >= num_processes:
            raise UserError(f"--process_id={process_id} must be below --num_processes={num_processes}")
        jax.distributed.initialize(coordinator, num_processes, process_id)
    elif any(given):
        raise UserError("--coordinator=HOST:PORT, --num_processes and --process_id belong together")


def launched_together(environment: Mapping[str, str]) -> bool:
    """Whether a launcher that JAX knows started several processes of this program."""
    slurm = "SLURM_PROCID" in environment and environment.get("SLURM_STEP_NUM_TASKS", "1") != "1"
    mpi = environment.get("OMPI_COMM_WORLD_SIZE", "1") != "1"
    pod = "," in environment.get("TPU_WORKER_HOSTNAMES", "")
    return slurm or mpi or pod


def is_first() -> bool:
    """Whether this process merges and speaks for all."""
    return jax.process_index() == 0


def several() -> bool:
    """Whether there are other processes."""
    return jax.process_count() > 1


def share(items: Sequence[Item]) -> list[Item]:
    """What this process computes: every n-th item."""
    return list(items[jax.process_index() :: jax.process_count()])


def wait_for_all(milestone: str) -> None:
    """Continue when every process is here."""
    if several():
        from jax.experimental import multihost_utils  # imports much that one process does not need

        multihost_utils.sync_global_devices(milestone)
