"""Adversarial training: examples inside the ball, labels that follow what people would see, and consistency."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial
from small_models import images_and_labels, small_model, variables_of

from nriqa_jax.defenses import adversaries, regimes
from nriqa_jax.defenses.losses import l1, l2
from nriqa_jax.defenses.regimes import AdversarialTraining, Consistency, correct_labels, dissimilarity, everywhere
from nriqa_jax.defenses.training import Batch, Recipe, init_state, train_step
from nriqa_jax.metrics.fidelity import ssim

EPSILON = 4 / 255
KEYS = jax.random.split(jax.random.key(0), 4)


@functools.cache
def case():
    model = small_model()
    variables = variables_of(model)
    images, labels = images_and_labels()
    images = jnp.round(images * 2) / 2  # many saturated pixels
    return Partial(model.apply, variables), Batch(images, labels)


def attacked(adversary, loss=l1):
    score_fn, batch = case()
    return jax.jit(lambda adversary: adversary(score_fn, loss, batch, KEYS))(adversary)


@pytest.mark.parametrize(
    "adversary",
    [adversaries.fgsm(EPSILON), adversaries.fast(EPSILON), adversaries.pgd(EPSILON, 3)],
    ids=("fgsm", "fast", "pgd"),
)
def test_examples_are_in_the_ball_and_raise_the_loss(adversary):
    score_fn, batch = case()
    images = attacked(adversary)
    assert np.abs(images - batch.images).max() <= EPSILON + 1e-7
    assert images.min() >= 0
    assert images.max() <= 1
    losses = np.abs(score_fn(images) - batch.labels), np.abs(score_fn(batch.images) - batch.labels)
    assert np.all(losses[0] > losses[1])
    assert np.mean(np.abs(images - batch.images) > 0.99 * EPSILON) > 0.2  # half of the saturated pixels cannot move


def test_fgsm_is_one_signed_step():
    score_fn, (images, labels) = case()
    slope = jax.grad(lambda images: l2(score_fn(images), labels))(images)
    expected = jnp.clip(images + EPSILON * jnp.sign(slope), 0, 1)
    np.testing.assert_allclose(attacked(adversaries.fgsm(EPSILON), l2), expected, atol=1e-7)


def test_the_published_ball_is_around_the_noise():
    batch = case()[1]
    adversary = adversaries.fast(EPSILON)
    reach = [
        np.abs(
            attacked(adversaries.Adversary(epsilon=EPSILON, step_size=EPSILON, start=EPSILON, ball_around_start=around))
            - batch.images
        ).max()
        for around in (False, True)
    ]
    assert adversary.start == EPSILON
    assert reach[0] <= EPSILON + 1e-7
    assert 1.9 * EPSILON < reach[1] <= 2 * EPSILON + 1e-7


def test_directions():
    score_fn, batch = case()
    clean = score_fn(batch.images)
    ends = {}
    for name, objectives in {
        "up": (Partial(adversaries.raise_scores),),
        "down": (Partial(adversaries.lower_scores),),
        "both": adversaries.BOTH_WAYS,
        "away": (Partial(adversaries.move_scores),),
    }.items():
        adversary = adversaries.Adversary(epsilon=EPSILON, step_size=EPSILON, start=1e-3, objectives=objectives)
        ends[name] = np.asarray(score_fn(attacked(adversary)) - clean)
    assert np.all(ends["up"] > 0)
    assert np.all(ends["down"] < 0)
    np.testing.assert_allclose(np.abs(ends["both"]), np.maximum(ends["up"], -ends["down"]), rtol=1e-4)
    assert np.all(np.abs(ends["away"]) > 0.5 * np.abs(ends["both"]))


@pytest.mark.parametrize(("best", "worst"), [(90.0, 10.0), (10.0, 90.0)])
def test_labels_are_lowered_by_what_ssim_sees(best, worst):
    batch = case()[1]
    images = attacked(adversaries.fgsm(EPSILON))
    moved = batch.labels + 0.5 * (1 - ssim(images, batch.images)) * (worst - best)
    found = correct_labels(Partial(dissimilarity), best, worst, 0.5, batch.labels, images, batch.images)
    np.testing.assert_allclose(found, np.clip(moved, 10, 90), rtol=1e-6)
    assert np.all(np.sign(found - batch.labels) == np.sign(worst - best))
    for share, expected in ((0.1, batch.labels + 0.1 * (worst - best)), (1.0, np.full(4, worst))):
        found = correct_labels(Partial(everywhere, share), best, worst, 1.0, batch.labels, images, batch.images)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_regime_shows_pairs_and_sums_their_losses():
    score_fn, batch = case()
    adversary = adversaries.fgsm(EPSILON)
    lowered = Partial(correct_labels, Partial(everywhere, 0.1), 100.0, 0.0, 1.0)
    seen = AdversarialTraining(adversary, lowered).extend(score_fn, l1, batch, KEYS)
    np.testing.assert_array_equal(seen.images[1::2], batch.images)
    np.testing.assert_allclose(seen.images[0::2], attacked(adversary), atol=1e-6)
    np.testing.assert_allclose(seen.labels, np.stack([batch.labels - 10, batch.labels], 1).ravel(), rtol=1e-6)
    alone = AdversarialTraining(adversary, with_clean=False).extend(score_fn, l1, batch, KEYS)
    np.testing.assert_array_equal(alone.labels, batch.labels)
    scores = np.array([3.0, 1.0, 4.0, 6.0], np.float32)
    labels = np.array([9.0, 2.0, 9.0, 8.0], np.float32)
    total = Consistency(adversary, 6.0, 10.0).total(l1, jnp.asarray(scores), jnp.asarray(labels))
    np.testing.assert_allclose(total, (1 + 2) / 2 + 6 * 0.2**2, rtol=1e-6)


def test_a_step_of_each_regime():
    model, (images, labels) = small_model(), case()[1]
    state, losses = None, {}
    for regime in (
        regimes.CleanTraining(),
        AdversarialTraining(adversaries.fgsm(EPSILON), with_clean=False),
        Consistency(adversaries.pgd(EPSILON, 2), 1.0, 100.0),
    ):
        recipe = Recipe(Partial(l1), Partial(optax.sgd, 0.1), regime=regime)
        state = init_state(recipe, variables_of(model))
        step = jax.jit(functools.partial(train_step, model))
        _, metrics = step(recipe, state, Batch(images, labels), KEYS)
        losses[type(regime)] = metrics["loss"]
    assert losses[AdversarialTraining] > losses[regimes.CleanTraining]


def test_free_training_reuses_the_gradient_of_the_images():
    model, batch = small_model(), case()[1]
    recipe = Recipe(Partial(l2), Partial(optax.sgd, 0.01), free_epsilon=EPSILON)
    state = init_state(recipe, variables_of(model), batch.images.shape)
    step = jax.jit(functools.partial(train_step, model))
    variables = state.variables()

    def loss(images):
        return l2(model.apply_training(variables, model.views(images))[0], batch.labels)

    state, metrics = step(recipe, state, batch, KEYS)
    np.testing.assert_allclose(metrics["loss"], loss(batch.images), rtol=1e-5)
    slope = jax.grad(loss)(batch.images)
    clear = np.abs(slope) > 1e-3 * np.abs(slope).max()
    np.testing.assert_array_equal(np.sign(state.delta)[clear], np.sign(slope)[clear])
    changed = jnp.clip(batch.images + state.delta, 0.0, 1.0)
    variables = state.variables()
    state, metrics = step(recipe, state, batch, KEYS)
    np.testing.assert_allclose(metrics["loss"], loss(changed), rtol=1e-5)
    state, metrics = step(recipe, state, batch, KEYS)
    assert np.abs(state.delta).max() <= EPSILON * (1 + 1e-6)
    assert state.step == 3
    with pytest.raises(ValueError, match="holds no change of the images"):
        step(recipe, state._replace(delta=None), batch, KEYS)
    with pytest.raises(ValueError, match="give images_shape"):
        init_state(recipe, variables)
