"""Attacks that carry over: equal to plain PyTorch loops when the same random draws are injected."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_torch import agreement, each, torch, torch_share

from experiments.contenders import torch_transfer
from nriqa_jax.attacks import objectives, presets, transfer
from nriqa_jax.parallel import run_attack

STEPS = transfer.STEPS


@pytest.fixture
def four(images):
    return images[:4]


@pytest.fixture
def step_keys(keys):
    """The keys of each step, as the loop derives them."""
    found, current = [], keys[:4]
    for _ in range(STEPS):
        current = jax.vmap(jax.random.fold_in, (0, None))(current, 0)
        found.append(current)
    return found


def attacked(make, tiny_score, images, keys, **settings):
    return run_attack(make(objectives.raise_score(), **settings), tiny_score, images, keys[:4]).images


def published(attack, tiny_score, images, draws=None, **settings):
    """A peer on one image after the other, each with its draws: ``draws(i)`` makes the setting that takes them."""
    own = [draws(i) if draws else {} for i in range(len(images))]
    loss = torch_share(tiny_score)
    return np.concatenate([each(partial(attack, loss, **own[i], **settings), images[i : i + 1]) for i in range(4)])


def test_nesterov_steps_equal_torch(tiny_score, four, keys):
    theirs = published(torch_transfer.nifgsm, tiny_score, four, decay=0.9)
    assert agreement(attacked(transfer.nifgsm, tiny_score, four, keys, decay=0.9), theirs) >= 0.999


@pytest.fixture
def placements(step_keys, images):
    """The views of each step, for one image."""
    draws = [jax.vmap(lambda key: transfer._draw_placement(key, images.shape[1:3]))(keys) for keys in step_keys]
    found = [(np.asarray(draw.sizes).tolist(), np.asarray(draw.corners).tolist()) for draw in draws]

    def of(i):
        views = iter([(tuple(sizes[i]), tuple(corners[i])) for sizes, corners in found])
        return {"draw": lambda height, width: next(views)}

    return of


@pytest.mark.parametrize("name", ["difgsm", "tifgsm"])
def test_random_views_and_smoothed_gradients_equal_torch(name, tiny_score, four, keys, placements):
    theirs = published(getattr(torch_transfer, name), tiny_score, four, placements)
    assert agreement(attacked(getattr(transfer, name), tiny_score, four, keys), theirs) >= 0.999


def test_variance_tuning_equals_torch(tiny_score, four, keys, step_keys):
    around = [[transfer.noise_around(four, keys, jnp.array(i)) for i in range(5)] for keys in step_keys]
    around = np.asarray(around).transpose(2, 0, 1, 5, 3, 4).reshape(4, STEPS * 5, 1, 3, *four.shape[1:3])

    def draws(i):
        noise = iter(torch.tensor(around[i]))
        return {"noise": lambda x: next(noise)}

    theirs = published(torch_transfer.vmifgsm, tiny_score, four, draws)
    assert agreement(attacked(transfer.vmifgsm, tiny_score, four, keys), theirs) >= 0.999


def test_views_are_drawn_for_each_image(images, keys):
    shown = transfer.random_view(jnp.ones((5, 40, 30, 3)), keys)[:, 0]
    shares = np.asarray(shown.mean((1, 2, 3)))
    assert np.all((shares > 0.7) & (shares <= 1))
    assert len(set(shares.tolist())) > 2
    alone = transfer.random_view(jnp.ones((1, 40, 30, 3)), keys[3:4])[:, 0]
    np.testing.assert_array_equal(alone, shown[3:4])


def test_one_draw_in_two_leaves_the_image_as_it_is():
    many = jax.vmap(lambda key: transfer._draw_placement(key, (100, 60)))(jax.random.split(jax.random.key(0), 1000))
    whole = np.all(np.asarray(many.sizes) == [100, 60], axis=1)
    assert 0.45 < whole.mean() < 0.55
    assert np.all(np.asarray(many.sizes)[~whole] >= [90, 54])
    assert np.all(np.asarray(many.sizes)[~whole] < [100, 60])
    assert np.all(np.asarray(many.corners) + np.asarray(many.sizes) <= [100, 60])


def test_smoothed_scores_are_a_function_of_the_image(tiny_score, images):
    score_fn = transfer.smoothed(tiny_score, jax.random.key(3), samples=6, sigma=0.1)
    scores = score_fn(images)
    np.testing.assert_allclose(score_fn(images[2:3]), scores[2:3], rtol=1e-5)
    noise = [jax.random.normal(jax.random.fold_in(jax.random.key(3), i), images.shape[1:]) for i in range(6)]
    np.testing.assert_allclose(scores, np.mean([tiny_score(images + 0.1 * n) for n in noise], axis=0), rtol=1e-5)


def test_ensembles_follow_the_signs_of_their_members(tiny_score, images):
    def steep(images):
        return -1000.0 * (images**2).mean((1, 2, 3))

    ensemble = transfer.signed_ensemble([tiny_score, steep])
    np.testing.assert_allclose(ensemble(images), (tiny_score(images) + steep(images)) / 2, rtol=1e-5)
    gradient = jax.grad(lambda x: ensemble(x).sum())(images)
    signs = [jnp.sign(jax.grad(lambda x, f=f: f(x).sum())(images)) for f in (tiny_score, steep)]
    np.testing.assert_allclose(gradient, (signs[0] + signs[1]) / 2, atol=1e-6)


def test_a_mask_filters_the_directions_of_an_ensemble(tiny_score, images, keys):
    """Half of the pixels stay, those in texture; the score itself, and flat images, are as without a mask."""
    plain, masked = transfer.signed_ensemble([tiny_score]), transfer.signed_ensemble([tiny_score], transfer.textured())
    smooth = images.at[:, :, :10].set(0.5)
    np.testing.assert_allclose(masked(smooth), plain(smooth), rtol=1e-6)
    mask = np.asarray(transfer.textured(0.4)(smooth))
    assert mask.shape == (5, 24, 20, 1)
    assert set(np.unique(mask)) == {0, 1}
    np.testing.assert_array_equal(mask[:, :, :7], 0)
    assert np.all(np.abs(mask.mean((1, 2, 3)) - 0.4) < 0.05)
    gradients = [jax.grad(lambda x, f=f: f(x).sum())(smooth) for f in (plain, masked)]
    np.testing.assert_array_equal(gradients[1], gradients[0] * transfer.textured()(smooth))
    np.testing.assert_array_equal(transfer.textured(0.4)(jnp.full((1, 8, 8, 3), 0.5)), 1)
    np.testing.assert_array_equal(transfer.textured(0.4)(smooth[2:3]), mask[2:3])
    attack = presets.fgsm(objectives.raise_score())
    result = run_attack(attack, transfer.signed_ensemble([tiny_score], transfer.textured(0.4)), smooth, keys)
    np.testing.assert_array_equal((result.images == smooth).all(-1, keepdims=True)[mask == 0], True)
    assert np.all(result.scores > tiny_score(smooth))


def test_aligned_scores_mean_the_same(tiny_score, images, keys):
    scores = tiny_score(images)
    same = transfer.aligned(tiny_score, (0.0, 100.0), (1.0, 5.0))
    np.testing.assert_allclose(same(images), 1 + scores / 25, rtol=1e-5)
    opposite = transfer.aligned(tiny_score, (0.0, 100.0), (1.0, 5.0), same_direction=False)
    np.testing.assert_allclose(opposite(images), 5 - scores / 25, rtol=1e-5)
    raised = run_attack(
        presets.fgsm(objectives.raise_score()), opposite, images, jax.random.split(jax.random.key(0), 5)
    )
    assert np.all(tiny_score(raised.images) < scores)
