"""StAdv: flows, their roughness, and the published loss and steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from plain_torch import torch

from experiments import cli
from experiments.contenders import torch_warps
from nriqa_jax.attacks import objectives, stadv
from nriqa_jax.parallel import run_attack

LOW, HIGH = 0.0, 100.0
PRESETS = pytest.mark.parametrize("preset", [stadv.stadv, stadv.stadv_adam], ids=["lbfgs", "adam"])


def in_range(objective):
    return objectives.per_range(objective, LOW, HIGH)


@pytest.fixture
def smooth():
    """Five pictures on which the gradient of a flow means something."""
    coarse = np.random.default_rng(1).random((5, 6, 5, 3))
    pictures = jax.image.resize(jnp.asarray(coarse, jnp.float32), (5, 24, 20, 3), "cubic")
    return jnp.clip(pictures, 0.0, 1.0)


def torch_score(tiny_score, x):
    """`tiny_score` of one image [1, 3, H, W]."""
    kernel = torch.tensor(np.asarray(tiny_score.args[0])).permute(3, 2, 0, 1).to(x.dtype)
    maps = torch.nn.functional.conv2d(torch.nn.functional.pad(x, (0, 1, 0, 1)), kernel, stride=2)
    means = 10.0 * torch.tanh(maps).mean((2, 3))
    return 50.0 + (means * torch.tensor([1.0, -2.0, 3.0, -1.0], dtype=x.dtype)).sum()


def torch_stadv(tiny_score, image, attack=None, higher_is_better=True, **settings):
    """The peer on one image [H, W, 3], in the precision of the image."""
    x0 = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None]
    sign = -1 if higher_is_better else 1

    def loss(x):
        return sign * torch_score(tiny_score, x) / (HIGH - LOW)

    return (attack or torch_warps.stadv)(loss, x0, **settings)[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("steps", [3, 10])
@pytest.mark.parametrize("higher_is_better", [True, False])
def test_lbfgs_steps_are_those_of_torch(steps, higher_is_better, tiny_score, smooth, keys):
    settings = {} if higher_is_better else {"offset": 0.1, "ceiling": 1.0}
    goal = in_range(objectives.raise_quality(higher_is_better=higher_is_better))
    with cli.double_precision():
        images = jnp.asarray(smooth, jnp.float64)
        attack = stadv.stadv(goal, step_size=2.5, steps=steps, **settings)
        score_fn = Partial(tiny_score.func, jnp.asarray(tiny_score.args[0], jnp.float64))
        found = np.asarray(run_attack(attack, score_fn, images, keys).images)
        assert found.dtype == np.float64
        expected = [
            torch_stadv(tiny_score, image, higher_is_better=higher_is_better, steps=steps, **settings)
            for image in images
        ]
    assert np.abs(expected - np.asarray(smooth)).max() > 1e-4
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-9 if steps == 3 else 5e-6)


@pytest.mark.parametrize("steps", [1, 3])
def test_single_precision_costs_no_more_digits_than_in_torch(steps, tiny_score, smooth, keys):
    """Curvature is a difference of gradients, which amplifies their rounding: more than a step differs in torch too."""
    attack = stadv.stadv(in_range(objectives.raise_score()), step_size=0.5, steps=steps)
    found = run_attack(attack, tiny_score, smooth, keys).images
    assert found.dtype == jnp.float32
    exact, rounded = (
        np.stack([torch_stadv(tiny_score, np.asarray(image, dtype), steps=steps, step_size=0.5) for image in smooth])
        for dtype in (np.float64, np.float32)
    )
    close = np.mean(np.abs(found - exact) < 1e-6)
    assert close > 0.999 if steps == 1 else close > np.mean(np.abs(rounded - exact) < 1e-6) - 0.02


def test_adam_steps_are_those_of_torch(tiny_score, smooth, keys):
    goal = in_range(objectives.raise_score())
    found = run_attack(stadv.stadv_adam(goal, step_size=0.05, steps=10), tiny_score, smooth, keys).images
    expected = [torch_stadv(tiny_score, image, torch_warps.stadv_adam, step_size=0.05) for image in smooth]
    assert np.mean(np.abs(found - np.stack(expected)) < 1e-5) > 0.999


@pytest.mark.parametrize("score_range", [100.0, 1.0, 4.0])
def test_the_loss_is_the_published_one(score_range):
    scores = jnp.linspace(0.0, score_range, 7)
    rising = stadv.reciprocal(objectives.per_range(objectives.raise_score(), 0.0, score_range))
    t = 1.5 * score_range
    np.testing.assert_allclose(rising(scores), 50 * t / (scores + t), rtol=1e-5)
    falling = stadv.reciprocal(objectives.per_range(objectives.lower_score(), 0.0, score_range), 0.1, 1.0)
    t = 0.1 * score_range
    np.testing.assert_allclose(falling(scores), 50 * t / (score_range - scores + t), rtol=1e-5)


@pytest.mark.parametrize("offset", [0.1, 1.5])
def test_the_loss_grows_with_any_objective(offset):
    """Also through the pole of the published formula, and without a jump where that is left."""
    values = jnp.linspace(-10.0, 10.0, 4001)
    loss = stadv.reciprocal(lambda scores: scores, offset)
    slopes = np.asarray(jax.vmap(jax.grad(lambda v: loss(v[None])[0]))(values))
    assert np.all(slopes > 0)
    np.testing.assert_allclose(np.diff(loss(values)), 0.005 * (slopes[1:] + slopes[:-1]) / 2, rtol=0.05, atol=1e-3)


def test_roughness_is_the_published_sum():
    flow = np.random.default_rng(2).normal(size=(3, 7, 5, 2)).astype(np.float32)
    expected = [torch_warps.roughness(torch.tensor(f.transpose(2, 0, 1)[None])).item() for f in flow]
    np.testing.assert_allclose(stadv.roughness(jnp.asarray(flow)), expected, rtol=1e-5)


def test_flows_move_pixels(images):
    still = jnp.zeros((5, 24, 20, 2))
    np.testing.assert_array_equal(stadv.sample(still, images), images)
    down = stadv.sample(still.at[..., 0].set(2.0), images)
    np.testing.assert_array_equal(down[:, :-2], images[:, 2:])
    np.testing.assert_array_equal(down[:, -2:], np.repeat(images[:, -1:], 2, axis=1))
    left = stadv.sample(still.at[..., 1].set(-0.25), images)
    np.testing.assert_allclose(left[:, :, 1:], 0.25 * images[:, :, :-1] + 0.75 * images[:, :, 1:], atol=1e-6)
    np.testing.assert_array_equal(
        stadv.sample(still + 1e9, images), jnp.broadcast_to(images[:, -1:, -1:], images.shape)
    )


def test_gradients_of_flows_are_those_of_torch(images):
    """Also at the border, where pixels start on the bound of what they may reach."""
    flow = 0.7 * np.random.default_rng(3).normal(size=(24, 20, 2)).astype(np.float32)
    flow[::2] = 0.0
    weights = np.random.default_rng(4).normal(size=(24, 20, 3)).astype(np.float32)
    found = jax.grad(lambda f: jnp.sum(stadv.sample(f[None], images[:1])[0] * weights))(jnp.asarray(flow))
    values = torch.tensor(flow.transpose(2, 0, 1)[None].copy(), requires_grad=True)
    picture = torch.tensor(np.asarray(images[0]).transpose(2, 0, 1)[None].copy())
    (torch_warps.sample(picture, values)[0] * torch.tensor(weights.transpose(2, 0, 1).copy())).sum().backward()
    np.testing.assert_allclose(found, values.grad[0].numpy().transpose(1, 2, 0), atol=2e-5)


@PRESETS
def test_scores_move_both_ways_and_results_depend_on_the_image_alone(preset, tiny_score, smooth, keys):
    clean = tiny_score(smooth)
    up = run_attack(preset(in_range(objectives.raise_score())), tiny_score, smooth, keys)
    down = run_attack(preset(in_range(objectives.lower_score())), tiny_score, smooth, keys)
    assert np.all(up.scores > clean)
    assert np.all(down.scores < clean)
    assert np.all(
        (up.images >= smooth.min((1, 2, 3), keepdims=True)) & (up.images <= smooth.max((1, 2, 3), keepdims=True))
    )
    alone = run_attack(preset(in_range(objectives.raise_score())), tiny_score, smooth[2:3], keys[2:3])
    np.testing.assert_allclose(alone.images, up.images[2:3], atol=1e-5)


@PRESETS
def test_one_step_size_for_each_image(preset, tiny_score, smooth, keys):
    sizes = jnp.array([0.02, 0.1, 0.5, 1.0, 2.0])
    together = run_attack(preset(in_range(objectives.raise_score()), step_size=sizes), tiny_score, smooth, keys)
    for i, size in enumerate(sizes.tolist()):
        attack = preset(in_range(objectives.raise_score()), step_size=size)
        alone = run_attack(attack, tiny_score, smooth[i : i + 1], keys[i : i + 1])
        # L-BFGS divides by differences of gradients, and a batch of another size rounds these otherwise.
        np.testing.assert_allclose(together.images[i], alone.images[0], atol=1e-3)


@PRESETS
def test_a_radius_can_be_kept(preset, tiny_score, smooth, keys):
    radii = jnp.array([1.0, 2.0, 4.0, 8.0, 16.0]) / 255
    found = run_attack(preset(in_range(objectives.raise_score()), epsilon=radii), tiny_score, smooth, keys)
    change = np.abs(found.images - smooth).max((1, 2, 3))
    assert np.all(change <= radii * (1 + 1e-5))
    assert np.all(change > 0.9 * radii)
    small = run_attack(
        preset(in_range(objectives.raise_score()), step_size=0.01, epsilon=radii), tiny_score, smooth, keys
    )
    assert np.all(small.scores > tiny_score(smooth))


@PRESETS
def test_flat_images_stay_as_they_are(preset, tiny_score, keys):
    flat = jnp.stack([jnp.full((24, 20, 3), level) for level in (0.0, 1.0, 0.5, 0.25, 1 / 255)])
    found = run_attack(preset(in_range(objectives.raise_score())), tiny_score, flat, keys)
    np.testing.assert_allclose(found.images, flat, atol=1e-6)


def test_a_sweep_compiles_once(smooth, keys):
    traces = []

    def score(weight, images):
        traces.append(1)
        return weight * (images**2).mean((1, 2, 3))

    counts = []
    for size in (0.5, 1.0, 2.0):
        attack = stadv.stadv(in_range(objectives.raise_score()), step_size=size, smoothness=1e-5 * size)
        run_attack(attack, Partial(score, jnp.float32(3.0)), smooth, keys, fused=True)
        counts.append(len(traces))
    assert counts == counts[:1] * 3
