"""The inner maximisation of adversarial training: images in a small ball that a loss is high for.

Small and self-contained, because it becomes part of a training step; attacks for evaluation are in
``nriqa_jax.attacks``. Real-valued settings are data of a compiled step.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from nriqa_jax.types import Images, Keys, ScoreFn, Scores

Labels = Float[Array, "batch *levels"]
LossFn = Callable[[Array, Array], Float[Array, ""]]
Real = float | Float[Array, ""]
Objective = Callable[[LossFn, Scores, Scores, Labels], Float[Array, ""]]


class Batch(NamedTuple):
    """Images and what is known of their quality.

    Attributes:
      images: in [0, 1].
      labels: opinion scores, or what else the loss compares scores with, a row for each image.
    """

    images: Images
    labels: Labels


def raise_loss(loss: LossFn, scores: Scores, clean: Scores, labels: Labels) -> Float[Array, ""]:
    """Objective of adversarial training: the training loss."""
    del clean
    return loss(scores, labels)


def raise_scores(loss: LossFn, scores: Scores, clean: Scores, labels: Labels) -> Float[Array, ""]:
    """Objective: higher scores."""
    return jnp.sum(scores)


def lower_scores(loss: LossFn, scores: Scores, clean: Scores, labels: Labels) -> Float[Array, ""]:
    """Objective: lower scores."""
    return -jnp.sum(scores)


def move_scores(loss: LossFn, scores: Scores, clean: Scores, labels: Labels) -> Float[Array, ""]:
    """Objective: scores far from the clean ones, up or down; without gradient at the clean images themselves."""
    return jnp.sum((scores - clean) ** 2)


BOTH_WAYS: tuple[Objective, ...] = (Partial(raise_scores), Partial(lower_scores))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Adversary:
    """Signed gradient ascent in an L-infinity ball, from a random start (PGD, Madry et al., ICLR 2018).

    Attributes:
      epsilon: radius of the ball, in units of the pixel range [0, 1].
      step_size: of each step, in the same unit.
      steps: number of gradient steps.
      start: radius of the uniform noise that it starts from.
      objectives: what to maximise, each ``(loss, scores, clean scores, labels) -> number``. Of several, each image
        keeps the outcome that moves its score most.
      ball_around_start: a quirk of the public adversarial training of LinearityIQA: the ball is that around the noisy
        start, so that changes reach ``start + epsilon``.
      unroll: compile the steps one after another, which CPUs run several times faster than a loop.
    """

    epsilon: Real
    step_size: Real
    steps: int = dataclasses.field(default=1, metadata={"static": True})
    start: Real = 0.0
    objectives: tuple[Objective, ...] = (Partial(raise_loss),)
    ball_around_start: bool = dataclasses.field(default=False, metadata={"static": True})
    unroll: bool = dataclasses.field(default=True, metadata={"static": True})

    def __call__(self, score_fn: ScoreFn, loss: LossFn, batch: Batch, keys: Keys) -> Images:
        """Adversarial images."""
        clean = score_fn(batch.images)
        found = [self._ascend(score_fn, objective, loss, batch, clean, keys) for objective in self.objectives]
        if len(found) == 1:
            return found[0]
        changes = jnp.stack([jnp.abs(score_fn(images) - clean) for images in found])
        return jnp.take_along_axis(jnp.stack(found), jnp.argmax(changes, 0)[None, :, None, None, None], axis=0)[0]

    def _ascend(
        self, score_fn: ScoreFn, objective: Objective, loss: LossFn, batch: Batch, clean: Scores, keys: Keys
    ) -> Images:
        start = _in_ball(batch.images + self.start * _noise(keys, batch.images), batch.images, self.start)
        centre = start if self.ball_around_start else batch.images

        def value(images: Images) -> Float[Array, ""]:
            return objective(loss, score_fn(images), clean, batch.labels)

        def step(images: Images, _: None) -> tuple[Images, None]:
            ascent = self.step_size * jnp.sign(jax.grad(value)(images))
            return _in_ball(images + ascent, centre, self.epsilon), None

        return jax.lax.scan(step, start, None, length=self.steps, unroll=self.unroll)[0]


def fgsm(epsilon: Real) -> Adversary:
    """One step from the clean image to the corner of the ball (Goodfellow et al., ICLR 2015)."""
    return Adversary(epsilon=epsilon, step_size=epsilon)


def fast(epsilon: Real) -> Adversary:
    """One step from anywhere in the ball (Wong, Rice and Kolter, ICLR 2020)."""
    return Adversary(epsilon=epsilon, step_size=1.25 * epsilon, start=epsilon)


def pgd(epsilon: Real, steps: int = 10, step_size: Real | None = None) -> Adversary:
    """Several steps from anywhere in the ball; by default they add up to 2.5 radii (Madry et al., ICLR 2018)."""
    return Adversary(
        epsilon=epsilon, step_size=2.5 * epsilon / steps if step_size is None else step_size, steps=steps, start=epsilon
    )


def _noise(keys: Keys, images: Images) -> Images:
    return jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:], images.dtype, -1.0, 1.0))(keys)


def _in_ball(images: Images, centre: Images, radius: Real) -> Images:
    return jnp.clip(images, jnp.maximum(centre - radius, 0.0), jnp.minimum(centre + radius, 1.0))
