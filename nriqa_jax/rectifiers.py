"""ReLU whose derivative keeps one bit of each value."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

_BITS = 8


@jax.custom_jvp
def relu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The positive part; the derivative at zero is zero.

    Gradients keep the signs of ``x`` from the forward pass, and not its values: on CPUs a large part of their memory.
    """
    return jnp.maximum(x, 0)


@relu.defjvp
def _relu_jvp(
    primals: tuple[Float[Array, "*n"]], tangents: tuple[Float[Array, "*n"]]
) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
    (x,), (tangent,) = primals, tangents
    positive = jax.lax.platform_dependent(x, cpu=_positive_through_bits, default=_positive)
    return relu(x), jnp.where(positive, tangent, jnp.zeros_like(tangent))


def _positive(x: Float[Array, "*n"]) -> Bool[Array, "*n"]:
    return x > 0


def _positive_through_bits(x: Float[Array, "*n"]) -> Bool[Array, "*n"]:
    """The same from packed bits. XLA would rather keep ``x`` than truth values, but computes no sum a second time."""
    if x.ndim == 0 or x.shape[-1] % _BITS:
        return _positive(x)
    weights = jnp.asarray(2 ** np.arange(_BITS), jnp.uint8)
    bits = _positive(x).reshape(*x.shape[:-1], -1, _BITS).astype(jnp.uint8) * weights
    packed = jnp.sum(bits, axis=-1, dtype=jnp.uint8)
    return ((packed[..., None] & weights) > 0).reshape(x.shape)
