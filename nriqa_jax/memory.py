"""What a computation needs in memory, and what to do when that is too much."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from nriqa_jax.types import Attack, Images, ScoreFn, Scores

_PRODUCTS = frozenset({"conv_general_dilated", "dot_general"})


def gradient_bytes(score_fn: ScoreFn, height: int, width: int) -> int:
    """Upper estimate of what scoring one image with a gradient takes: all values of the forward pass together."""
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    return _bytes_of_values(jax.make_jaxpr(score_fn)(image).jaxpr)


def scored_together(attack: Attack, height: int, width: int) -> int:
    """How many images an attack on one image has scored at once: its probes of a step, or its starts.

    Args:
      attack: any attack; only its program is looked at.
      height: of the image.
      width: of the image.
    """

    def stand_in(images: Images) -> Scores:
        return jnp.mean(images, axis=(1, 2, 3))

    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    program = jax.make_jaxpr(lambda *batch: attack(jax.jit(stand_in), *batch).images)(image, keys).jaxpr
    scored = [equation for equation in equations(program) if equation.params.get("name") == stand_in.__name__]
    return max((equation.invars[0].aval.size // image.size for equation in scored), default=1)


def _bytes_of_values(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        inner = _inner_programs(equation)
        if inner:
            total += sum(_bytes_of_values(sub) for sub in inner)
        else:
            total += sum(var.aval.size * var.aval.dtype.itemsize for var in equation.outvars)
    return total


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a program, those of the programs that it calls included."""
    for equation in jaxpr.eqns:
        yield equation
        for program in _inner_programs(equation):
            yield from equations(program)


def _inner_programs(equation: Any) -> list[Any]:
    """The programs that an equation calls, such as the body of a loop."""
    found = [getattr(value, "jaxpr", value) for value in jax.tree.leaves(list(equation.params.values()))]
    return [program for program in found if hasattr(program, "eqns")]


def rematerialize(score_fn: jax.tree_util.Partial) -> jax.tree_util.Partial:
    """The same function with less memory for its gradient: of the forward pass, only products are kept."""

    def is_product(primitive: Any, *_: Any, **__: Any) -> bool:
        return primitive.name in _PRODUCTS

    return jax.tree_util.Partial(jax.checkpoint(score_fn.func, policy=is_product), *score_fn.args, **score_fn.keywords)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a computation failed because its batch was too large for the device or the host."""
    exhausted = isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    return exhausted or isinstance(error, MemoryError)
