"""Batch normalisation in training: PyTorch's rules, and statistics that are constants for one derivative only."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nriqa_jax.batch_norm import BatchNorm, held, moments


def test_batch_norm_trains_as_pytorch_does():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, weight, shift, cotangent = (
        rng.normal(2, 3, (2, 5, 4, 6)),
        *rng.normal(size=(2, 6)),
        rng.normal(size=(2, 5, 4, 6)),
    )
    theirs = torch.nn.BatchNorm2d(6).double()
    theirs.weight.data, theirs.bias.data = torch.from_numpy(weight), torch.from_numpy(shift)
    inputs = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    with jax.enable_x64(True):
        variables = {
            "params": {"scale": jnp.asarray(weight), "bias": jnp.asarray(shift)},
            "batch_stats": {"mean": jnp.zeros(6), "var": jnp.ones(6)},
        }

        @jax.jit
        @functools.partial(jax.value_and_grad, argnums=(0, 2), has_aux=True)
        def slopes(params, stats, x):
            y, new = BatchNorm().apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])
            return jnp.sum(y * cotangent), (y, new["batch_stats"])

        for _ in range(2):
            expected = theirs(inputs)

            (_, (y, variables["batch_stats"])), (by_params, by_x) = slopes(*variables.values(), jnp.asarray(x))
        np.testing.assert_allclose(y, expected.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-12, atol=1e-12)
        stored = variables["batch_stats"]
        np.testing.assert_allclose(stored["mean"], theirs.running_mean, rtol=1e-12)
        np.testing.assert_allclose(stored["var"], theirs.running_var, rtol=1e-12)
        theirs.zero_grad()
        theirs(inputs).backward(torch.from_numpy(cotangent.transpose(0, 3, 1, 2).copy()))
        np.testing.assert_allclose(by_params["scale"], theirs.weight.grad, rtol=1e-10)
        np.testing.assert_allclose(by_params["bias"], theirs.bias.grad, rtol=1e-10)
        np.testing.assert_allclose(by_x, inputs.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="more than one value"):
        BatchNorm().apply(jax.tree.map(jnp.float32, variables), jnp.ones((1, 6)), mutable=["batch_stats"])


def test_held_values_are_constants_for_the_innermost_derivative_only():
    def slope(w, x):
        return jax.grad(lambda x: x * held(w * x))(x)  # w x, where the derivative by x is taken: the factor is held

    assert slope(3.0, 2.0) == 6.0
    assert jax.grad(slope)(3.0, 2.0) == 2.0
    assert jax.jvp(lambda w: jax.jvp(lambda x: x * held(w * x), (2.0,), (1.0,))[1], (3.0,), (1.0,))[1] == 2.0
    assert jax.grad(lambda x: x * held(x))(2.0) == 2.0


def test_derivatives_of_moments_are_those_of_their_definitions():
    def defined(x):
        return jnp.mean(x, 0), jnp.mean(x**2, 0) - jnp.mean(x, 0) ** 2

    def curved(moments_of, x):
        mean, var = moments_of(x)
        return jnp.sum(jnp.sin(mean) * var**2)

    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (5, 3), jnp.float64)
        for derivative in (jax.grad, jax.hessian):
            found, expected = (derivative(functools.partial(curved, of))(x) for of in (moments, defined))
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
