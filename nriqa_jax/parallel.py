"""The driver: the only place with jit, devices, batching and padding. What it maps stays plain batch functions.

Images are spread over the devices of one process along one axis. Every device runs the same program on units of the
same size (`nriqa_jax.units`), so results are the same to the last bit on one device and on many.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array, PyTree

from nriqa_jax import asking
from nriqa_jax.types import AttackResult, CompositeAttack, Images, Keys, Runner, ScoreFn, Scores, StepwiseAttack


class Replicas:
    """A score function, or any tree of weights, on every device of this process that works on a group.

    Each device has a copy of its own; the CPU devices of a process share one.
    """

    def __init__(self, tree: PyTree, devices: Sequence[jax.Device] | None = None) -> None:
        """Use some devices; by default all of this process."""
        self.devices = list(devices or jax.local_devices())
        self._tree = tree
        self._copies: dict[int, PyTree] = {}

    def on(self, count: int) -> PyTree:
        """The tree on the first ``count`` devices."""
        if count not in self._copies:
            tree = jax.tree.map(_to_share, self._tree)
            self._copies[count] = jax.device_put(tree, self._sharding(count, PartitionSpec()), may_alias=True)
        return self._copies[count]

    def rows(self, count: int, tree: PyTree) -> PyTree:
        """Host or device arrays with ``count`` equal shares of rows, a share on each of the first devices."""
        return jax.device_put(tree, self._sharding(count, PartitionSpec("images")))

    def _sharding(self, count: int, spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(Mesh(np.array(self.devices[:count]), ("images",)), spec)


def _to_share(leaf: Any) -> Any:
    """What lies in the memory of CPUs as a host array, of which all of them use one copy."""
    on_cpus = isinstance(leaf, jax.Array) and all(device.platform == "cpu" for device in leaf.devices())
    shareable = on_cpus and leaf.is_fully_addressable and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(leaf) if shareable else leaf


def even_share(rows: int, devices: Sequence[jax.Device]) -> int:
    """On how many of some devices a number of rows can be spread evenly."""
    return max(count for count in range(1, len(devices) + 1) if rows % count == 0)


def call(fn: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
    """A function of arrays, compiled once per shape; give weights as data, in a ``jax.tree_util.Partial``."""
    return _call(_as_pytree(fn), *arguments)


def score(score_fn: ScoreFn, images: Images) -> Scores:
    """Scores of a batch, by the program that answers attacks."""
    return asking.score(_as_pytree(score_fn), images)


def run_attack(
    attack: StepwiseAttack | CompositeAttack,
    score_fn: ScoreFn,
    images: Images,
    keys: Keys,
    *,
    gradient_fn: ScoreFn | None = None,
    fused: bool | None = None,
) -> AttackResult:
    """Attack a batch, compiling once per shape and kind of attack; the model, step by step, once per shape.

    Args:
      attack: any attack made of steps; its real-valued settings may change without a new compilation. Or one made of
        such attacks.
      score_fn: model under attack, which gives the reported scores.
      images: clean images.
      keys: one key per image.
      gradient_fn: the same model as it is differentiated, where that is in lower precision.
      fused: run all steps as one program. By default only on accelerators: loops of convolutions inside one program
        are 2-5 times slower on CPUs than the same steps called one by one. The results agree.
    """
    score_fn = _as_pytree(score_fn)
    gradient_fn = score_fn if gradient_fn is None else _as_pytree(gradient_fn)
    if isinstance(attack, CompositeAttack):
        run_part = partial(run_attack, gradient_fn=gradient_fn, fused=fused)
        return attack.run_with(Runner(run_part, call), score_fn, images, keys)
    state = start(attack, gradient_fn, images, keys)
    if jax.default_backend() != "cpu" if fused is None else fused:
        state, losses = _steps(attack, gradient_fn, images, state)
    else:
        trace: list[Array] = []
        for _ in range(attack.steps):
            state, loss = step(attack, gradient_fn, images, state)
            trace.append(loss)
        losses = _stack(trace) if trace else jnp.zeros((0, len(images)))
    return finish(attack, score_fn, images, state, losses)


def start(attack: StepwiseAttack, score_fn: ScoreFn, images: Images, keys: Keys) -> PyTree:
    """The compiled start of an attack, for loops of your own."""
    return asking.run(_start, _as_pytree(score_fn), attack, images, keys, _Layout.of(images))


def step(attack: StepwiseAttack, score_fn: ScoreFn, images: Images, state: PyTree) -> tuple[PyTree, Array]:
    """One compiled step: the next state and the losses before it."""
    return asking.run(_step, _as_pytree(score_fn), attack, images, state, _Layout.of(images))


def finish(attack: StepwiseAttack, score_fn: ScoreFn, images: Images, state: PyTree, loss_trace: Array) -> AttackResult:
    """The compiled end of an attack."""
    return asking.run(_finish, _as_pytree(score_fn), attack, images, state, loss_trace)


def gather(rows: np.ndarray) -> np.ndarray:
    """The rows of all processes, in order of process, on every process; for quantities that need the whole set.

    Args:
      rows: numbers with any count of rows; the counts may differ between processes.
    """
    if jax.process_count() == 1:
        return rows
    from jax.experimental import multihost_utils  # imports much that one process does not need

    counts = np.ravel(multihost_utils.process_allgather(np.array([len(rows)])))
    padded = np.zeros((max(counts), *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    everything = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(counts), *padded.shape)
    return np.concatenate([part[:count] for part, count in zip(everything, counts)])


def _as_pytree(fn: Any) -> Any:
    """Let plain functions pass through jit as constants, as pytree callables pass as data."""
    is_leaf = jax.tree_util.treedef_is_leaf(jax.tree.structure(fn))
    return jax.tree_util.Partial(fn) if is_leaf else fn


@jax.jit
def _call(fn: Any, *arguments: PyTree) -> PyTree:
    return fn(*arguments)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Layout:
    """How a batch of images lies on devices."""

    rows: int
    sharding: Sharding

    @classmethod
    def of(cls, images: Images) -> "_Layout":
        return cls(len(images), images.sharding)

    def spread(self, state: PyTree) -> PyTree:
        """Lay a state out as the images are, so that steps find it as the start left it and compile once."""
        if not isinstance(self.sharding, NamedSharding):
            return state
        return jax.tree.map(partial(_placed, self.rows, self.sharding.mesh), state)


def _placed(rows: int, mesh: Any, leaf: Array) -> Array:
    axes = [axis for axis in (0, 1) if leaf.shape[axis : axis + 1] == (rows,)]  # axis 0 may be restarts
    if len(axes) != 1:
        return leaf
    spec = PartitionSpec(*(None,) * axes[0], "images")
    return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))


def _start(score_fn: ScoreFn, attack: StepwiseAttack, images: Images, keys: Keys, layout: _Layout) -> PyTree:
    return layout.spread(attack.init(score_fn, images, keys))


def _step(
    score_fn: ScoreFn, attack: StepwiseAttack, images: Images, state: PyTree, layout: _Layout
) -> tuple[PyTree, Array]:
    state, losses = attack.step(score_fn, images, state)
    return layout.spread(state), losses


def _finish(
    score_fn: ScoreFn, attack: StepwiseAttack, images: Images, state: PyTree, loss_trace: Array
) -> AttackResult:
    return attack.finish(score_fn, images, state, loss_trace)


@partial(jax.jit, donate_argnums=3)
def _steps(attack: StepwiseAttack, score_fn: ScoreFn, images: Images, state: PyTree) -> tuple[PyTree, Array]:
    def step(state: PyTree, _: None) -> tuple[PyTree, Array]:
        return attack.step(score_fn, images, state)

    return jax.lax.scan(step, state, None, length=attack.steps)


@jax.jit
def _stack(trace: list[Array]) -> Array:
    return jnp.stack(trace)
