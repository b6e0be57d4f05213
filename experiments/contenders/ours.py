"""This library, as its users run it: what a change of its interfaces touches is here and in `ours_training`."""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments import attack_flags, attack_images, cli, heap, score_images, settings
from experiments.catalog import MODELS
from experiments.contenders import meter, weights
from experiments.contenders.ours_training import training_runner
from experiments.contenders.worker import Runner
from experiments.contenders.workloads import ATTACKS, EPSILON, SCORE_RANGE, STEP_SIZE, TRAINING, Workload, levels
from nriqa_jax import parallel
from nriqa_jax.attacks.objectives import per_range, raise_score
from nriqa_jax.attacks.presets import ifgsm
from nriqa_jax.layers import Dense
from nriqa_jax.models.hyperiqa import hyperiqa
from nriqa_jax.models.model import Model, Variables
from nriqa_jax.models.resnet import ResNet, resnet18, resnet50
from nriqa_jax.types import Scores
from weights_convert import pieces, store
from weights_convert.convert import convert_tensors
from weights_convert.rules import apply_rules, expected_shapes, unflatten

_TRUNKS: Mapping[str, Callable[..., ResNet]] = {"resnet18": resnet18, "resnet50": resnet50}


class ResNetScore(nn.Module):
    """A ResNet trunk, the average of its last features, and a linear layer to one score."""

    trunk: Callable[..., ResNet]

    @nn.compact
    def __call__(self, views: Float[Array, "n _ _ 3"]) -> Scores:
        """One score per view."""
        features = self.trunk(name="res")(views)[-1]
        return Dense(1, name="fc")(jnp.mean(features, axis=(1, 2)))[:, 0]


def build(name: str) -> tuple[Model, Variables]:
    """A model of `workloads.SIZES` with the shared weights."""
    tensors = weights.of_model(name)
    if name in MODELS:
        model = MODELS[name]()
        return model, jax.device_put(unflatten(convert_tensors(tensors, model)[1].arrays))
    # One 224x224 view with the usual normalisation, which HyperIQA has too.
    model = dataclasses.replace(hyperiqa(), name=name, network=ResNetScore(_TRUNKS[name]))
    rules = (*pieces.resnet("res", "res"), *pieces.layer("fc", "fc"))
    return model, jax.device_put(unflatten(apply_rules(rules, tensors, expected_shapes(model)).arrays))


def attack_of(workload: Workload) -> Any:
    """The attack of a task, as the scripts' flags make it."""
    name, steps = ATTACKS[workload.task]
    config = attack_images.Config(model=workload.model, weights="random", images="", out="", attack=name, steps=steps)
    return attack_flags.preset(config)(per_range(raise_score(), 0.0, SCORE_RANGE))


class Ours:
    """The contender."""

    def __init__(self, device: str, precision: str, *, fused: bool | None = None, keep_memory: bool = True) -> None:
        """Set JAX up.

        Args:
          device: auto, cpu or gpu.
          precision: highest, tf32 or bf16.
          fused: the loop kind of `run_attack`.
          keep_memory: as the scripts' flag.

        Raises:
          RuntimeError: when JAX does not find the device.
        """
        cli.set_up_jax(cli.Machine(keep_memory=keep_memory))
        self._cache = tempfile.TemporaryDirectory()  # of this process, so that its first call compiles
        jax.config.update("jax_compilation_cache_dir", self._cache.name)
        if device == "cpu":
            jax.config.update("jax_platforms", "cpu")
        elif device not in ("auto", jax.default_backend()):
            raise RuntimeError(f"JAX finds no {device}, only {jax.default_backend()}")
        self._device, self._fused = jax.devices()[0], fused
        self._precision, self._keep_memory = precision, keep_memory

    def facts(self) -> dict[str, Any]:
        """Device and versions."""
        name = f"{self._device.device_kind} x{jax.local_device_count()}"
        versions = {package: metadata.version(package) for package in ("nriqa_jax", "jax", "jaxlib", "flax")}
        return {"device": jax.default_backend(), "device_name": name, "versions": versions}

    def peak_flops(self) -> float:
        """Rate of matrix products under jit."""
        side, products = (2048, 1) if self._device.platform == "cpu" else (4096, 20)
        dtype = jnp.bfloat16 if self._precision == "bf16" else jnp.float32
        matrix = jax.random.normal(jax.random.key(0), (side, side), dtype)
        multiply = jax.jit(partial(jnp.matmul, precision="tensorfloat32" if self._precision == "tf32" else "highest"))
        return meter.product_rate(lambda: multiply(matrix, matrix), jax.block_until_ready, side, products)

    def count_flops(self, workload: Workload) -> int | None:
        """None: operations are counted where they run one after another."""
        del workload
        return None

    def prepare(self, workload: Workload) -> Runner:
        """See `worker.Contender`."""
        model, variables = build(workload.model)
        if self._keep_memory:
            heap.suit_model(sum(leaf.nbytes for leaf in jax.tree.leaves(variables)))
        if workload.task == "folder":
            return _folder_runner(workload, model, variables)
        if workload.task in TRAINING:
            return training_runner(workload, model, variables, self._precision)
        score = model.score_fn(model.prepare(variables))
        scorers = (score, settings.gradient_fn(model, variables, score, self._precision))
        # As scripts do: a share of the batch on each device.
        replicas = parallel.Replicas(scorers)
        count = parallel.even_share(workload.batch, replicas.devices)
        score_fn, gradient_fn = replicas.on(count)
        keys = jax.random.split(jax.random.key(0), workload.batch)
        images, keys = replicas.rows(count, (levels(workload), keys))
        if workload.task == "step":
            attack = ifgsm(raise_score(), epsilon=EPSILON, step_size=STEP_SIZE)
            return _step_runner(attack, score_fn if gradient_fn is None else gradient_fn, images, keys)
        attack = attack_of(workload)
        run_attack = partial(parallel.run_attack, gradient_fn=gradient_fn, fused=self._fused)
        return lambda: np.asarray(jax.block_until_ready(run_attack(attack, score_fn, images, keys)).scores)

    def reset_peak_memory(self) -> None:
        """On a GPU the peak is that of the process, which serves ever larger batches of one case only."""
        heap.give_back()  # as scripts do after a compilation
        meter.reset_peak_memory()

    def peak_memory(self) -> int | None:
        """Of the process on a CPU, else of the device."""
        statistics = self._device.memory_stats()
        return meter.peak_memory() if not statistics else statistics["peak_bytes_in_use"]


def _step_runner(attack: Any, score_fn: Any, images: Array, keys: Array) -> Runner:
    """The compiled step of a host loop, each on the state that the last one left."""
    state: Any = None

    def run() -> np.ndarray:
        nonlocal state
        if state is None:
            state = parallel.start(attack, score_fn, images, keys)
        state, losses = jax.block_until_ready(parallel.step(attack, score_fn, images, state))
        return -np.asarray(losses)

    return run


def _folder_runner(workload: Workload, model: Model, variables: Variables) -> Runner:
    """The scoring script, from files to its table."""
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / f"{model.name}.safetensors"
    store.save_variables(path, variables, store.describe(model))

    def run() -> np.ndarray:
        with tempfile.TemporaryDirectory(dir=folder.name) as out:
            config = score_images.Config(model=model.name, weights=str(path), images=workload.folder, out=out)
            return np.array(score_images.run(config).numbers("score"))

    return run
