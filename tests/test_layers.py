"""Layers against PyTorch: values, input gradients, and derivatives that later parts need."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nriqa_jax import layers

torch = pytest.importorskip("torch")
F = torch.nn.functional


def nchw(x):
    return torch.from_numpy(np.asarray(x)).permute(0, 3, 1, 2)


def compare(ours, theirs, x, tolerance=2e-5):
    """Values, and the gradient of a weighted sum."""
    y = ours(x)
    weight = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    gradient = jax.grad(lambda x: jnp.sum(ours(x) * weight))(x)
    t = nchw(x).requires_grad_()
    expected = theirs(t).permute(0, 2, 3, 1)
    (expected * torch.from_numpy(weight)).sum().backward()
    np.testing.assert_allclose(y, expected.detach(), atol=tolerance, rtol=tolerance)
    np.testing.assert_allclose(gradient, t.grad.permute(0, 2, 3, 1), atol=tolerance, rtol=tolerance)


@pytest.fixture
def x():
    return jnp.asarray(np.random.default_rng(0).normal(size=(2, 14, 17, 5)), jnp.float32)


@pytest.mark.parametrize(
    ("window", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (7, 2, 3), (1, 1, 0), (1, 2, 0), (5, 2, 2), (3, 1, 0)]
)
def test_conv2d(x, window, stride, padding):
    kernel = np.random.default_rng(2).normal(size=(window, window, 5, 6)).astype(np.float32)
    weight = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    compare(
        lambda x: layers.conv2d(x, jnp.asarray(kernel), stride=stride, padding=padding),
        lambda t: F.conv2d(t, weight, stride=stride, padding=padding),
        x,
        1e-4,
    )


@pytest.mark.parametrize(("window", "stride", "padding"), [(3, 2, 1), (2, 2, 0), (3, 2, 0)])
def test_max_pool(x, window, stride, padding):
    compare(
        lambda x: layers.max_pool(x, window, stride=stride, padding=padding),
        lambda t: F.max_pool2d(t, window, stride, padding),
        x,
    )


@pytest.mark.parametrize("bins", [1, 2, 4, 5, 7])
def test_adaptive_avg_pool(x, bins):
    compare(lambda x: layers.adaptive_avg_pool(x, bins), lambda t: F.adaptive_avg_pool2d(t, bins), x)


def test_batch_norm(x):
    rng = np.random.default_rng(3)
    scale, bias, mean = (rng.normal(size=5).astype(np.float32) for _ in range(3))
    var = rng.uniform(0.5, 2, 5).astype(np.float32)
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": mean, "var": var}}
    variables = jax.tree.map(jnp.asarray, variables)
    stats = [torch.from_numpy(v) for v in (mean, var, scale, bias)]
    compare(lambda x: layers.BatchNorm().apply(variables, x), lambda t: F.batch_norm(t, *stats), x)


def test_flatten_order(x):
    np.testing.assert_array_equal(layers.flatten_nchw(x), nchw(x).flatten(1))


@pytest.mark.parametrize(
    "layer",
    [
        lambda x: layers.conv2d(x, jnp.ones((3, 3, 5, 2)), stride=2, padding=1),
        lambda x: layers.conv2d(x, jnp.ones((1, 1, 5, 2))),
        lambda x: layers.max_pool(x, 3, stride=2, padding=1),
        lambda x: layers.adaptive_avg_pool(x, 4),
    ],
)
def test_forward_mode_and_second_order_exist(x, layer):
    def total(x):
        return jnp.sum(layer(x) ** 2)

    direction = jnp.ones_like(x)
    slope = jax.jvp(total, (x,), (direction,))[1]
    np.testing.assert_allclose(slope, jnp.vdot(jax.grad(total)(x), direction), rtol=1e-4)
    assert np.all(np.isfinite(jax.grad(lambda x: jnp.abs(jax.grad(total)(x)).sum())(x)))
