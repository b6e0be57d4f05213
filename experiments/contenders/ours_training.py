"""Steps of training by this library, as its users run them: data-parallel on accelerators, compiled once."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jax.tree_util import Partial

from experiments import cli
from experiments.contenders.worker import Runner
from experiments.contenders.workloads import (
    LEARNING_RATE,
    PENALTY_STEP,
    PENALTY_WEIGHT,
    TRAINING,
    WEIGHT_DECAY,
    Workload,
    labels,
    levels,
)
from nriqa_jax import parallel
from nriqa_jax.defenses.losses import l1
from nriqa_jax.defenses.optimisers import adam
from nriqa_jax.defenses.training import METHODS, Batch, GradientPenalty, Recipe, init_state, train_step
from nriqa_jax.models.model import Model, Variables


def recipe_of(task: str, dtype: Any = None) -> Recipe:
    """The recipe of a task."""
    method = TRAINING[task]
    penalty = GradientPenalty(weight=PENALTY_WEIGHT, step=PENALTY_STEP, method=METHODS[method]) if method else None
    return Recipe(Partial(l1), Partial(adam, LEARNING_RATE, WEIGHT_DECAY), penalty, dtype=dtype)


def training_runner(workload: Workload, model: Model, variables: Variables, precision: str) -> Runner:
    """Steps on one batch, each from the state that the last one left; they give the loss."""
    recipe = recipe_of(workload.task, jnp.bfloat16 if precision == "bf16" else None)
    replicas = parallel.Replicas((), cli.training_devices(cli.Machine()))
    count = parallel.even_share(workload.batch, replicas.devices)
    keys = jax.random.split(jax.random.key(0), workload.batch)
    batch, keys = replicas.rows(count, (Batch(*map(jnp.asarray, (levels(workload), labels(workload)))), keys))
    everywhere = NamedSharding(batch.images.sharding.mesh, PartitionSpec())
    state = jax.device_put(init_state(recipe, variables), everywhere)
    step = jax.jit(partial(train_step, model), donate_argnums=1, out_shardings=everywhere)

    def run() -> np.ndarray:
        nonlocal state
        with jax.default_matmul_precision("tensorfloat32" if precision == "tf32" else "highest"):
            state, metrics = jax.block_until_ready(step(recipe, state, batch, keys))
        return np.asarray(metrics["loss"])

    return run
