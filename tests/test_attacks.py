"""What is particular to the presets of the sign and PGD families; what all attacks share is in `test_contract`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

from nriqa_jax.attacks import objectives, presets, update_rules
from nriqa_jax.attacks.gradient import GradientAttack
from nriqa_jax.attacks.perturbations import linf
from nriqa_jax.parallel import run_attack

EPSILON = 8 / 255


def numpy_loop(gradient, images, epsilon, step, steps, decay=None, normalise=False):
    """I-FGSM and MI-FGSM as in the papers, raising the score."""
    x0 = np.asarray(images, np.float64)
    x, momentum = x0.copy(), np.zeros_like(x0)
    for _ in range(steps):
        g = np.asarray(gradient(jnp.asarray(x, jnp.float32)), np.float64)
        if decay is not None:
            g = g / np.abs(g).mean((1, 2, 3), keepdims=True) if normalise else g
            g = momentum = decay * momentum + g
        x = np.clip(np.clip(x + step * np.sign(g), x0 - epsilon, x0 + epsilon), 0, 1)
    return x


@pytest.mark.parametrize(
    ("attack", "own"),
    [
        (presets.ifgsm, {}),
        (presets.mifgsm, {"decay": 0.8, "normalise": True}),
        (presets.mifgsm_raw, {"decay": 0.8, "normalise": False}),
    ],
)
def test_sign_attacks_equal_a_plain_loop(attack, own, tiny_score, images, keys):
    settings = {"decay": own["decay"]} if own else {}
    built = attack(objectives.raise_score(), epsilon=EPSILON, step_size=2 / 255, steps=7, **settings)
    found = run_attack(built, tiny_score, images, keys).images
    gradient = jax.jit(jax.grad(lambda x: tiny_score(x).sum()))
    np.testing.assert_allclose(found, numpy_loop(gradient, images, EPSILON, 2 / 255, 7, **own), atol=2e-6)


def test_amifgsm_steps_add_up_to_the_radius(tiny_score, images, keys):
    result = run_attack(presets.amifgsm(objectives.raise_score(), epsilon=EPSILON, steps=5), tiny_score, images, keys)
    grown = numpy_loop(jax.grad(lambda x: tiny_score(x).sum()), images, 1.0, EPSILON / 5, 5, decay=1.0, normalise=False)
    np.testing.assert_allclose(result.images, grown, atol=2e-6)


def test_restarts_keep_the_best_start_of_each_image(images, keys):
    def score(images):
        return jnp.sin(60.0 * images).mean((1, 2, 3))

    attack = presets.pgd_linf(objectives.raise_score(), epsilon=0.1, steps=3, restarts=4)
    best = run_attack(attack, score, images, keys)
    singles = [
        run_attack(attack.attack, score, images, jax.vmap(jax.random.fold_in, (0, None))(keys, i)).scores
        for i in range(4)
    ]
    np.testing.assert_allclose(best.scores, np.max(singles, axis=0), rtol=1e-5)
    assert len(set(np.argmax(singles, axis=0).tolist())) > 1
    assert np.all(best.queries == 4 * (3 + 1))


def test_apgd_checkpoints_are_those_of_the_paper():
    """Croce & Hein, section 3.1: p = 0, 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99 of 100 steps."""
    np.testing.assert_array_equal(np.flatnonzero(update_rules.apgd_checkpoints(100)), [22, 41, 57, 70, 80, 87, 93, 99])


def test_apgd_beats_pgd_on_a_curved_score(images, keys):
    """With a step far too large for the curvature, only the attack that adapts its step converges."""

    def score(images):
        return -jnp.abs(images - (images.round(1) + 0.013)).mean((1, 2, 3)) * 100 - (images**2).sum((1, 2, 3))

    adapted = run_attack(presets.apgd(objectives.raise_score(), epsilon=0.2, steps=40), score, images, keys)
    fixed = presets.pgd_linf(objectives.raise_score(), epsilon=0.2, step_size=0.4, steps=40)
    assert np.all(adapted.scores >= run_attack(fixed, score, images, keys).scores)


def test_keep_best_returns_the_best_iterate(images, keys):
    def score(images):
        return -jnp.abs(images.mean((1, 2, 3)) - 0.52)

    attack = GradientAttack(
        objectives.raise_score(), linf(0.2), Partial(update_rules.sign_descent, 0.15), steps=5, keep_best=True
    )
    best = run_attack(attack, score, images, keys)
    last = run_attack(dataclasses.replace(attack, keep_best=False), score, images, keys)
    np.testing.assert_allclose(-best.scores, np.minimum(best.loss_trace.min(0), -last.scores), rtol=1e-5)
    assert np.any(best.scores > last.scores)


def test_any_optax_optimizer_is_an_attack(tiny_score, images, keys):
    attack = GradientAttack(objectives.lower_score(), linf(EPSILON), Partial(optax.adam, 0.01), steps=10)
    assert np.all(run_attack(attack, tiny_score, images, keys).scores < tiny_score(images))


def test_objectives():
    scores = jnp.array([10.0, 60.0])
    np.testing.assert_allclose(objectives.move_away(scores, 0.0, 100.0)(scores), [-10.0, 60.0])
    np.testing.assert_allclose(objectives.reach_target(jnp.array([12.0, 50.0]))(scores), [4.0, 100.0])
    np.testing.assert_allclose(objectives.raise_quality(higher_is_better=True)(scores), -scores)
    np.testing.assert_allclose(objectives.raise_quality(higher_is_better=False)(scores), scores)
    np.testing.assert_allclose(objectives.lower_quality(higher_is_better=False)(scores), -scores)


def test_targets_are_reached(tiny_score, images, keys):
    clean = tiny_score(images)
    furthest = [
        run_attack(presets.ifgsm(goal, epsilon=EPSILON), tiny_score, images, keys).scores
        for goal in (objectives.raise_score(), objectives.lower_score())
    ]
    targets = clean + 0.5 * (jnp.where(jnp.arange(5) % 2, *furthest) - clean)
    attack = presets.ifgsm(objectives.reach_target(targets), epsilon=EPSILON, step_size=0.5 / 255, steps=40)
    reached = run_attack(attack, tiny_score, images, keys).scores
    assert np.all(np.abs(reached - targets) < 0.1 * np.abs(clean - targets))
