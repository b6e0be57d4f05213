"""MADC and its L-infinity variant equal plain loops over single images, and keep their bounds."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_torch import agreement, each, torch_share

from experiments.contenders import torch_hidden
from nriqa_jax.attacks import madc, objectives
from nriqa_jax.attacks.perturbations import linf_by_steps, rmse, root_mean_square, starting_at
from nriqa_jax.parallel import run_attack

J = objectives.per_range(objectives.raise_score(), 0.0, 100.0)


@pytest.mark.parametrize(
    ("lr", "steps", "atol"), [(1e-3, 8, 1e-6), (0.0078, 10, 1e-6), (0.02, 6, 1e-6), (0.2, 1, 2e-5)]
)
def test_madc_equals_the_published_loop(lr, steps, atol, tiny_score, images, keys):
    found = run_attack(madc.madc(J, step_size=lr, steps=steps), tiny_score, images, keys).images
    expected = each(partial(torch_hidden.madc, torch_share(tiny_score), step_size=lr, steps=steps), images)
    assert agreement(found, expected, atol) >= 0.999


def test_madc_at_its_bound_gains_as_much_as_the_published_loop(tiny_score, images, keys):
    """Where hundreds of steps back end at 0, rounding errors decide the side, and single pixels differ."""
    found = run_attack(madc.madc(J, step_size=0.05), tiny_score, images, keys)
    expected = each(partial(torch_hidden.madc, torch_share(tiny_score), step_size=0.05), images)
    gain = tiny_score(jnp.asarray(expected)) - tiny_score(images)
    np.testing.assert_allclose(found.scores - tiny_score(images), gain, rtol=0.1)
    np.testing.assert_allclose(root_mean_square(found.images - images), 10 / 255, rtol=0.02)


def test_madc_linf_equals_the_published_loop(tiny_score, images, keys):
    attack = madc.madc_linf(J, steps=10)
    versions = jnp.clip(images + attack.perturbation.init(keys, images), 0.0, 1.0)
    attack = dataclasses.replace(attack, perturbation=starting_at(attack.perturbation, versions))
    found = run_attack(attack, tiny_score, images, keys).images

    def published(x0, start):
        return torch_hidden.madc_linf(torch_share(tiny_score), x0, steps=10, start=start)

    expected = each(published, images, versions)
    assert agreement(found, expected, 2e-6) >= 0.999  # ten rounding errors of steps back


def numpy_back_into_rmse(theta, x0, e):
    theta = theta.copy()
    while np.sqrt(np.mean(theta**2)) > e:
        theta = np.clip(theta - np.float32(0.0005) * np.sign(theta), -x0, 1 - x0)
    return np.clip(theta, -x0, 1 - x0)


def test_the_masked_projection_is_that_of_each_image(images):
    """Images that need no, few and hundreds of steps back, in one batch."""
    scales = jnp.array([0.001, 0.039, 0.05, 0.1, 0.3])
    theta = scales[:, None, None, None] * jnp.sign(jax.random.normal(jax.random.key(3), images.shape))
    theta = theta * jax.random.uniform(jax.random.key(4), images.shape, minval=0.9)
    found = rmse(10 / 255).project(theta, images)
    for one, change, x0 in zip(found, np.asarray(theta), np.asarray(images)):
        np.testing.assert_allclose(one, numpy_back_into_rmse(change, x0, 10 / 255), atol=5e-6)  # it rounds at each step
    assert np.all(root_mean_square(found) <= 10 / 255)


@pytest.mark.parametrize("size", [1e-5, 3e-4, 0.03])
def test_what_is_inside_stays(size, images):
    theta = size * jax.random.choice(jax.random.key(3), jnp.array([-1.0, 1.0]), images.shape)
    theta = jnp.clip(theta, -images, 1 - images)
    np.testing.assert_array_equal(rmse(1.1 * size).project(theta, images), theta)


@pytest.mark.parametrize("epsilon", [0.0, 1e-5, 4e-4])
def test_radii_below_a_step_end_and_hold(epsilon, images):
    theta = 0.03 * jax.random.normal(jax.random.key(3), images.shape)
    found = jax.jit(rmse(epsilon).project)(theta, images)
    assert np.all(root_mean_square(found) <= epsilon * (1 + 1e-5))


def test_the_closed_form_of_the_linf_projection_is_the_loop(images):
    epsilon = 7 / 255
    theta = 0.04 * jax.random.normal(jax.random.key(3), images.shape)
    expected, x0 = np.asarray(theta, np.float64), np.asarray(images, np.float64)
    while np.any(far := np.abs(expected) > epsilon):
        expected = np.clip(expected - 0.001 * np.sign(expected) * far, -x0, 1 - x0)
    found = linf_by_steps(epsilon).project(theta, images)
    assert agreement(found, np.clip(expected, -x0, 1 - x0)) >= 0.999  # rounding can save a value one step
    assert np.all(np.abs(found) <= epsilon)


@pytest.mark.parametrize("lr", [1e-3, 4e-3, 0.2])
def test_the_root_mean_square_is_bounded_twice(lr, tiny_score, images, keys):
    result = run_attack(madc.madc(J, step_size=lr), tiny_score, images, keys)
    bound = min(8 * lr, 10 / 255)
    assert np.all(root_mean_square(result.images - images) <= bound * (1 + 1e-5))
    assert np.all(result.scores > tiny_score(images))


@pytest.mark.parametrize("make", [madc.madc, madc.madc_linf])
def test_images_stay_apart_and_may_have_settings_of_their_own(make, tiny_score, images, keys):
    sizes = jnp.array([1e-3, 2e-3, 5e-3, 0.01, 0.02])
    together = run_attack(make(J, step_size=sizes), tiny_score, images, keys).images
    for i, size in enumerate(sizes):
        alone = run_attack(make(J, step_size=size), tiny_score, images[i : i + 1], keys[i : i + 1]).images
        assert agreement(alone[0], together[i]) >= 0.999


def test_the_start_is_clipped_noise(images, keys):
    theta = madc.madc_linf(J).perturbation.init(keys, images)
    assert np.isclose(np.abs(theta).max(), 6 / 255)
    assert np.all(np.abs(theta.std((1, 2, 3)) - 0.96 * 3 / 255) < 0.1 * 3 / 255)
    np.testing.assert_array_equal(madc.madc_linf(J).perturbation.init(keys[2:3], images[2:3]), theta[2:3])


def test_no_gradient_no_move(images, keys):
    result = run_attack(madc.madc(J), lambda x: 0.0 * x.sum((1, 2, 3)), images, keys)
    np.testing.assert_array_equal(result.images, images)
