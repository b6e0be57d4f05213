"""What makes attacks adaptive, on small purifiers that blur, round and add noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nriqa_jax import image
from nriqa_jax.attacks import black_box, objectives, presets
from nriqa_jax.attacks.composite import Strongest
from nriqa_jax.defenses.adaptive import Identity, attackable, bpda, checkpointed, defended, eot
from nriqa_jax.defenses.geometric import RandomCrop, Resize
from nriqa_jax.defenses.purifier import compose
from nriqa_jax.defenses.quantization import ColorQuantization
from nriqa_jax.parallel import Replicas, call, run_attack
from nriqa_jax.slots import run_in_slots

EPSILON = 8 / 255


def blur(images, keys):
    del keys
    return image.box_mean(images)


def sharpen(images, keys):
    return 2.0 * images - blur(images, keys)


def round_levels(images, keys):
    del keys
    return jnp.round(images * 15.0) / 15.0


def on_the_host(images, keys):
    """What autodiff cannot enter, as the call of a codec."""
    shape = jax.ShapeDtypeStruct(images.shape, images.dtype)
    return jax.pure_callback(lambda x: np.round(x * 15.0).astype(np.float32) / np.float32(15.0), shape, images)


def add_noise(images, keys):
    draw = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:], images.dtype))
    return images + 0.1 * draw(keys)


def halve(images, keys):
    return images[:, ::2, ::2]


def pixel_gradient(score_fn, images):
    return jax.grad(lambda x: jnp.sum(score_fn(x)))(images)


def test_a_defended_model_scores_what_its_purifier_makes(tiny_score, images, keys):
    found = call(defended(tiny_score, blur), images)
    np.testing.assert_allclose(found, tiny_score(blur(images, keys)), rtol=1e-6)
    assert defended(tiny_score, halve)(images).shape == (5,)


def test_draws_without_keys_are_a_function_of_the_image(tiny_score, images):
    model = eot(defended(tiny_score, add_noise, jax.random.key(3)), 2)
    together = model(images)
    alone = jnp.concatenate([model(images[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    np.testing.assert_allclose(model(images[::-1])[::-1], together, rtol=1e-6)
    other = eot(defended(tiny_score, add_noise, jax.random.key(4)), 2)
    assert np.all(np.abs(other(images) - together) > 1e-4)


def test_draws_follow_the_keys_of_the_images(tiny_score, images, keys):
    model = defended(tiny_score, add_noise)
    together = model.drawn(keys)(images)
    alone = jnp.concatenate([model.drawn(keys[i : i + 1])(images[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    twice = model.drawn(keys)(jnp.repeat(images, 2, axis=0)).reshape(5, 2)
    np.testing.assert_allclose(twice[:, 0], together, rtol=1e-6)
    assert np.all(twice[:, 0] != twice[:, 1])
    with pytest.raises(ValueError, match="versions of each of 5 images, got 7"):
        model.drawn(keys)(jnp.concatenate([images, images[:2]]))


def test_eot_is_the_mean_over_draws_of_scores_and_gradients(tiny_score, images, keys):
    single, draws = defended(tiny_score, add_noise).drawn(keys), 4
    versions = jnp.repeat(images, draws, axis=0)
    scores = single(versions).reshape(5, draws).mean(1)
    gradients = pixel_gradient(single, versions).reshape(5, draws, *images.shape[1:]).mean(1)
    several = eot(defended(tiny_score, add_noise), draws).drawn(keys)
    np.testing.assert_allclose(several(images), scores, rtol=1e-6)
    np.testing.assert_allclose(pixel_gradient(several, images), gradients, atol=1e-6)
    with pytest.raises(ValueError, match="at least one draw, got 0"):
        eot(defended(tiny_score, add_noise), 0)


@pytest.mark.parametrize("purifier", [round_levels, on_the_host])
def test_bpda_has_the_values_of_one_and_the_gradient_of_another(purifier, tiny_score, images, keys):
    for backward in (None, blur):
        replaced = bpda(purifier, backward) if backward else bpda(purifier)
        np.testing.assert_array_equal(jax.jit(replaced)(images, keys), round_levels(images, keys))
        direction = jnp.cos(jnp.arange(images.size, dtype=jnp.float32)).reshape(images.shape)
        expected = backward(direction, keys) if backward else direction
        _, forward = jax.jvp(lambda x: replaced(x, keys), (images,), (direction,))  # noqa: B023
        np.testing.assert_allclose(forward, expected, atol=1e-6)
        weights = jax.grad(lambda x: jnp.sum(tiny_score(x)))(round_levels(images, keys))
        through = pixel_gradient(defended(tiny_score, replaced), images)
        np.testing.assert_allclose(through, backward(weights, keys) if backward else weights, atol=1e-5)


def test_bpda_refuses_a_backward_pass_of_another_size(images, keys):
    with pytest.raises(ValueError, match=r"gives \(24, 20\) pixels, and the purifier \(12, 10\)"):
        bpda(halve)(images, keys)
    half = bpda(lambda images, keys: round_levels(halve(images, keys), keys), halve)
    assert half(images, keys).shape == (5, 12, 10, 3)


def test_attackable_replaces_what_has_no_gradient(tiny_score, images, keys):
    smooth, rounding = Resize(0.5), ColorQuantization(4)
    assert attackable(smooth) is smooth
    assert attackable(blur) is blur
    direction = jnp.ones_like(images)
    for chain, backward in (
        (rounding, lambda x, keys: x),
        (compose(rounding, smooth), smooth),
        (compose(compose(rounding, RandomCrop(8)), rounding), compose(compose(Identity(), RandomCrop(8)), Identity())),
    ):
        found, tangent = jax.jvp(lambda x: attackable(chain)(x, keys), (images,), (direction,))  # noqa: B023
        np.testing.assert_array_equal(found, chain(images, keys))
        np.testing.assert_allclose(tangent, backward(direction, keys), atol=1e-6)


def test_checkpointing_keeps_values_and_gradients(tiny_score, images):
    def deep(images, keys):
        return jnp.tanh(jnp.sin(blur(jnp.sin(images), keys)))

    plain, saving = defended(tiny_score, deep), defended(tiny_score, checkpointed(deep))
    np.testing.assert_allclose(saving(images), plain(images), rtol=1e-6)
    np.testing.assert_allclose(pixel_gradient(saving, images), pixel_gradient(plain, images), atol=1e-6)
    _, kept = jax.eval_shape(lambda x: jax.vjp(plain, x), images)
    _, less = jax.eval_shape(lambda x: jax.vjp(saving, x), images)
    size = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (kept, less)]
    assert size[1] < size[0] - images.size


def gains(attack, attacked_model, tiny_score, purifier, images, keys):
    """How far an attack moves the scores behind the purifier."""
    model = defended(tiny_score, purifier, jax.random.key(99))
    return model(run_attack(attack, attacked_model, images, keys).images) - model(images)


def test_attacks_that_know_the_defense_get_through_it(tiny_score, images, keys):
    attack = presets.ifgsm(objectives.raise_score(), epsilon=EPSILON, steps=5)

    def gain(model, purifier):
        return np.mean(gains(attack, model, tiny_score, purifier, images, keys))

    assert gain(defended(tiny_score, round_levels), round_levels) == 0  # its gradient is zero
    unaware, aware = gain(tiny_score, round_levels), gain(defended(tiny_score, bpda(round_levels)), round_levels)
    assert aware > unaware > 0
    assert gain(defended(tiny_score, sharpen), sharpen) > gain(tiny_score, sharpen) > 0
    assert gain(eot(defended(tiny_score, add_noise), 4), add_noise) > 0


@pytest.mark.parametrize(
    "attack",
    [
        presets.pgd_linf(objectives.raise_score(), epsilon=EPSILON, steps=2, restarts=2),
        black_box.square(objectives.raise_score(), epsilon=EPSILON, queries=6),
        Strongest(objectives.raise_score(), (presets.fgsm(objectives.raise_score(), epsilon=EPSILON),) * 2),
    ],
    ids=["restarts", "queries", "composite"],
)
def test_every_kind_of_attack_draws_by_the_keys_of_its_images(attack, tiny_score, images, keys):
    model = defended(tiny_score, add_noise)
    together = run_attack(attack, model, images, keys)
    alone = run_attack(attack, model, images[3:4], keys[3:4])
    np.testing.assert_allclose(together.images[3], alone.images[0], atol=1e-6)
    assert np.max(np.abs(together.images - images)) <= EPSILON + 1e-6


def test_attacks_draw_anew_at_every_step(tiny_score, images, keys):
    still = presets.ifgsm(objectives.raise_score(), epsilon=EPSILON, step_size=0.0, steps=3)
    trace = run_attack(still, defended(tiny_score, add_noise), images, keys).loss_trace
    assert len(np.unique(trace)) == trace.size
    constant = run_attack(still, defended(tiny_score, blur), images, keys).loss_trace
    np.testing.assert_allclose(constant, np.broadcast_to(constant[0], constant.shape), rtol=1e-6)


def test_draws_in_slots_are_those_of_plain_batches(tiny_score, images, keys):
    attack = black_box.square(objectives.raise_score(), epsilon=EPSILON, queries=6)
    model = defended(tiny_score, add_noise)
    plain = run_attack(attack, model, images, keys)
    slotted = run_in_slots(lambda owners: attack, Replicas(model), np.asarray(images), keys, 2)
    np.testing.assert_allclose(slotted.result.images, plain.images, atol=1e-6)
    np.testing.assert_allclose(slotted.result.scores, plain.scores, rtol=1e-5)
