"""ReLU equals Flax's in value and all derivatives, and its gradient keeps bits."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives import TOLERANCES, check, draws

from nriqa_jax.layers import conv2d, relu

SHAPES = [(), (3,), (8,), (2, 5, 24), (2, 4, 4, 9)]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_relu_has_the_derivatives_of_a_rectifier(shape, dtype):
    check(relu, None, draws(shape), nn.relu, dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_special_values_are_those_of_flax(shape):
    values = jnp.resize(jnp.array([0.0, -0.0, 1e-45, -1e-45, jnp.inf, -jnp.inf, jnp.nan, 3.0, -2.0]), shape)
    for f in (lambda g: g, jax.jit, jax.vmap if shape else jax.jit):
        np.testing.assert_array_equal(f(relu)(values), nn.relu(values))
    found, expected = (jax.grad(lambda x, g=g: jnp.nansum(g(x)))(values) for g in (relu, nn.relu))
    np.testing.assert_array_equal(found, expected)
    tangent = jnp.ones_like(values)
    np.testing.assert_array_equal(jax.jvp(relu, (values,), (tangent,))[1], jax.jvp(nn.relu, (values,), (tangent,))[1])


def test_the_derivative_at_zero_is_zero():
    assert jax.vmap(jax.grad(relu))(jnp.array([0.0, -0.0, 1.0, -1.0])).tolist() == [0.0, 0.0, 1.0, 0.0]


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other backends decide for themselves what they keep")
def test_gradients_keep_signs_and_not_values():
    """Of a chain of convolutions on CPUs, where XLA would keep every map."""
    kernels = [jnp.full((3, 3, 16, 16), 0.1) for _ in range(8)]
    x = jnp.ones((1, 64, 64, 16))

    def memory(rectifier):
        def total(x):
            for kernel in kernels:
                x = rectifier(conv2d(x, kernel, padding=1))
            return x.sum()

        return jax.jit(jax.grad(total)).lower(x).compile().memory_analysis().temp_size_in_bytes

    assert memory(relu) < 0.6 * memory(nn.relu)
