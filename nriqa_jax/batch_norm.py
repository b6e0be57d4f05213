"""Batch normalisation, in use and in training."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


class BatchNorm(nn.Module):
    """Batch normalisation of maps or vectors, by PyTorch's rules.

    With the stored statistics, which no forward pass changes. In training, that is when ``apply`` is told that the
    collection ``batch_stats`` is mutable, with those of the batch, of which the stored ones become moving averages; in
    a program for many devices, with those of the whole batch. When the collection ``held_stats`` is mutable too, it
    gets the statistics of the batch, for other passes that use them as their ``batch_stats``, and they count as
    constants in the derivative by the innermost variable (see `held`).

    Attributes:
      epsilon: added to variances.
      momentum: weight of a batch in the moving averages.
    """

    epsilon: float = 1e-5
    momentum: float = 0.1

    @nn.compact
    def __call__(self, x: Float[Array, "*n channels"]) -> Float[Array, "*n channels"]:
        """Normalise each channel; nothing where it was folded into the convolution before it."""
        if self.has_variable("params", "folded"):
            return x
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape).value
        var = self.variable("batch_stats", "var", jnp.ones, shape).value
        if self.is_mutable_collection("batch_stats") and not self.is_initializing():
            mean, var = self._of_batch(x, mean, var)
        gain = scale * jax.lax.rsqrt(var + self.epsilon)
        return x * gain.astype(x.dtype) + (bias - mean * gain).astype(x.dtype)

    def _of_batch(self, x: Float[Array, "*n channels"], mean: Array, var: Array) -> tuple[Array, Array]:
        """Mean and biased variance of the batch; the unbiased one enters the moving average."""
        count = x.size // x.shape[-1]
        if count < 2:
            raise ValueError(f"batch norm needs more than one value of each channel to train, got shape {x.shape}")
        batch_mean, batch_var = moments(x)
        kept = 1.0 - self.momentum
        self.put_variable("batch_stats", "mean", kept * mean + self.momentum * batch_mean)
        self.put_variable("batch_stats", "var", kept * var + self.momentum * batch_var * (count / (count - 1)))
        if self.is_mutable_collection("held_stats"):
            batch_mean, batch_var = held((batch_mean, batch_var))
            self.put_variable("held_stats", "mean", batch_mean)
            self.put_variable("held_stats", "var", batch_var)
        return batch_mean, batch_var


@jax.custom_jvp
def moments(x: Float[Array, "*n channels"]) -> tuple[Float[Array, " channels"], Float[Array, " channels"]]:
    """Mean and biased variance of each channel, computed in float32 or better.

    Derivatives know that the variance does not depend on its mean to first order, which saves gradients a pass.
    """
    wide, axes = _wide(x)
    mean = jnp.mean(wide, axes)
    return mean, jnp.mean((wide - mean) ** 2, axes)


@moments.defjvp
def _moments_jvp(
    primals: tuple[Float[Array, "*n channels"]], tangents: tuple[Float[Array, "*n channels"]]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    mean, var = moments(*primals)
    (wide, axes), (change, _) = _wide(*primals), _wide(*tangents)
    return (mean, var), (jnp.mean(change, axes), 2.0 * jnp.mean((wide - mean) * change, axes))


def _wide(x: Float[Array, "*n channels"]) -> tuple[Float[Array, "*n channels"], tuple[int, ...]]:
    """The values in float32 or better, and the axes to average over."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32)), tuple(range(x.ndim - 1))


@jax.custom_jvp
def held(values: PyTree) -> PyTree:
    """The same values, as constants for the innermost of the derivatives that are being taken, and for it alone.

    A gradient with respect to weights of a derivative with respect to images so sees how these values depend on the
    weights, while the derivative by images does not see how they depend on the other images of the batch.
    """
    return values


@held.defjvp
def _held_jvp(values: tuple[PyTree], tangents: tuple[PyTree]) -> tuple[PyTree, PyTree]:
    return values[0], jax.tree.map(jnp.zeros_like, tangents[0])
