"""Korhonen & You: activity maps, Adam and the early stop equal plain loops over single images."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.ndimage
from jax.tree_util import Partial
from plain_torch import agreement, each, gradient, torch, torch_score

from nriqa_jax.attacks import korhonen, objectives, stopping, update_rules
from nriqa_jax.attacks.gradient import GradientAttack
from nriqa_jax.attacks.perturbations import anywhere
from nriqa_jax.parallel import run_attack

J = objectives.per_range(objectives.raise_score(), 0.0, 100.0)
NEIGHBOURS = np.ones((5, 5), bool)
NEIGHBOURS[::4, ::4] = False


def scipy_map(image, signed):
    luma = np.asarray(image, np.float64) @ [0.299, 0.587, 0.114]
    edges = scipy.ndimage.sobel(luma, -1)
    edges = edges if signed else edges**2 + scipy.ndimage.sobel(luma, 0) ** 2
    edges[[0, -1]] = edges[:, [0, -1]] = 0.0
    edges = edges / edges.max() if edges.max() > 0 else edges + 1.0
    return scipy.ndimage.grey_dilation(edges, footprint=NEIGHBOURS, mode="constant", cval=-np.inf)


MAPS = {"energy": (korhonen.edge_energy, False), "signed": (korhonen.signed_activity, True)}


@pytest.mark.parametrize("kind", MAPS)
def test_activity_maps(kind, images):
    function, signed = MAPS[kind]
    falling = jnp.broadcast_to(jnp.linspace(1.0, 0.0, 20)[None, :, None], (24, 20, 3))
    batch = jnp.concatenate([images, jnp.full((1, 24, 20, 3), 0.5), falling[None]])
    for found, image in zip(function(batch), batch):
        np.testing.assert_allclose(found[..., 0], scipy_map(image, signed), atol=2e-6)


def torch_adam(score, lr, steps, signed, patience=None):
    """Published loops; with patience, the update of the iterate of lowest loss is returned."""

    def attack(x0):
        weight = torch.tensor(scipy_map(x0[0].permute(1, 2, 0).numpy(), signed), dtype=torch.float32) / 255
        x, m, v, lowest, waited = x0.clone(), 0.0, 0.0, np.inf, 0
        for t in range(1, steps + 1):
            loss, g = gradient(lambda x: -score(x) / 100, x)
            g = g * weight
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            x = x - lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
            x = x.clamp(0, 1)
            if patience is None or loss < lowest:
                kept, lowest, waited = x, loss, 0
            else:
                waited += 1
            if patience is not None and waited >= patience:
                break
        stops.append(t)
        return kept

    stops = []
    attack.stops = stops
    return attack


def test_the_benchmark_form_equals_the_published_loop(tiny_score, images, keys):
    found = run_attack(korhonen.korhonen_msu(J), tiny_score, images, keys).images
    expected = each(torch_adam(torch_score(tiny_score), 0.005, 10, signed=True), images)
    assert agreement(found, expected, 2e-6) >= 0.999


@pytest.mark.parametrize("levels", [0.1, 0.5, 5.0])
def test_the_original_equals_the_published_loop(levels, tiny_score, images, keys):
    attack = korhonen.korhonen(J, step_size=levels / 255, steps=10)
    found = run_attack(attack, tiny_score, images, keys).images
    loop = torch_adam(torch_score(tiny_score), levels / 255, 10, signed=False, patience=2)
    # Bias corrections in float32 are off by up to 1e-4 of a step.
    assert agreement(found, each(loop, images), 1e-6 + 2e-4 * levels / 255) >= 0.999


def bumpy(images):
    """A score that rises and falls: images stop early, at different steps."""
    return 10.0 * jnp.cos(60.0 * images.mean((1, 2, 3)) + 9.0 * images.std((1, 2, 3)))


def torch_bumpy(x):
    return 10.0 * torch.cos(60.0 * x.mean() + 9.0 * x.std(correction=0))


def test_an_early_stop_equals_the_published_loop(images, keys):
    found = run_attack(korhonen.korhonen(J, step_size=2 / 255, steps=30), bumpy, images, keys).images
    loop = torch_adam(torch_bumpy, 2 / 255, 30, signed=False, patience=2)
    assert agreement(found, each(loop, images), 1e-5) >= 0.999
    assert len(set(loop.stops)) > 1
    assert max(loop.stops) < 30


def test_images_stop_each_at_its_own_step(images, keys):
    attack = korhonen.korhonen(J, step_size=2 / 255, steps=30)
    together = run_attack(attack, bumpy, images, keys)
    held = np.argmax(np.diff(together.loss_trace, axis=0) == 0, axis=0)
    assert len(set(held.tolist())) > 1
    for i in range(len(images)):
        alone = run_attack(attack, bumpy, images[i : i + 1], keys[i : i + 1])
        np.testing.assert_allclose(alone.images[0], together.images[i], atol=1e-6)
    stops = np.asarray(together.loss_trace)
    for column, step in zip(stops.T, held):
        assert np.all(column[step:] == column[step])  # stopped for good
        assert np.argmin(column) == step - 2  # two losses without a new minimum, and no step at the second


def test_without_a_stop_patience_has_no_effect(tiny_score, images, keys):
    patient = korhonen.korhonen(J, step_size=0.002, steps=10, patience=100)
    plain = dataclasses.replace(
        korhonen.korhonen_msu(J, step_size=0.002),
        update_rule=Partial(korhonen.textured_adam_descent, 0.002, Partial(korhonen.edge_energy)),
    )
    found, expected = (run_attack(attack, tiny_score, images, keys) for attack in (patient, plain))
    assert np.all(np.diff(expected.loss_trace, axis=0) < 0)
    np.testing.assert_allclose(found.images, expected.images, atol=1e-6)


def losses_of(rule, losses):
    """Positions of a walk of steps of -1, one image per column of losses, before each step."""
    theta, visited = jnp.zeros((losses.shape[1], 1, 1, 1)), []
    state = rule.init(theta)
    for row in losses:
        updates, state = rule.update(jnp.ones_like(theta), state, theta, value=row, project=lambda theta: theta)
        theta = optax.apply_updates(theta, updates)
        visited.append(theta[:, 0, 0, 0])
    return np.stack(visited)


LOSSES = jnp.array([[5.0, 4.0, 4.5, 3.0, 3.0, 3.5, 1.0], [5.0, 6.0, 7.0, 1.0, 0.0, 0.0, 0.0], [jnp.nan] * 7]).T


def test_patience_counts_losses_without_a_new_minimum():
    walks = losses_of(stopping.until_no_progress(optax.sgd(1.0), 2), LOSSES).T
    np.testing.assert_array_equal(walks[0], [-1, -2, -3, -4, -5, -5, -5])
    np.testing.assert_array_equal(walks[1], [-1, -2, -2, -2, -2, -2, -2])
    np.testing.assert_array_equal(walks[2], [-1] * 7)


def test_the_point_after_the_lowest_loss_is_kept():
    walks = losses_of(stopping.after_lowest(optax.sgd(1.0)), LOSSES).T
    np.testing.assert_array_equal(walks[0], [-1, -2, -2, -4, -4, -4, -7])
    np.testing.assert_array_equal(walks[1], [-1, -1, -1, -4, -5, -5, -5])


def test_slow_progress_is_reviewed_at_intervals():
    """Positive losses: above 0.99 of the one two steps before. Negative ones: the same share of their magnitude."""
    losses = jnp.array([[5.0, 9.0, 4.9, 9.0, 4.88, 0.0], [-5.0, 0.0, -4.9, 0.0, 0.0, 0.0], [-5.0, 0, -5.1, 0, -5.2, 0]])
    walks = losses_of(stopping.until(optax.sgd(1.0), stopping.slow_progress(2, 0.01)), losses.T).T
    np.testing.assert_array_equal(walks[0], [-1, -2, -3, -4, -4, -4])
    np.testing.assert_array_equal(walks[1], [-1, -2, -2, -2, -2, -2])
    np.testing.assert_array_equal(walks[2], [-1, -2, -3, -4, -5, -6])


def test_a_stop_fits_any_rule(tiny_score, images, keys):
    def rule(step_size):
        return stopping.until(update_rules.sign_descent(step_size), stopping.slow_progress(5))

    attack = GradientAttack(J, anywhere(), Partial(rule, 0.002), steps=8)
    fused, host = (run_attack(attack, tiny_score, images, keys, fused=fused) for fused in (True, False))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), fused, host)
