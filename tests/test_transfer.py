"""Attacks that carry over: equal to plain PyTorch loops when the same random draws are injected."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_torch import agreement, gradient, torch, torch_score

from nriqa_jax.attacks import objectives, presets, transfer
from nriqa_jax.parallel import run_attack

EPSILON, STEP, STEPS = transfer.EPSILON, transfer.STEP, transfer.STEPS


def torch_gradient(tiny_score):
    """``images NHWC -> gradient of their summed scores``, by PyTorch."""
    score = torch_score(tiny_score)

    def of(images):
        return as_nhwc(gradient(score, as_nchw(images))[1])

    return of


def as_nchw(images):
    return torch.tensor(np.asarray(images)).permute(0, 3, 1, 2)


def as_nhwc(images):
    return images.detach().permute(0, 2, 3, 1).numpy()


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


def published_loop(slope, images, *, decay, at=lambda x, momentum: x, tune=lambda g, x, step: g):
    """MI-FGSM in the ball, raising the score; ``at`` moves the point of the gradient, ``tune`` changes the gradient."""
    x0 = np.asarray(images, np.float32)
    x, momentum = x0.copy(), np.zeros_like(x0)
    for step in range(STEPS):
        g = tune(slope(at(x, momentum), step), x, step)
        g = g / np.abs(g).mean((1, 2, 3), keepdims=True)
        momentum = g + decay * momentum
        x = np.clip(x0 + np.clip(x + STEP * np.sign(momentum) - x0, -EPSILON, EPSILON), 0, 1)
    return x


def attacked(make, tiny_score, images, keys, **settings):
    return run_attack(make(objectives.raise_score(), **settings), tiny_score, images, keys[:4]).images


def test_nesterov_steps_equal_torch(tiny_score, four, keys):
    slope = torch_gradient(tiny_score)
    theirs = published_loop(lambda x, step: slope(x), four, decay=0.9, at=lambda x, momentum: x + 0.9 * STEP * momentum)
    assert agreement(attacked(transfer.nifgsm, tiny_score, four, keys, decay=0.9), theirs) >= 0.999


def torch_view(x, size, corner):
    """One image, resized without antialiasing and padded with zeros."""
    height, width = x.shape[1:]
    small = torch.nn.functional.interpolate(x[None], tuple(size), mode="bilinear", align_corners=False)[0]
    top, left = corner
    return torch.nn.functional.pad(small, (left, width - size[1] - left, top, height - size[0] - top))


def gradient_through_views(tiny_score, step_keys):
    score = torch_score(tiny_score)

    def of(images, step):
        draws = jax.vmap(lambda key: transfer._draw_placement(key, images.shape[1:3]))(step_keys[step])
        placements = list(zip(np.asarray(draws.sizes).tolist(), np.asarray(draws.corners).tolist()))

        def score_views(x):
            return score(torch.stack([torch_view(image, *placement) for image, placement in zip(x, placements)]))

        return as_nhwc(gradient(score_views, as_nchw(images))[1])

    return of


def test_random_views_equal_torch(tiny_score, four, keys, step_keys):
    theirs = published_loop(gradient_through_views(tiny_score, step_keys), four, decay=0.0)
    assert agreement(attacked(transfer.difgsm, tiny_score, four, keys), theirs) >= 0.999


def test_smoothed_gradients_equal_torch(tiny_score, four, keys, step_keys):
    taps = np.exp(-(np.linspace(-3, 3, 15) ** 2) / 2)
    kernel = torch.tensor(np.outer(taps, taps) / np.outer(taps, taps).sum(), dtype=torch.float32).expand(3, 1, 15, 15)

    def smooth(g, x, step):
        return as_nhwc(torch.nn.functional.conv2d(as_nchw(g), kernel, padding=7, groups=3))

    theirs = published_loop(gradient_through_views(tiny_score, step_keys), four, decay=0.0, tune=smooth)
    assert agreement(attacked(transfer.tifgsm, tiny_score, four, keys), theirs) >= 0.999


def test_variance_tuning_equals_torch(tiny_score, four, keys, step_keys):
    slope, variance = torch_gradient(tiny_score), [np.zeros(four.shape, np.float32)]

    def tune(g, x, step):
        around = [np.asarray(transfer.noise_around(jnp.asarray(x), step_keys[step], jnp.array(i))) for i in range(5)]
        tuned = g + variance[-1]
        variance.append(np.mean([slope(x + 1.5 * EPSILON * noise) for noise in around], axis=0) - g)
        return tuned

    theirs = published_loop(lambda x, step: slope(x), four, decay=1.0, tune=tune)
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
