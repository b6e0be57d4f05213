"""Gradient-norm regularisation (NT; Liu, Yang, Li, Ding and Jiang, CVPR 2024, arXiv 2403.11397).

To first order, changes of at most epsilon move a score by at most epsilon times the l1 norm of its gradient; the
penalty is half the square of that norm. Every way to compute it is a `Method`: it takes the one forward pass that the
training loss needs anyway, so a step with a penalty costs little more than twice a plain one.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from nriqa_jax.types import Scores

Inputs = Float[Array, "batch *shape"]
Direction = Callable[[Inputs], Inputs]
Real = float | Float[Array, ""]


class Passes(NamedTuple):
    """A score function as a training step sees it.

    Attributes:
      alone: ``inputs -> (scores, carry)``, the only pass of a step without a penalty.
      first: the same, to be differentiated by its inputs; ``carry`` is what further passes need of it.
      further: ``(inputs, carry) -> (scores, carry)``, another pass with the same weights and statistics.
    """

    alone: Callable[[Inputs], tuple[Scores, PyTree]]
    first: Callable[[Inputs], tuple[Scores, PyTree]]
    further: Callable[[Inputs, PyTree], tuple[Scores, PyTree]]


class Slopes(NamedTuple):
    """What a `Method` gives.

    Attributes:
      scores: of the clean batch, differentiable like the rest.
      slopes: of each score in the direction of its own gradient's dual: the norm of that gradient, or an estimate.
      carry: that of the last pass.
    """

    scores: Scores
    slopes: Scores
    carry: PyTree


Method = Callable[[Passes, Inputs, Direction, Real], Slopes]


def gradient_norm_penalty(
    score_fn: Callable[[Inputs], Scores],
    images: Inputs,
    *,
    norm: float = 1,
    method: str = "finite_difference",
    step: Real = 1e-2,
    squared: bool = True,
) -> Float[Array, ""]:
    """Half the mean squared norm of the gradients of scores with respect to images; differentiable by weights.

    Let ``g`` be the gradient of one score, and ``v`` the direction in which its norm is attained: ``sign(g)`` for the
    l1 norm. No gradient flows through ``v``. The methods estimate ``v.g``, which is the norm of ``g``:

    - "finite_difference" (as published): ``(f(x + h v) - f(x)) / h``; weights get gradients through both passes.
    - "central_difference": ``(f(x + h v) - f(x - h v)) / (2 h)``, with an error of order h^2 for smooth networks.
    - "jvp": the directional derivative, by forward mode. Equal to "double_backprop" in value and in gradient.
    - "double_backprop": ``v.g`` with ``g`` from reverse mode, differentiated once more.

    For smooth networks all agree as h goes to 0. **For ReLU networks they are two different objectives**: the finite
    difference converges to the norm, but its gradient by the weights does not converge to that of the norm, because
    each kink between ``x`` and ``x + h v`` contributes 1/h, which derivatives never see. On a ResNet-18 the cosine
    between the two gradients is 0.24 at h = 1e-2 and 0.04 at 1e-4. Report which one a model was trained with.

    Args:
      score_fn: scores of images, each of its own image alone: batch norm must use fixed statistics. If it does not,
        the result is not the norm of the gradient (1.7 times as much, in one small network).
      images: batch of inputs, in any unit; published: images normalised by mean and standard deviation, of which the
        step 0.01 is about 0.57/255 of the pixel range.
      norm: 1 (against changes bounded in every pixel), 2 (in their Euclidean norm) or ``math.inf`` (in their sum).
        TULIP's l1 penalty is the published one divided by the number of values of an image.
      method: key of `METHODS`.
      step: h of the finite differences, in units of the images; below 1e-4 rounding takes over in float32.
      squared: whether to return half the mean square, as published, or the mean norm itself.

    Raises:
      ValueError: for an unknown method or norm.
    """
    if method not in METHODS:
        raise ValueError(f"there is no method '{method}' for the gradient norm; give one of {', '.join(METHODS)}")
    slopes = METHODS[method](passes_of(score_fn), images, direction(norm), step).slopes
    return mean_penalty(slopes, squared=squared)


def gradient_norms(score_fn: Callable[[Inputs], Scores], images: Inputs, *, norm: float = 1) -> Scores:
    """Norm of the gradient of each score with respect to its own image; see `gradient_norm_penalty`."""
    return double_backprop(passes_of(score_fn), images, direction(norm), 0.0).slopes


def mean_penalty(slopes: Scores, *, squared: bool = True) -> Float[Array, ""]:
    """Half the mean square of slopes, or the mean of their absolute values."""
    return 0.5 * jnp.mean(slopes**2) if squared else jnp.mean(jnp.abs(slopes))


def passes_of(score_fn: Callable[[Inputs], Scores]) -> Passes:
    """The passes of a function that needs to remember nothing."""

    def first(inputs: Inputs) -> tuple[Scores, None]:
        return score_fn(inputs), None

    return Passes(first, first, lambda inputs, carry: (score_fn(inputs), carry))


def finite_difference(passes: Passes, inputs: Inputs, dual: Direction, step: Real) -> Slopes:
    """One-sided difference, as published; one further pass."""
    scores, _, v, carry = _linearised(passes, inputs, dual)
    ahead, carry = passes.further(inputs + step * v, carry)
    return Slopes(scores, (ahead - scores) / step, carry)


def central_difference(passes: Passes, inputs: Inputs, dual: Direction, step: Real) -> Slopes:
    """Difference of two further passes."""
    scores, _, v, carry = _linearised(passes, inputs, dual)
    ahead, carry = passes.further(inputs + step * v, carry)
    behind, carry = passes.further(inputs - step * v, carry)
    return Slopes(scores, (ahead - behind) / (2.0 * step), carry)


def directional_derivative(passes: Passes, inputs: Inputs, dual: Direction, step: Real) -> Slopes:
    """Forward mode along the detached direction; no step."""
    del step
    scores, derivative, v, carry = _linearised(passes, inputs, dual)
    return Slopes(scores, derivative(v), carry)


def double_backprop(passes: Passes, inputs: Inputs, dual: Direction, step: Real) -> Slopes:
    """Reverse mode over reverse mode (Drucker and LeCun, 1992); no step."""
    del step
    scores, derivative, carry = jax.linearize(passes.first, inputs, has_aux=True)
    gradient = _pulled_back(derivative, inputs, scores)
    v = dual(jax.lax.stop_gradient(gradient))
    return Slopes(scores, jnp.sum(v * gradient, axis=tuple(range(1, inputs.ndim))), carry)


METHODS: Mapping[str, Method] = {
    "finite_difference": finite_difference,
    "central_difference": central_difference,
    "jvp": directional_derivative,
    "double_backprop": double_backprop,
}


def direction(norm: float) -> Direction:
    """From gradients to the directions in which a norm of theirs is attained.

    Raises:
      ValueError: for a norm other than 1, 2 and infinity.
    """
    if norm not in _DUALS:
        raise ValueError(f"the norm of a gradient is 1, 2 or inf, not {norm}")
    return _DUALS[norm]


def _unit(gradient: Inputs) -> Inputs:
    axes = tuple(range(1, gradient.ndim))
    norm = jnp.sqrt(jnp.sum(gradient**2, axes, keepdims=True))
    return gradient / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)


def _peak(gradient: Inputs) -> Inputs:
    """The sign of the largest entry, and 0 elsewhere."""
    flat = gradient.reshape(len(gradient), -1)
    places = jax.nn.one_hot(jnp.argmax(jnp.abs(flat), axis=1), flat.shape[1], dtype=flat.dtype)
    return (places * jnp.sign(flat)).reshape(gradient.shape)


_DUALS: Mapping[float, Direction] = {1: jnp.sign, 2: _unit, math.inf: _peak}


def _linearised(
    passes: Passes, inputs: Inputs, dual: Direction
) -> tuple[Scores, Callable[[Inputs], Scores], Inputs, PyTree]:
    """Scores, the derivative as a function of a direction, the detached dual of the gradient, and the carry."""
    scores, derivative, carry = jax.linearize(passes.first, inputs, has_aux=True)
    v = dual(jax.lax.stop_gradient(_pulled_back(derivative, inputs, scores)))
    return scores, derivative, v, carry


def _pulled_back(derivative: Callable[[Inputs], Scores], inputs: Inputs, scores: Scores) -> Inputs:
    """The gradient of each score, from the derivative of all."""
    (gradient,) = jax.linear_transpose(derivative, inputs)(jnp.ones_like(scores))
    return gradient
