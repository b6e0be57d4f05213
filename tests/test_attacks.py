"""One contract for every preset, then what is particular to some."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

from nriqa_jax.attacks import objectives, presets, update_rules
from nriqa_jax.attacks.gradient import GradientAttack
from nriqa_jax.attacks.perturbations import image_norm, linf
from nriqa_jax.parallel import run_attack

EPSILON = 8 / 255
PRESETS = {
    "fgsm": (presets.fgsm, {}),
    "ifgsm": (presets.ifgsm, {}),
    "mifgsm": (presets.mifgsm, {}),
    "mifgsm_raw": (presets.mifgsm_raw, {}),
    "amifgsm": (presets.amifgsm, {}),
    "pgd_linf": (presets.pgd_linf, {}),
    "pgd_linf_restarts": (presets.pgd_linf, {"restarts": 3}),
    "pgd_l2": (presets.pgd_l2, {}),
    "pgd_l2_restarts": (presets.pgd_l2, {"restarts": 2}),
    "apgd": (presets.apgd, {}),
    "apgd_restarts": (presets.apgd, {"restarts": 2}),
}
CONTRACT = pytest.mark.parametrize("name", PRESETS)


def build(name, objective, **settings):
    preset, own = PRESETS[name]
    return preset(objective, **{"epsilon": EPSILON, **own, **settings})


@CONTRACT
def test_the_objective_improves_in_both_directions(name, tiny_score, images, keys):
    clean = tiny_score(images)
    up = run_attack(build(name, objectives.raise_score()), tiny_score, images, keys)
    down = run_attack(build(name, objectives.lower_score()), tiny_score, images, keys)
    assert np.all(up.scores > clean)
    assert np.all(down.scores < clean)


@CONTRACT
def test_results_are_feasible_and_consistent(name, tiny_score, images, keys):
    attack = build(name, objectives.raise_score())
    result = run_attack(attack, tiny_score, images, keys)
    delta = result.images - images
    size = image_norm(delta)[:, 0, 0, 0] if "l2" in name else jnp.abs(delta).max((1, 2, 3))
    assert np.all(size <= EPSILON * (1 + 1e-5))
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    np.testing.assert_allclose(tiny_score(result.images), result.scores, rtol=1e-6)
    assert result.loss_trace.shape == (attack.steps, len(images))
    assert np.all(result.queries > attack.steps)
    assert np.all(result.health.budget <= 1 + 1e-5)
    assert not np.any(result.health.nonfinite)


@CONTRACT
def test_results_depend_on_key_and_image_alone(name, tiny_score, images, keys):
    attack = build(name, objectives.raise_score())
    result = run_attack(attack, tiny_score, images, keys)
    again = run_attack(attack, tiny_score, images, keys)
    np.testing.assert_array_equal(result.images, again.images)
    order = jnp.array([3, 0, 4, 1, 2])
    permuted = run_attack(attack, tiny_score, images[order], keys[order])
    np.testing.assert_allclose(permuted.images, result.images[order], atol=1e-6)
    alone = run_attack(attack, tiny_score, images[2:3], keys[2:3])
    np.testing.assert_allclose(alone.scores, result.scores[2:3], rtol=1e-5)


@CONTRACT
def test_one_program_equals_the_host_loop(name, tiny_score, images, keys):
    attack = build(name, objectives.raise_score())
    host = run_attack(attack, tiny_score, images, keys, fused=False)
    fused = run_attack(attack, tiny_score, images, keys, fused=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), host, fused)


@CONTRACT
def test_an_epsilon_sweep_traces_the_model_once(name, images, keys):
    traces = []

    def score(weight, images):
        traces.append(1)
        return weight * (images**2).mean((1, 2, 3))

    score_fn = Partial(score, jnp.float32(3.0))
    counts = []
    for k in (1, 2, 4, 8, 16):
        run_attack(build(name, objectives.raise_score(), epsilon=k / 255), score_fn, images, keys, fused=True)
        counts.append(len(traces))
    assert counts[0] > 0
    assert counts == counts[:1] * 5


@CONTRACT
def test_nan_gradients_are_counted_and_not_followed(name, images, keys):
    def score(images):
        return images.mean((1, 2, 3)) + jnp.sqrt(jnp.maximum(images[:, 0, 0, 0], 0.0) * 0.0)

    result = run_attack(build(name, objectives.raise_score()), score, images, keys)
    assert np.all(result.health.nonfinite > 0)
    assert np.all(np.isfinite(result.images))
    assert np.all(result.scores > score(images))


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
