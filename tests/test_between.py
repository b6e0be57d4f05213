"""Scores met between an image and an attacked version of it, on the pixels of both."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nriqa_jax.attacks.between import Between
from nriqa_jax.parallel import run_attack


@pytest.fixture(params=[1, -1], ids=["raised", "lowered"])
def search(request, tiny_score, images):
    """The search for the scores in the middle, with 8-bit versions that lie two levels away along the gradient."""
    signs = jnp.sign(jax.grad(lambda images: tiny_score(images).sum())(images))
    versions = jnp.clip(jnp.round(images * 255) + 2 * request.param * signs, 0, 255) / 255
    clean, moved = tiny_score(images), tiny_score(versions)
    assert np.all(request.param * (moved - clean) > 1)
    return Between((clean + moved) / 2, versions, clean, moved)


def aim(search, share):
    """The same search for the score at a share of the way."""
    return dataclasses.replace(
        search, targets=search.clean_scores + share * (search.version_scores - search.clean_scores)
    )


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.9, 0.99])
def test_scores_between_both_are_met(search, share, tiny_score, images, keys):
    search = aim(search, share)
    found = run_attack(search, tiny_score, images, keys)
    distance = np.abs(search.version_scores - search.clean_scores)
    np.testing.assert_allclose(found.scores, tiny_score(found.images), rtol=1e-6)
    assert np.all(np.abs(found.scores - search.targets) < 0.005 * distance)
    early = run_attack(dataclasses.replace(search, steps=4), tiny_score, images, keys)
    assert np.all(np.abs(early.scores - search.targets) < 0.015 * distance)  # halving alone leaves 0.03


def test_each_pixel_value_is_one_of_both(search, tiny_score, images, keys):
    found = run_attack(search, tiny_score, images, keys).images
    taken = np.asarray(found == search.versions)
    assert np.all(taken | np.asarray(found == images))
    changed = np.asarray(search.versions != images)
    shares = (taken & changed).sum((1, 2, 3)) / changed.sum((1, 2, 3))
    assert np.all((shares > 0.3) & (shares < 0.7))
    np.testing.assert_array_equal(found, jnp.round(found * 255) / 255)
    assert np.abs(found - images).max() <= 2 / 255 * (1 + 1e-5)


@pytest.mark.parametrize("share", [-3.0, -0.01, 0.0])
def test_targets_on_the_far_side_of_the_clean_score_give_the_clean_images(search, share, tiny_score, images, keys):
    found = run_attack(aim(search, share), tiny_score, images, keys)
    np.testing.assert_array_equal(found.images, images)


@pytest.mark.parametrize("share", [1.01, 4.0])
def test_targets_beyond_the_versions_give_the_versions(search, share, tiny_score, images, keys):
    found = run_attack(aim(search, share), tiny_score, images, keys)
    np.testing.assert_array_equal(found.images, search.versions)


@pytest.mark.parametrize("side", [-1, 0, 1])
def test_versions_that_change_nothing_are_no_harm(side, search, tiny_score, images, keys):
    clean = search.clean_scores
    equal = dataclasses.replace(search, targets=clean + side, versions=images, version_scores=clean)
    with jax.debug_nans(True):
        found = run_attack(equal, tiny_score, images, keys)
    np.testing.assert_array_equal(found.images, images)


@pytest.mark.parametrize("bend", [1, -1])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.9])
def test_curved_scores_are_met(bend, share, images, keys):
    def score(images):
        return bend * jnp.exp(bend * (400 * images.mean((1, 2, 3)) - 200))

    versions = jnp.clip(jnp.round(images * 255) + 8, 0, 255) / 255
    clean, moved = score(images), score(versions)
    assert np.all(np.abs(jnp.log(moved / clean)) > 10)
    search = aim(Between(clean, versions, clean, moved), share)
    found = run_attack(search, score, images, keys)
    assert np.all(np.abs(found.scores / search.targets - 1) < 0.06)


def test_the_best_share_is_kept_and_forward_passes_are_counted(search, tiny_score, images, keys):
    search = dataclasses.replace(aim(search, 0.37), steps=9)
    found = run_attack(search, tiny_score, images, keys)
    ends = jnp.minimum(jnp.abs(search.clean_scores - search.targets), jnp.abs(search.version_scores - search.targets))
    np.testing.assert_allclose(found.loss_trace[0], ends**2, rtol=1e-5)
    errors = jnp.concatenate([found.loss_trace, search.objective(found.scores)[None]])
    assert errors.shape == (10, 5)
    assert np.all(np.diff(errors, axis=0) <= 1e-8)
    np.testing.assert_array_equal(found.queries, np.full(5, 10))
    assert found.health is None


def assert_same(found, expected, rows=slice(None)):
    """But for single pixel values, whose place a last digit may decide."""
    assert np.mean(found.images != expected.images[rows]) < 0.01
    np.testing.assert_allclose(found.scores, expected.scores[rows], rtol=1e-4)
    np.testing.assert_allclose(found.loss_trace, expected.loss_trace[:, rows], rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(found.queries, expected.queries[rows])


def test_results_depend_on_key_and_image_alone(search, tiny_score, images, keys):
    found = run_attack(search, tiny_score, images, keys)
    again = run_attack(search, tiny_score, images, keys)
    np.testing.assert_array_equal(found.images, again.images)
    for rows in (jnp.array([3, 0, 4, 1, 2]), jnp.array([2])):
        some = jax.tree.map(lambda leaf, rows=rows: leaf[rows], search)
        alone = run_attack(some, tiny_score, images[rows], keys[rows])
        assert_same(alone, found, rows)
    others = run_attack(search, tiny_score, images, keys[::-1])
    assert np.mean(others.images != found.images) > 0.2


def test_one_program_equals_the_host_loop(search, tiny_score, images, keys):
    host = run_attack(search, tiny_score, images, keys, fused=False)
    assert_same(run_attack(search, tiny_score, images, keys, fused=True), host)
    assert_same(search(tiny_score, images, keys), host)


def test_targets_of_a_sweep_trace_the_score_once(search, tiny_score, images, keys):
    traces = []

    def score(images):
        traces.append(1)
        return tiny_score(images)

    score = jax.tree_util.Partial(score)
    counts = []
    for share in (0.2, 0.5, 0.8):
        run_attack(aim(search, share), score, images, keys, fused=True)
        counts.append(len(traces))
    assert counts[0] > 0
    assert counts == counts[:1] * 3
