"""The gradient-norm penalty: limits and equality of its methods, and what ReLUs make of them."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import images_and_labels, small_model, variables_of

from nriqa_jax.defenses.training import METHODS, gradient_norm_penalty, gradient_norms

NORMS = {1: lambda g: np.abs(g).sum(1), 2: lambda g: np.sqrt((g**2).sum(1)), math.inf: lambda g: np.abs(g).max(1)}


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def penalty(model, params, stats, views, **settings):
    def score(views):
        return model.apply_views({"params": params, "batch_stats": stats}, views)

    return gradient_norm_penalty(score, views, **settings)


@functools.cache
def case(activation):
    """A model, its weights, statistics and views; and the true penalty under the l1 norm with its gradient."""
    model = small_model(activation)
    variables, views = variables_of(model, np.float64), model.views(images_and_labels(dtype=np.float64)[0])
    params, stats = variables["params"], variables["batch_stats"]
    exact = with_gradient(model, params, stats, views, method="double_backprop")
    return model, params, stats, views, exact


def with_gradient(model, params, stats, views, **settings):
    fn = functools.partial(penalty, model, stats=stats, views=views, **settings)
    return jax.jit(jax.value_and_grad(lambda params: fn(params=params)))(params)


def cosine(a, b):
    a, b = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (a, b))
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.parametrize("norm", NORMS)
def test_all_methods_give_the_norm_of_the_gradient(norm):
    model, params, stats, views, _ = case(jnp.tanh)
    variables = {"params": params, "batch_stats": stats}
    gradients = jax.jit(jax.grad(lambda views: model.apply_views(variables, views).sum()))(views)
    norms = NORMS[norm](np.reshape(gradients, (len(views), -1)))
    score = functools.partial(model.apply_views, variables)
    np.testing.assert_allclose(jax.jit(lambda x: gradient_norms(score, x, norm=norm))(views), norms, rtol=1e-12)

    @jax.jit
    def found(views):
        penalty = functools.partial(gradient_norm_penalty, score, views, norm=norm, step=1e-6)
        return {
            (method, squared): penalty(method=method, squared=squared)
            for method in METHODS
            for squared in (False, True)
        }

    for (method, squared), value in found(views).items():
        tolerance = 1e-6 if "difference" in method else 1e-12
        np.testing.assert_allclose(value, 0.5 * np.mean(norms**2) if squared else np.mean(norms), rtol=tolerance)


def test_finite_differences_converge_at_their_order():
    """Half the squared l1 norm as h -> 0; the error falls as h, for central differences as h^2."""
    model, params, stats, views, (exact, _) = case(jnp.tanh)
    run = jax.jit(functools.partial(penalty, model), static_argnames="method")

    def error(method, step):
        return abs(run(params, stats, views, method=method, step=step) / exact - 1)

    assert 70 < error("finite_difference", 1e-3) / error("finite_difference", 1e-5) < 140
    assert 7e3 < error("central_difference", 1e-2) / error("central_difference", 1e-4) < 1.4e4
    assert error("finite_difference", 1e-6) < 1e-6


def test_forward_mode_equals_double_backprop_in_gradient_too():
    model, params, stats, views, (exact, gradient) = case(jnp.tanh)
    value, found = with_gradient(model, params, stats, views, method="jvp")
    np.testing.assert_allclose(value, exact, rtol=1e-12)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * largest), found, gradient)


def test_gradients_equal_finite_differences_over_parameters():
    model, params, stats, views, (_, gradient) = case(jnp.tanh)
    rng, h = np.random.default_rng(4), 1e-6  # a direction in which no entry of the gradient changes its sign
    along = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)
    run = jax.jit(functools.partial(penalty, model, method="double_backprop"))

    def moved(by):
        return run(jax.tree.map(lambda p, d: p + by * d, params, along), stats, views)

    expected = (moved(h) - moved(-h)) / (2 * h)
    found = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, gradient, along)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_relus_make_finite_differences_another_objective():
    for activation, loss_error, least, most in ((nn.softplus, 1e-3, 0.999, 1.0), (nn.relu, 0.1, -1.0, 0.8)):
        model, params, stats, views, (exact, gradient) = case(activation)
        value, found = with_gradient(model, params, stats, views, step=1e-3)
        assert abs(value / exact - 1) < loss_error  # the loss converges in both networks,
        assert least < cosine(found, gradient) < most + 1e-9  # its gradient in the smooth one only


def test_finite_difference_equals_pytorch():
    """The published loss, line by line, on a network of two convolutions."""
    torch = pytest.importorskip("torch")
    rng, step = np.random.default_rng(4), 1e-2
    kernels = [rng.normal(size=shape) for shape in ((3, 3, 3, 4), (3, 3, 4, 1))]
    x = rng.normal(size=(3, 9, 8, 3))

    def score(kernels, x):
        for kernel in kernels:
            x = nn.relu(
                jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            )
        return x.sum((1, 2, 3))

    value, found = jax.value_and_grad(
        lambda k: gradient_norm_penalty(lambda x: score(k, x), jnp.asarray(x), step=step)
    )(list(map(jnp.asarray, kernels)))
    weights = [torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()).requires_grad_() for kernel in kernels]
    inputs = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()

    def net(x):
        for weight in weights:
            x = torch.nn.functional.conv2d(x, weight).relu()
        return x.sum((1, 2, 3))

    (slope,) = torch.autograd.grad(net(inputs).sum(), inputs)
    difference = (net(inputs.detach() + step * slope.sign()) - net(inputs.detach())) / step
    loss = (difference**2).mean() / 2
    loss.backward()
    np.testing.assert_allclose(value, loss.item(), rtol=1e-9)
    for ours, theirs in zip(found, weights):
        np.testing.assert_allclose(ours.transpose(3, 2, 0, 1), theirs.grad, rtol=1e-5, atol=1e-5)


def test_flat_scores_have_no_penalty_and_no_nan():
    for norm in NORMS:
        for method in METHODS:
            flat = functools.partial(lambda w, x: w * x.sum((1, 2, 3)), 0.0)
            assert gradient_norm_penalty(flat, jnp.ones((2, 4, 4, 3)), norm=norm, method=method) == 0
            gradient = jax.grad(
                lambda w, norm=norm, method=method: gradient_norm_penalty(
                    lambda x: w * x.sum((1, 2, 3)), jnp.ones((2, 4, 4, 3)), norm=norm, method=method
                )
            )(0.0)
            assert gradient == 0


def test_unknown_methods_and_norms_are_refused():
    with pytest.raises(
        ValueError, match=r"no method 'exact'.* finite_difference, central_difference, jvp, double_back"
    ):
        gradient_norm_penalty(lambda x: x.sum((1, 2, 3)), jnp.ones((1, 2, 2, 3)), method="exact")
    with pytest.raises(ValueError, match="1, 2 or inf, not 3"):
        gradient_norm_penalty(lambda x: x.sum((1, 2, 3)), jnp.ones((1, 2, 2, 3)), norm=3)
