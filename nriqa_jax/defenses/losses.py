"""Losses of quality models: from predictions for a batch, and what is known of its images, to one number.

All but `emd` take scores and opinion scores in one unit. For a compiled training step wrap them with their settings:
``Partial(huber, delta=5.0)``; settings are data, so that a sweep over them compiles once.
"""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from nriqa_jax.types import Scores

Loss = Float[Array, ""]
Distributions = Float[Array, "batch levels"]
Real = float | Float[Array, ""]

_TINY = 1e-8


def l1(scores: Scores, labels: Scores) -> Loss:
    """Mean absolute error, as HyperIQA is trained with (Su et al., CVPR 2020)."""
    return jnp.mean(jnp.abs(scores - labels))


def l2(scores: Scores, labels: Scores) -> Loss:
    """Mean squared error, as DBCNN is trained with (Zhang et al., TCSVT 2020)."""
    return jnp.mean((scores - labels) ** 2)


def huber(scores: Scores, labels: Scores, delta: Real = 1.0) -> Loss:
    """Mean Huber loss: half the squared error up to ``delta``, linear beyond (Huber, 1964)."""
    return jnp.mean(optax.huber_loss(scores, labels, delta))


def norm_in_norm(scores: Scores, labels: Scores, p: Real = 1.0, q: Real = 2.0) -> Loss:
    """Norm-in-norm loss (Li, Jiang and Jiang, ACM MM 2020), in [0, 1]; blind to scale and shift of the scores.

    Scores and labels are centred and divided by their q-norm; the loss is the p-th power of the p-norm of the
    difference, over ``2^p B^max(0, 1 - p/q)``, the highest possible value. With ``p = q = 2`` it is ``(1 - PLCC) / 2``.
    It couples the images of a batch. Equal scores have the gradient of small, unequal ones.

    Args:
      scores: predictions, at least two.
      labels: opinion scores.
      p: exponent of the outer norm, at least 1.
      q: exponent of the inner norm, at least 1.
    """
    error = jnp.abs(_normalised(scores, q) - _normalised(labels, q))
    highest = 2.0**p * len(scores) ** jnp.maximum(0.0, 1.0 - p / q)
    return jnp.sum(error**p) / highest


def _normalised(values: Scores, q: Real) -> Scores:
    centred = values - jnp.mean(values)
    power = jnp.sum(jnp.abs(centred) ** q)
    positive = power > 0  # the root has no gradient at zero
    norm = jnp.where(positive, jnp.where(positive, power, 1.0) ** (1.0 / q), 0.0)
    return centred / (norm + _TINY)


def pairwise_ranking(scores: Scores, labels: Scores, margin: Real = 0.0) -> Loss:
    """Mean hinge loss over all pairs of images whose labels differ (as RankIQA, Liu et al., ICCV 2017).

    Args:
      scores: predictions.
      labels: opinion scores; only their order matters.
      margin: by how much the score of the better image should exceed the other's.
    """
    order = jnp.sign(labels[:, None] - labels[None, :])
    violation = jnp.maximum(0.0, margin - order * (scores[:, None] - scores[None, :]))
    return jnp.sum(jnp.where(order > 0, violation, 0.0)) / jnp.maximum(jnp.sum(order > 0), 1)


def emd(predicted: Distributions, observed: Distributions, r: Real = 2.0) -> Loss:
    """Earth mover's distance of distributions over quality levels, as NIMA (Talebi and Milanfar, TIP 2018, eq. 1).

    The mean over the batch of the r-th root of the mean r-th power of the difference of cumulated probabilities.

    Args:
      predicted: probabilities of the levels, from the lowest to the highest.
      observed: shares of the votes.
      r: exponent; 2 in training, as published.
    """
    gap = jnp.abs(jnp.cumsum(predicted - observed, axis=1))
    power = jnp.mean(gap**r, axis=1)
    positive = power > 0
    return jnp.mean(jnp.where(positive, jnp.where(positive, power, 1.0) ** (1.0 / r), 0.0))
