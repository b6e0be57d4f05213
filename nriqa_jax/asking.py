"""Functions of a model, run as programs that the model is not part of.

A step of an attack is little besides the model. With the model inside, every pair of attack, model and purifier is a
program of its own, and on CPUs a few steps take less time than its compilation. Here a function is traced with a
stand-in for the model: its program stops where it asks for scores, a program of the model answers, and a second program
of the function goes on, from the start but with the answers so far. So a model compiles once for all attacks, and an
attack once for all models.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching
from jaxtyping import Array, PyTree

from nriqa_jax.memory import equations
from nriqa_jax.types import Images, Keys, ScoreFn, Scores, drawn

_Answer = tuple[Array, ...]  # scores and, where they are differentiated, the gradient of each


def run(fn: Callable[..., PyTree], score_fn: ScoreFn, *arguments: PyTree) -> PyTree:
    """A function of a model and arrays, in programs of its own and of the model.

    Where it asks inside a loop, or differentiates the model twice, it is one program together with the model.

    Args:
      fn: ``(score_fn, *arguments) -> tree``, a function of a module: programs are kept by it.
      score_fn: the model, as a tree of its weights.
      arguments: trees of arrays.
    """
    answers: tuple[_Answer, ...] = ()
    while isinstance(found := _advance(fn, answers, arguments), _Question):
        answers += (_answer(score_fn, found),)
    return _together(fn, score_fn, arguments) if isinstance(found, _Inseparable) else found


def score(score_fn: ScoreFn, images: Images) -> Scores:
    """Scores of a batch, by the program that answers functions."""
    return _answer(score_fn, _Question(images, None, False))[0]


@partial(jax.tree_util.register_dataclass, data_fields=("images", "keys"), meta_fields=("gradients",))
@dataclasses.dataclass(frozen=True)
class _Question:
    """Images to score; not typed as such, since JAX also puts descriptions of arrays in their place."""

    images: Any
    keys: Any | None  # of the draws
    gradients: bool


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Inseparable:
    """What is found instead of a question where the model has to be part of the program."""


class _AskedTwiceError(Exception):
    """A second derivative of the model is wanted."""


@partial(jax.jit, static_argnums=0)
def _advance(fn: Callable[..., PyTree], answers: Sequence[_Answer], arguments: PyTree) -> PyTree:
    """The next question of a function or, after the last one, what it returns."""
    leaves, tree = jax.tree.flatten(arguments)
    trace = jax.make_jaxpr(lambda *leaves: fn(_StandIn(), *jax.tree.unflatten(tree, leaves)), return_shape=True)
    try:
        program, shape = trace(*leaves)
    except _AskedTwiceError:
        return _Inseparable()
    questions = [equation for equation in program.eqns if equation.primitive is _scores_of]
    if len(questions) < sum(equation.primitive is _scores_of for equation in equations(program.jaxpr)):
        return _Inseparable()
    proceed = partial(_proceed, program, questions[: len(answers)], [*leaves, *jax.tree.leaves(answers)])
    if len(answers) == len(questions):
        return jax.tree.unflatten(jax.tree.structure(shape), proceed(None))
    (images, *data), params = proceed(questions[len(answers)]), questions[len(answers)].params
    keys = jax.random.wrap_key_data(*data, impl=params["impl"]) if data else None
    return _Question(images, keys, params["gradients"])


def _proceed(program: ClosedJaxpr, answered: Sequence[Any], inputs: Sequence[Any], end: Any | None) -> list[Any]:
    """The inputs of an equation of a program, or what the whole of it returns, from its inputs and known results."""
    whole = program.jaxpr
    before = whole.eqns if end is None else whole.eqns[: whole.eqns.index(end)]
    part = whole.replace(
        invars=[*whole.invars, *(variable for equation in answered for variable in equation.outvars)],
        outvars=whole.outvars if end is None else end.invars,
        eqns=[equation for equation in before if equation not in answered],
        debug_info=whole.debug_info.with_unknown_names(),
    )
    return jaxpr_as_fun(ClosedJaxpr(part, program.consts))(*inputs)


@jax.jit
def _answer(score_fn: ScoreFn, question: _Question) -> _Answer:
    images, fn = question.images, score_fn if question.keys is None else drawn(score_fn, question.keys)
    if not question.gradients:
        return (fn(images).astype(images.dtype),)
    scores, pull_back = jax.vjp(fn, images)
    return scores.astype(images.dtype), *pull_back(jnp.ones_like(scores))


@partial(jax.jit, static_argnums=0)
def _together(fn: Callable[..., PyTree], score_fn: ScoreFn, arguments: PyTree) -> PyTree:
    return fn(score_fn, *arguments)


class _StandIn:
    """A model in a program that is only traced: each call is one equation."""

    def __init__(self, keys: Keys | None = None) -> None:
        self._keys = keys

    def __call__(self, images: Images) -> Scores:
        if self._keys is None:
            return _scores_of.bind(images, impl=None, gradients=False)[0]
        data, impl = jax.random.key_data(self._keys), jax.random.key_impl(self._keys)
        return _scores_of.bind(images, data, impl=impl, gradients=False)[0]

    def drawn(self, keys: Keys) -> "_StandIn":
        return _StandIn(keys)


_scores_of = Primitive("scores_of")
_scores_of.multiple_results = True


@_scores_of.def_abstract_eval
def _shapes(images: Any, *keys: Any, impl: Any, gradients: bool) -> tuple[Any, ...]:
    del keys, impl
    scores = images.update(shape=images.shape[:1])
    return (scores, images) if gradients else (scores,)


def _differentiate(primals: Any, tangents: Any, *, impl: Any, gradients: bool) -> tuple[Any, Any]:
    """Scores change with their own images alone, so one gradient each is all there is to know."""
    if gradients:
        raise _AskedTwiceError
    scores, slopes = _scores_of.bind(*primals, impl=impl, gradients=True)
    return [scores], [jnp.sum(slopes * tangents[0], axis=(1, 2, 3))]


def _batch(
    values: Sequence[Any], axes: Sequence[int | None], *, impl: Any, gradients: bool
) -> tuple[list[Array], list[int]]:
    """Several batches at once are one large batch: all of an image side by side, so that it stays on its device."""
    count = next(value.shape[axis] for value, axis in zip(values, axes) if axis is not None)
    stacked = [
        jnp.broadcast_to(value, (count, *value.shape)) if axis is None else jnp.moveaxis(value, axis, 0)
        for value, axis in zip(values, axes)
    ]
    owners = stacked[-1].shape[1]  # each may have several images in a row
    found = _scores_of.bind(*(_merged(value, owners) for value in stacked), impl=impl, gradients=gradients)
    return [_split(value, owners, count) for value in found], [0] * len(found)


def _merged(value: Array, owners: int) -> Array:
    """From ``[batches, owners * images, ...]`` to ``[owners * batches * images, ...]``."""
    by_owner = value.reshape(value.shape[0], owners, -1, *value.shape[2:])
    return jnp.swapaxes(by_owner, 0, 1).reshape(-1, *value.shape[2:])


def _split(value: Array, owners: int, batches: int) -> Array:
    by_owner = value.reshape(owners, batches, -1, *value.shape[1:])
    return jnp.swapaxes(by_owner, 0, 1).reshape(batches, -1, *value.shape[1:])


ad.primitive_jvps[_scores_of] = _differentiate
batching.primitive_batchers[_scores_of] = _batch
