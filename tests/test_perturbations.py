"""Perturbation sets: feasible, idempotent, the identity inside, and starting points within."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nriqa_jax.attacks.perturbations import image_norm, l2, linf

SETS = {"linf": linf, "l2": l2}


def norms(name, delta):
    return jnp.max(jnp.abs(delta), axis=(1, 2, 3)) if name == "linf" else image_norm(delta)[:, 0, 0, 0]


@pytest.mark.parametrize("name", SETS)
@given(epsilon=st.floats(1e-3, 1.0), scale=st.floats(1e-4, 10.0), seed=st.integers(0, 2**16))
@settings(max_examples=25, deadline=None)
def test_projection_is_feasible_and_idempotent(name, epsilon, scale, seed):
    keys = jax.random.split(jax.random.key(seed), 2)
    images = jnp.round(jax.random.uniform(keys[0], (3, 6, 5, 3), minval=-0.2, maxval=1.2).clip(0, 1) * 255) / 255
    perturbation = SETS[name](epsilon)
    once = perturbation.project(scale * jax.random.normal(keys[1], images.shape), images)
    assert np.all(norms(name, once) <= epsilon * (1 + 1e-6))
    rendered = perturbation.render(once, images)
    assert rendered.min() >= -1e-7
    assert rendered.max() <= 1 + 1e-7
    np.testing.assert_allclose(perturbation.project(once, images), once, atol=1e-6 * epsilon)
    np.testing.assert_allclose(perturbation.used(once), norms(name, once) / epsilon, rtol=1e-6)


@pytest.mark.parametrize("name", SETS)
def test_projection_leaves_inner_points_alone(name, images):
    perturbation = SETS[name](2.0)
    inner = 0.3 * (0.5 - images)
    inner = inner if name == "linf" else inner / image_norm(inner)
    np.testing.assert_array_equal(perturbation.project(inner, images), inner)


@pytest.mark.parametrize("name", SETS)
def test_starts(name, images, keys):
    epsilon = 8 / 255 if name == "linf" else 1.0
    assert not np.any(SETS[name](epsilon).init(keys, images))
    start = SETS[name](epsilon, random_start=True).init(keys, images)
    assert np.all(norms(name, start) <= epsilon * (1 + 1e-6))
    assert np.all(norms(name, start) > 0)
    alone = SETS[name](epsilon, random_start=True).init(keys[3:4], images[3:4])
    np.testing.assert_allclose(start[3:4], alone, rtol=1e-5)


def test_projection_keeps_the_gradient_of_saturated_pixels():
    """A clip inside the loss would halve the gradient where a pixel is exactly 0 or 1."""
    images = jnp.ones((1, 2, 2, 3))
    theta = jnp.zeros_like(images)
    gradient = jax.grad(lambda theta: linf(0.1).render(theta, images).sum())(theta)
    np.testing.assert_array_equal(gradient, jnp.ones_like(gradient))
