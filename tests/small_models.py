"""Networks with batch norm that train in no time, as models of the zoo."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from nriqa_jax.layers import BatchNorm, Conv, Dense
from nriqa_jax.models import protocols
from nriqa_jax.models.hyperiqa import hyperiqa


class Small(nn.Module):
    """Two convolutions and a linear layer."""

    activation: Callable = jnp.tanh
    norm: bool = True

    @nn.compact
    def __call__(self, x):
        for index, width in enumerate((8, 12)):
            x = Conv(width, 3, 1 + index % 2, 1, use_bias=not self.norm, name=f"conv{index}")(x)
            x = self.activation(BatchNorm(name=f"norm{index}")(x) if self.norm else x)
        return 50.0 + 10.0 * Dense(1, name="head")(x.mean((1, 2)))[:, 0]


def small_model(activation=jnp.tanh, *, norm=True):
    """A model that sees the whole image, normalised, as its only view."""
    preprocess = protocols.native("native", protocols.HALF, "")
    return dataclasses.replace(
        hyperiqa(), network=Small(activation, norm), preprocess=preprocess, view_shape=(16, 16, 3)
    )


def variables_of(model, dtype=np.float32):
    """Random weights, with statistics that differ from those of any batch."""
    variables = jax.jit(model.init)(jax.random.key(0))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(x + 0.1 * rng.random(x.shape), dtype), variables)


def images_and_labels(count=4, dtype=np.float32):
    """Noise, and scores for it."""
    rng = np.random.default_rng(2)
    return jnp.asarray(rng.random((count, 16, 16, 3)), dtype), jnp.asarray(rng.normal(50, 10, count), dtype)
