"""AdvCF: colour curves, their box and penalty, with each image stopping by itself."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from plain_torch import Counted, agreement, each, torch_score

from experiments.contenders import torch_warps
from nriqa_jax.attacks import advcf, objectives
from nriqa_jax.parallel import run_attack

K = advcf.PIECES
PRESETS = pytest.mark.parametrize(
    ("preset", "settings"), [(advcf.advcf, {}), (advcf.advcf_adam, {"steps": 20})], ids=["box", "adam"]
)


def in_range(objective):
    return objectives.per_range(objective, 0.0, 100.0)


def torch_rising(tiny_score):
    score = torch_score(tiny_score)
    return lambda x: 1.0 - score(x) / 100.0


def rising(scores):
    return 1.0 - scores / 100.0


@pytest.mark.parametrize(("steps", "patience"), [(10, 25), (40, 4)])
def test_the_bounded_attack_is_the_published_one(steps, patience, tiny_score, images, keys):
    attack = advcf.advcf(Partial(rising), steps=steps, patience=patience)
    found = run_attack(attack, tiny_score, images, keys).images
    stops = []

    def published(x0):
        counted = Counted(torch_rising(tiny_score))
        attacked = torch_warps.advcf(counted, x0, steps=steps, patience=patience)
        stops.append(counted.calls)
        return attacked

    expected = each(published, images)
    if patience < 25:
        assert len(set(stops)) > 1, "the images should not all stop at the same step"
    assert agreement(found, expected, 2e-6) > 0.999


def test_the_penalised_attack_is_the_published_one(tiny_score, images, keys):
    found = run_attack(advcf.advcf_adam(Partial(rising), steps=10), tiny_score, images, keys).images
    expected = each(partial(torch_warps.advcf_adam, torch_rising(tiny_score), steps=10), images)
    assert agreement(found, expected, 2e-6) > 0.999


def test_curves_are_monotone_and_keep_black_and_white():
    slopes = jnp.asarray(np.random.default_rng(0).random((2, 1, K, 3)), jnp.float32)
    ramp = jnp.tile(jnp.linspace(0.0, 1.0, 257)[None, None, :, None], (2, 1, 1, 3))
    curve = advcf.recolour(slopes, ramp)
    np.testing.assert_allclose(curve[:, 0, 0], 0.0, atol=1e-7)
    np.testing.assert_allclose(curve[:, 0, -1], 1.0, rtol=1e-5)
    assert np.all(np.diff(curve, axis=2) > -1e-6)
    np.testing.assert_allclose(advcf.recolour(jnp.ones((2, 1, K, 3)), ramp), ramp, atol=1e-6)


@PRESETS
def test_scores_move_both_ways_and_results_depend_on_the_image_alone(preset, settings, tiny_score, images, keys):
    clean = tiny_score(images)
    up = run_attack(preset(in_range(objectives.raise_score()), **settings), tiny_score, images, keys)
    down = run_attack(preset(in_range(objectives.lower_score()), **settings), tiny_score, images, keys)
    assert np.all(up.scores > clean)
    assert np.all(down.scores < clean)
    alone = run_attack(preset(in_range(objectives.raise_score()), **settings), tiny_score, images[2:3], keys[2:3])
    np.testing.assert_allclose(alone.images, up.images[2:3], atol=2e-6)
    values = np.asarray(images[0, :, :, 0])
    for level in np.unique(values)[:20]:
        assert len(np.unique(up.images[0, :, :, 0][values == level])) == 1  # equal colours stay equal


def test_steepness_is_the_strength(tiny_score, images, keys):
    goal, steepness = in_range(objectives.raise_score()), jnp.array([1.0, 1.5, 2.0, 4.0, 16.0])
    together = run_attack(advcf.advcf(goal, steepness=steepness), tiny_score, images, keys)
    for i, value in enumerate(steepness.tolist()):
        alone = run_attack(advcf.advcf(goal, steepness=value), tiny_score, images[i : i + 1], keys[i : i + 1])
        np.testing.assert_allclose(together.images[i], alone.images[0], atol=2e-6)
    np.testing.assert_allclose(together.images[0], images[0], atol=1e-6)
    image, key = images[:1], keys[:1]
    results = [run_attack(advcf.advcf(goal, steepness=s), tiny_score, image, key) for s in steepness.tolist()]
    changes = [float(jnp.abs(result.images - image).max()) for result in results]
    assert changes == sorted(changes)
    assert np.all(np.diff([float(result.scores[0]) for result in results]) > 0)


def test_step_sizes_may_differ_between_images(tiny_score, images, keys):
    goal, sizes = in_range(objectives.raise_score()), jnp.array([0.002, 0.005, 0.01, 0.02, 0.05])
    together = run_attack(advcf.advcf_adam(goal, step_size=sizes, steps=5), tiny_score, images, keys)
    for i, size in enumerate(sizes.tolist()):
        attack = advcf.advcf_adam(goal, step_size=size, steps=5)
        alone = run_attack(attack, tiny_score, images[i : i + 1], keys[i : i + 1])
        np.testing.assert_allclose(together.images[i], alone.images[0], atol=2e-6)


@PRESETS
def test_a_radius_can_be_kept(preset, settings, tiny_score, images, keys):
    attack = preset(in_range(objectives.raise_score()), epsilon=4 / 255, **settings)
    found = run_attack(attack, tiny_score, images, keys)
    assert np.all(np.abs(found.images - images).max((1, 2, 3)) <= 4 / 255 * (1 + 1e-5))
    assert np.all(found.scores > tiny_score(images))


def test_flat_images_stay_finite(tiny_score, keys):
    flat = jnp.stack([jnp.full((24, 20, 3), level) for level in (0.0, 1.0, 0.5, 0.25, 1 / 255)])
    for preset, settings in ((advcf.advcf, {}), (advcf.advcf_adam, {"steps": 5})):
        found = run_attack(preset(in_range(objectives.raise_score()), **settings), tiny_score, flat, keys)
        assert np.all(np.isfinite(found.images))
        np.testing.assert_allclose(found.images[:2], flat[:2], atol=1e-5)  # black and white have nowhere to go


def test_a_curve_outlives_slopes_that_all_fall_to_their_bound(images):
    fallen = advcf.advcf_adam(in_range(objectives.raise_score())).perturbation
    theta = fallen.project(jnp.full((len(images), 1, advcf.PIECES, 3), -1.0), images)
    np.testing.assert_allclose(fallen.render(theta, images), images, atol=1e-6)


def test_a_sweep_compiles_once(images, keys):
    traces = []

    def score(weight, images):
        traces.append(1)
        return weight * (images**2).mean((1, 2, 3))

    counts = []
    for value in (2.0, 4.0, 8.0):
        attack = advcf.advcf(in_range(objectives.raise_score()), steepness=value, step_size=0.1 * value)
        run_attack(attack, jax.tree_util.Partial(score, jnp.float32(3.0)), images, keys, fused=True)
        counts.append(len(traces))
    assert counts == counts[:1] * 3
