"""The driver: the only place with jit, batching and padding. Functions that it maps stay plain batch functions."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from nriqa_jax.types import AttackResult, Images, Keys, ScoreFn, Scores, StepwiseAttack


class Batch(NamedTuple):
    """Items that are computed together.

    Attributes:
      items: positions in the data set.
      size: number of rows after padding; equal for all batches of one shape, so each shape compiles once.
    """

    items: tuple[int, ...]
    size: int


def plan_batches(shapes: Sequence[Any], batch_size: int) -> list[Batch]:
    """Group items of equal shape into batches of equal size.

    The plan depends on the shapes and their order alone, so an interrupted run that plans again finds the same
    batches. Batches of one shape are as even as possible, to keep padding small.

    Args:
      shapes: hashable shape of each item.
      batch_size: largest number of items in a batch.
    """
    buckets: dict[Any, list[int]] = {}
    for item, shape in enumerate(shapes):
        buckets.setdefault(shape, []).append(item)
    batches = []
    for items in buckets.values():
        count = -(-len(items) // batch_size)
        size = -(-len(items) // count)
        batches += [Batch(tuple(items[start : start + size]), size) for start in range(0, len(items), size)]
    return batches


def call_padded(fn: Callable[..., PyTree], size: int, *arguments: PyTree) -> PyTree:
    """``fn`` of arguments padded to ``size`` rows, cut back to their own number of rows.

    Args:
      fn: maps trees of arrays with the batch axis first to such a tree.
      size: number of rows to compute with.
      arguments: trees of host or device arrays with at most ``size`` rows; the last row is repeated.

    Returns:
      The outputs on the host.
    """
    rows = len(jax.tree.leaves(arguments)[0])
    outputs = fn(*jax.tree.map(partial(_pad_rows, size=size), arguments))
    return jax.tree.map(lambda output: np.asarray(output)[:rows], outputs)


def _pad_rows(rows: np.ndarray | Array, size: int) -> Array:
    missing = size - len(rows)
    return jnp.concatenate([rows, jnp.repeat(rows[-1:], missing, axis=0)]) if missing else jnp.asarray(rows)


def run_score(score_fn: ScoreFn, images: Images) -> Scores:
    """Score a batch in one compiled program per shape."""
    return _score(_as_pytree(score_fn), images)


def run_attack(
    attack: StepwiseAttack, score_fn: ScoreFn, images: Images, keys: Keys, *, fused: bool | None = None
) -> AttackResult:
    """Attack a batch, compiling once per shape and kind of attack.

    Args:
      attack: any attack made of steps; its real-valued settings may change without a new compilation.
      score_fn: model under attack.
      images: clean images.
      keys: one key per image.
      fused: run all steps as one program. By default only on accelerators: loops of convolutions inside one program
        are 2-5 times slower on CPUs than the same steps called one by one. The results agree.
    """
    score_fn = _as_pytree(score_fn)
    if jax.default_backend() != "cpu" if fused is None else fused:
        return _run(attack, score_fn, images, keys)
    state, losses = _init(attack, score_fn, images, keys), []
    for _ in range(attack.steps):
        state, loss = _step(attack, score_fn, images, state)
        losses.append(loss)
    return _finish(attack, score_fn, images, state, jnp.stack(losses))


def _as_pytree(score_fn: ScoreFn) -> ScoreFn:
    """Let plain functions pass through jit as constants, as pytree callables pass as data."""
    is_leaf = jax.tree_util.treedef_is_leaf(jax.tree.structure(score_fn))
    return jax.tree_util.Partial(score_fn) if is_leaf else score_fn


@jax.jit
def _score(score_fn: ScoreFn, images: Images) -> Scores:
    return score_fn(images)


@jax.jit
def _run(attack: StepwiseAttack, score_fn: ScoreFn, images: Images, keys: Keys) -> AttackResult:
    return attack(score_fn, images, keys)


@jax.jit
def _init(attack: StepwiseAttack, score_fn: ScoreFn, images: Images, keys: Keys) -> PyTree:
    return attack.init(score_fn, images, keys)


@partial(jax.jit, donate_argnums=3)
def _step(attack: StepwiseAttack, score_fn: ScoreFn, images: Images, state: PyTree) -> tuple[PyTree, Array]:
    return attack.step(score_fn, images, state)


@jax.jit
def _finish(
    attack: StepwiseAttack, score_fn: ScoreFn, images: Images, state: PyTree, loss_trace: Array
) -> AttackResult:
    return attack.finish(score_fn, images, state, loss_trace)
