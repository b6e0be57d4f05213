"""Universal perturbations: attacks without steps, and the ways of learning them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from plain_torch import agreement, torch, torch_score

from nriqa_jax.attacks import objectives, unet, universal, universal_training
from nriqa_jax.attacks.gradient import run
from nriqa_jax.parallel import run_attack

SMALL = unet.UNet(widths=(4, 6, 8))


def in_range(objective):
    return objectives.per_range(objective, 0.0, 100.0)


@pytest.fixture
def pattern():
    return jnp.asarray(np.random.default_rng(3).uniform(-0.1, 0.1, (7, 9, 3)), jnp.float32)


@pytest.fixture
def batches():
    """Six batches of three crops of 16x24 pixels."""
    return jnp.asarray(np.random.default_rng(5).random((6, 3, 16, 24, 3)), jnp.float32)


def test_a_pattern_is_tiled_from_the_top_left_scaled_added_and_clipped(pattern, tiny_score, images, keys):
    amplitudes = jnp.array([0.0, 0.2, 0.4, 0.8, 3.0])
    attack = universal.universal(objectives.raise_score(), amplitude=amplitudes, pattern=pattern)
    result = run_attack(attack, tiny_score, images, keys, fused=True)
    for i, amplitude in enumerate(amplitudes.tolist()):
        for y, x in ((0, 0), (6, 8), (7, 9), (23, 19), (13, 10)):
            expected = np.clip(images[i, y, x] + amplitude * pattern[y % 7, x % 9], 0, 1)
            np.testing.assert_allclose(result.images[i, y, x], expected, atol=1e-6)
    np.testing.assert_array_equal(result.images[0], images[0])
    np.testing.assert_allclose(result.scores, tiny_score(result.images), rtol=1e-6)
    assert result.health is None
    assert np.all(result.queries == 1)
    assert result.loss_trace.shape == (0, 5)


def test_every_way_of_running_agrees(pattern, tiny_score, images, keys):
    attack = universal.universal(objectives.raise_score(), amplitude=0.4, pattern=pattern)
    fused = run_attack(attack, tiny_score, images, keys, fused=True)
    for result in (run(attack, tiny_score, images, keys), attack(tiny_score, images, keys)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), result, fused)
    order = jnp.array([3, 0, 4, 1, 2])
    permuted = run_attack(attack, tiny_score, images[order], keys[order], fused=True)
    np.testing.assert_array_equal(permuted.images, fused.images[order])


def test_amplitudes_and_patterns_are_data(pattern, images, keys):
    traces = []

    def score(weight, images):
        traces.append(1)
        return weight * images.mean((1, 2, 3))

    counts = []
    for amplitude in (0.1, 0.2, 0.3):
        attack = universal.universal(objectives.raise_score(), amplitude=amplitude, pattern=amplitude + pattern)
        run_attack(attack, Partial(score, jnp.float32(3.0)), images, keys, fused=True)
        counts.append(len(traces))
    assert counts == counts[:1] * 3


def test_facpa_repeats_the_change_of_a_cut_or_mirrored_image(tiny_score, images, keys):
    """Of 24x20 pixels, a network for multiples of 16 sees 16x16; one for multiples of 32 sees 32x32."""
    seen = []

    def network(gain, pictures):
        seen.append(pictures)
        return jnp.sin(gain * pictures)

    for side in (16, 32):
        attack = universal.facpa(objectives.raise_score(), amplitude=0.05, network=Partial(network, 9.0), side=side)
        result = attack(tiny_score, images, keys)
        mirrored = jnp.asarray(np.pad(images, ((0, 0), (0, 8), (0, 12), (0, 0)), "reflect"))
        inputs = images[:, :16, :16] if side == 16 else mirrored
        np.testing.assert_array_equal(seen[-1], inputs)
        change = np.tile(np.sin(9.0 * inputs), (1, 2, 2, 1))[:, :24, :20]
        np.testing.assert_allclose(result.images, np.clip(images + 0.05 * 100 / 255 * change, 0, 1), atol=1e-6)
    assert np.all(result.queries == 1)


def torch_pattern(tiny_score, batches, method, score_range):
    """The published training of a pattern: [H, W, 3] after all batches."""
    values = torch.full((1, 3, *batches.shape[2:4]), 1e-4, requires_grad=True)
    adam = torch.optim.Adam([values], lr=0.001)
    for batch in np.asarray(batches):
        x = torch.tensor(batch).permute(0, 3, 1, 2) + values
        if method == "optimised":
            x.data.clamp_(0.0, 1.0)
        loss = (1.0 - torch_score(tiny_score)(x) / score_range).mean()
        adam.zero_grad()
        loss.backward()
        values.grad.nan_to_num_()
        if method == "optimised":
            adam.step()
        else:
            values.data -= values.grad
        values.data.clamp_(-0.1, 0.1)
    return values[0].detach().permute(1, 2, 0).numpy()


@pytest.mark.parametrize("method", ["optimised", "cumulative"])
@pytest.mark.parametrize("score_range", [100.0, 1.0])
def test_patterns_are_learnt_as_published(method, score_range, tiny_score, batches):
    make = {"optimised": universal_training.optimised, "cumulative": universal_training.cumulative}[method]
    objective = objectives.per_range(objectives.raise_score(), 0.0, score_range)
    found, losses = universal_training.train_pattern(make(16, 24), tiny_score, objective, batches, jax.random.key(0))
    expected = torch_pattern(tiny_score, batches, method, score_range)
    assert agreement(found, expected) > 0.999
    assert np.abs(found).max() > 2e-4
    assert np.abs(found).max() <= 0.1
    assert losses.shape == (6,)


def test_a_learnt_pattern_moves_the_scores_of_other_images(tiny_score, batches, images, keys):
    for objective, sign in ((objectives.raise_score(), 1), (objectives.lower_score(), -1)):
        training = universal_training.optimised(8, 8, step_size=0.01)
        found, losses = universal_training.train_pattern(
            training, tiny_score, in_range(objective), list(batches) * 4, jax.random.key(0)
        )
        assert found.shape == (8, 8, 3)  # smaller than the crops, which it is repeated over
        assert losses[-6:].mean() < losses[:6].mean()
        attack = universal.universal(objective, amplitude=1.0, pattern=found)
        moved = run_attack(attack, tiny_score, images, keys, fused=True).scores - tiny_score(images)
        assert np.all(sign * moved > 0)


def test_training_does_not_follow_nan_gradients(batches):
    def score(images):
        return images.mean((1, 2, 3)) + jnp.sqrt(jnp.maximum(images[:, 0, 0, 0], 0.0) * 0.0)

    training = universal_training.optimised(16, 24)
    found, _ = universal_training.train_pattern(
        training, score, objectives.raise_score(), batches[:2], jax.random.key(0)
    )
    assert np.all(np.isfinite(found))
    assert np.abs(found).max() > 1e-3


@pytest.fixture(scope="module")
def weights():
    return unet.init(SMALL, jax.random.key(1))


def test_the_network_is_a_u_net(weights):
    shapes = {name: layer["kernel"].shape for name, layer in weights["params"].items()}
    assert shapes["down0"] == (4, 4, 3, 4)
    assert shapes["down2"] == (4, 4, 6, 8)
    assert shapes["up2"] == (4, 4, 8, 6)
    assert shapes["up1"] == (4, 4, 12, 4)
    assert shapes["up0"] == (4, 4, 8, 3)
    apply, x = jax.jit(unet.apply_of(SMALL)), jnp.asarray(np.random.default_rng(0).random((2, 16, 24, 3)), jnp.float32)
    plain = apply(weights, x, None)
    assert plain.shape == x.shape
    assert np.abs(plain).max() <= 1
    np.testing.assert_array_equal(plain, apply(weights, x, None))
    np.testing.assert_allclose(plain[1:], apply(weights, x[1:], None), atol=1e-6)
    dropped = [apply(weights, x, jax.random.key(i)) for i in (0, 1)]
    assert not np.allclose(dropped[0], dropped[1])
    with pytest.raises(ValueError, match="multiples of 8"):
        apply(weights, x[:, :12], None)


@pytest.mark.parametrize(
    ("ours", "plain"),
    [
        (unet.Halving(4), nn.Conv(4, (4, 4), (2, 2), ((1, 1), (1, 1)))),
        (unet.Doubling(4), nn.ConvTranspose(4, (4, 4), (2, 2), "SAME")),
    ],
    ids=["halving", "doubling"],
)
def test_its_layers_are_strided_convolutions(ours, plain):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 6, 4, 5)), jnp.float32)
    variables = ours.init(jax.random.key(0), x)
    variables["params"]["bias"] = jnp.arange(4.0)
    assert jax.tree.map(jnp.shape, plain.init(jax.random.key(0), x)) == jax.tree.map(jnp.shape, variables)
    np.testing.assert_allclose(ours.apply(variables, x), plain.apply(variables, x), atol=2e-6)


def test_the_full_network_has_the_published_size():
    variables = jax.eval_shape(lambda: unet.init(unet.UNet(), jax.random.key(0)))
    layers = variables["params"]
    assert [layers[f"down{i}"]["kernel"].shape[-1] for i in range(8)] == [64, 128, 256, 512, 512, 512, 512, 512]
    assert [layers[f"up{i}"]["kernel"].shape[-1] for i in range(8)] == [3, 64, 128, 256, 512, 512, 512, 512]
    assert 54e6 < sum(leaf.size for leaf in jax.tree.leaves(variables)) < 55e6


def test_a_network_learns_to_draw_a_pattern(weights, tiny_score, batches):
    noise = jax.random.uniform(jax.random.key(2), (1, 16, 24, 3))
    training = universal_training.generative(unet.apply_of(SMALL), weights, noise, step_size=0.01)
    objective, key = in_range(objectives.raise_score()), jax.random.key(0)
    found, losses = universal_training.train_pattern(training, tiny_score, objective, list(batches) * 3, key)
    assert losses[-6:].mean() < losses[:6].mean()
    assert found.shape == (16, 24, 3)
    assert np.abs(found).max() <= 10 / 255
    state, _ = universal_training.train(
        training, tiny_score, objective, universal_training.start_training(training, key), list(batches) * 3
    )
    without_dropout = unet.apply_of(SMALL)(state.params, noise, None)[0]
    np.testing.assert_allclose(found, 10 / 255 * without_dropout, atol=1e-7)


def test_a_network_learns_to_draw_from_images(weights, tiny_score, batches, images, keys):
    apply = unet.apply_of(SMALL)
    training = universal_training.image_conditioned(apply, weights, step_size=0.01)
    objective = in_range(objectives.raise_score())
    start = universal_training.start_training(training, jax.random.key(0))
    state, losses = universal_training.train(training, tiny_score, objective, start, list(batches) * 3)
    assert losses[-6:].mean() < losses[:6].mean()
    network = Partial(_without_key, apply, state.params)
    attack = universal.facpa(objectives.raise_score(), amplitude=0.1, network=network, side=8)
    result = run_attack(attack, tiny_score, images, keys, fused=True)
    assert np.all(result.scores > tiny_score(images))
    assert np.abs(result.images - images).max() <= 10 / 255 * (1 + 1e-5)


def _without_key(apply, params, images):
    return apply(params, images, None)


def test_training_in_parts_is_training_in_one(weights, tiny_score, batches):
    """The key and the moments of Adam are carried along."""
    training = universal_training.image_conditioned(unet.apply_of(SMALL), weights)
    objective = in_range(objectives.raise_score())
    whole, losses = universal_training.train(
        training, tiny_score, objective, universal_training.start_training(training, jax.random.key(0)), batches
    )
    state = universal_training.start_training(training, jax.random.key(0))
    state, first = universal_training.train(training, tiny_score, objective, state, batches[:2])
    state, second = universal_training.train(training, tiny_score, objective, state, batches[2:])
    np.testing.assert_array_equal(np.concatenate([first, second]), losses)
    jax.tree.map(np.testing.assert_array_equal, state.params, whole.params)
