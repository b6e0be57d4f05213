"""Korhonen & You: activity maps, Adam and the early stop equal plain loops over single images."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial
from plain_torch import Counted, agreement, each, torch, torch_share

from experiments.contenders import torch_hidden
from nriqa_jax.attacks import korhonen, objectives, stopping, update_rules
from nriqa_jax.attacks.gradient import GradientAttack
from nriqa_jax.attacks.perturbations import anywhere
from nriqa_jax.parallel import run_attack

J = objectives.per_range(objectives.raise_score(), 0.0, 100.0)

MAPS = {"energy": (korhonen.edge_energy, False), "signed": (korhonen.signed_activity, True)}


@pytest.mark.parametrize("kind", MAPS)
def test_activity_maps(kind, images):
    function, signed = MAPS[kind]
    falling = jnp.broadcast_to(jnp.linspace(1.0, 0.0, 20)[None, :, None], (24, 20, 3))
    batch = jnp.concatenate([images, jnp.full((1, 24, 20, 3), 0.5), falling[None]])
    for found, image in zip(function(batch), batch):
        np.testing.assert_allclose(
            found[..., 0], torch_hidden.activity_map(np.asarray(image), signed=signed), atol=2e-6
        )


def test_the_benchmark_form_equals_the_published_loop(tiny_score, images, keys):
    found = run_attack(korhonen.korhonen_msu(J), tiny_score, images, keys).images
    expected = each(partial(torch_hidden.korhonen_msu, torch_share(tiny_score)), images)
    assert agreement(found, expected, 2e-6) >= 0.999


@pytest.mark.parametrize("levels", [0.1, 0.5, 5.0])
def test_the_original_equals_the_published_loop(levels, tiny_score, images, keys):
    attack = korhonen.korhonen(J, step_size=levels / 255, steps=10)
    found = run_attack(attack, tiny_score, images, keys).images
    loop = partial(torch_hidden.korhonen, torch_share(tiny_score), step_size=levels / 255, steps=10)
    # Bias corrections in float32 are off by up to 1e-4 of a step.
    assert agreement(found, each(loop, images), 1e-6 + 2e-4 * levels / 255) >= 0.999


def bumpy(images):
    """A score that rises and falls: images stop early, at different steps."""
    return 10.0 * jnp.cos(60.0 * images.mean((1, 2, 3)) + 9.0 * images.std((1, 2, 3)))


def torch_bumpy(x):
    return 10.0 * torch.cos(60.0 * x.mean() + 9.0 * x.std(correction=0))


def test_an_early_stop_equals_the_published_loop(images, keys):
    found = run_attack(korhonen.korhonen(J, step_size=2 / 255, steps=30), bumpy, images, keys).images
    stops = []

    def published(x0):
        counted = Counted(lambda x: -torch_bumpy(x) / 100)
        attacked = torch_hidden.korhonen(counted, x0, step_size=2 / 255, steps=30)
        stops.append(counted.calls)
        return attacked

    assert agreement(found, each(published, images), 1e-5) >= 0.999
    assert len(set(stops)) > 1
    assert max(stops) < 30


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
