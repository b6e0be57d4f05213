"""Learning universal perturbations from batches of images.

A training is the composition of a generator of changes, from parameters, and an optax rule for these; one pure step
trains any of them: the values of a pattern, or the weights of a network that draws it. Objectives should be in units
of the score range (`objectives.per_range`): the raw gradients of `cumulative` are proportional to them, and Adam adds
its ``eps`` to what it divides by.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from jaxtyping import Array, Float, Key, PyTree

from nriqa_jax.attacks.perturbations import Radius
from nriqa_jax.attacks.universal import Changes, Pattern, tiled
from nriqa_jax.image import straight_through
from nriqa_jax.types import Images, Objective, ScoreFn

Params = PyTree[Array]


@runtime_checkable
class Generator(Protocol):
    """Parameters as changes: one for all images, or one for each. Without a key nothing in it is random."""

    def __call__(self, params: Params, images: Images, key: Key[Array, ""] | None, /) -> Changes:
        """The changes of these images, which smaller ones are repeated to fill."""
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Training:
    """A way to learn changes; everything is pytree data.

    Attributes:
      params: where to start.
      generator: what the parameters mean.
      update_rule: pytree callable that makes the optax transformation.
      project: where the parameters may be.
      show: ``(sums of images and changes) -> images``, what the model sees of them.
    """

    params: Params
    generator: Generator
    update_rule: Callable[[], optax.GradientTransformation]
    project: Callable[[Params], Params]
    show: Callable[[Images], Images]


def optimised(height: int, width: int, *, step_size: float = 1e-3, bound: float = 0.1, start: float = 1e-4) -> Training:
    """The values of a pattern, by Adam (Shumitskaya et al., BMVC 2022).

    Args:
      height: of the pattern.
      width: of the pattern.
      step_size: of Adam.
      bound: largest value of the pattern.
      start: value of the pattern before the first step.
    """
    rule, project = Partial(optax.adam, step_size), Partial(_bounded, bound)
    return Training(jnp.full((height, width, 3), start, jnp.float32), Partial(_itself), rule, project, Partial(clamped))


def cumulative(height: int, width: int, *, step_size: float = 1.0, bound: float = 0.1, start: float = 1e-4) -> Training:
    """The values of a pattern, by their gradient as it is (cumulative UAP, as in the MSU robustness benchmark).

    As published, the model sees pixel values beyond [0, 1] too. Steps are small where scores have a long range.

    Args:
      height: of the pattern.
      width: of the pattern.
      step_size: factor of the gradient.
      bound: largest value of the pattern.
      start: value of the pattern before the first step.
    """
    rule, project = Partial(optax.sgd, step_size), Partial(_bounded, bound)
    return Training(
        jnp.full((height, width, 3), start, jnp.float32), Partial(_itself), rule, project, Partial(_as_they_are)
    )


def generative(
    apply: Partial,
    params: Params,
    noise: Float[Array, "1 rows columns 3"],
    *,
    step_size: float = 1e-3,
    bound: float = 10 / 255,
) -> Training:
    """The weights of a network that draws a pattern from fixed noise, by Adam (generative UAP, same benchmark).

    Args:
      apply: pytree callable ``(params, inputs, key) -> values in [-1, 1]``, random by the key if there is one.
      params: weights to start with.
      noise: input of the network, published uniform in [0, 1]; its size is that of the pattern.
      step_size: of Adam.
      bound: largest value of the pattern.
    """
    generator = Partial(_drawn, apply, bound, noise)
    return Training(params, generator, Partial(optax.adam, step_size), Partial(_anything), Partial(clamped))


def image_conditioned(apply: Partial, params: Params, *, step_size: float = 1e-3, bound: float = 10 / 255) -> Training:
    """The weights of a network that draws a change from each image, by Adam (training for ``facpa``).

    Args:
      apply: as for `generative`.
      params: weights to start with.
      step_size: of Adam.
      bound: largest value of a change.
    """
    generator = Partial(_drawn_from_images, apply, bound)
    return Training(params, generator, Partial(optax.adam, step_size), Partial(_anything), Partial(clamped))


class TrainingState(NamedTuple):
    """What a training carries from batch to batch."""

    params: Params
    rule: optax.OptState
    key: Key[Array, ""]


def start_training(training: Training, key: Key[Array, ""]) -> TrainingState:
    """State before the first batch."""
    params = training.project(training.params)
    return TrainingState(params, training.update_rule().init(params), key)


def train_step(
    training: Training, score_fn: ScoreFn, objective: Objective, state: TrainingState, images: Images
) -> tuple[TrainingState, Float[Array, ""]]:
    """Learn from one batch: the next state, and the mean objective before. Pure."""
    key, own = jax.random.split(state.key)

    def mean_objective(params: Params) -> Float[Array, ""]:
        changes = tiled(training.generator(params, images, own), *images.shape[1:3])
        return jnp.mean(objective(score_fn(training.show(images + changes))))

    loss, grads = jax.value_and_grad(mean_objective)(state.params)
    grads = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0.0), grads)
    updates, rule = training.update_rule().update(grads, state.rule, state.params)
    params = training.project(optax.apply_updates(state.params, updates))
    return TrainingState(params, rule, key), loss


def train(
    training: Training, score_fn: ScoreFn, objective: Objective, state: TrainingState, batches: Iterable[Images]
) -> tuple[TrainingState, Float[np.ndarray, " batches"]]:
    """Learn from batches one after the other; compiles once per shape. Epochs are the caller's.

    Args:
      training: what to learn, and how.
      score_fn: model under attack, a pytree callable.
      objective: what to minimise on average, a pytree callable.
      state: from `start_training`, or of an earlier call.
      batches: images.

    Returns:
      The last state, and the mean objective of each batch before it was learnt from.
    """
    losses = []
    for images in batches:
        state, loss = _train_step(training, _as_pytree(score_fn), _as_pytree(objective), state, images)
        losses.append(loss)
    return state, np.array([float(loss) for loss in losses])


def train_pattern(
    training: Training, score_fn: ScoreFn, objective: Objective, batches: Iterable[Images], key: Key[Array, ""]
) -> tuple[Pattern, Float[np.ndarray, " batches"]]:
    """A pattern learnt from batches, and the mean objective of each; see `train`."""
    state, losses = train(training, score_fn, objective, start_training(training, key), batches)
    return pattern_of(training, state.params), losses


def pattern_of(training: Training, params: Params) -> Pattern:
    """The pattern that parameters mean, with nothing random in it; for trainings of one pattern for all images."""
    return training.generator(params, jnp.zeros((1, 1, 1, 3)), None)[0]


def clamped(sums: Images) -> Images:
    """Values in [0, 1], with the gradient of what they were: pixels that were clipped can come back."""
    return straight_through(jnp.clip(sums, 0.0, 1.0), sums)


def _as_they_are(sums: Images) -> Images:
    return sums


def _itself(params: Pattern, images: Images, key: Key[Array, ""] | None) -> Changes:
    del images, key
    return params[None]


def _drawn(
    apply: Partial, bound: Radius, noise: Array, params: Params, images: Images, key: Key[Array, ""] | None
) -> Changes:
    del images
    return bound * apply(params, noise, key)


def _drawn_from_images(
    apply: Partial, bound: Radius, params: Params, images: Images, key: Key[Array, ""] | None
) -> Changes:
    return bound * apply(params, images, key)


def _bounded(bound: Radius, params: Pattern) -> Pattern:
    return jnp.clip(params, -bound, bound)


def _anything(params: Params) -> Params:
    return params


def _as_pytree(fn: Callable) -> Callable:
    return Partial(fn) if jax.tree_util.treedef_is_leaf(jax.tree.structure(fn)) else fn


_train_step = jax.jit(train_step)
