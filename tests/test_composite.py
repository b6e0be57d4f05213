"""Attacks made of attacks: the strongest of several, and strength matched to a visible change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from nriqa_jax.attacks import objectives, presets, update_rules
from nriqa_jax.attacks.amifgsm import amifgsm_niqe
from nriqa_jax.attacks.composite import Matched, Strongest
from nriqa_jax.attacks.gradient import GradientAttack
from nriqa_jax.attacks.perturbations import anywhere
from nriqa_jax.image import from_uint8, quantize_toward, to_uint8
from nriqa_jax.metrics import fidelity
from nriqa_jax.metrics.niqe import niqe, pristine_of
from nriqa_jax.parallel import run_attack

GOAL = objectives.lower_score()
MEMBERS = (
    presets.ifgsm(GOAL, steps=3),
    presets.ifgsm(objectives.raise_score(), steps=3),
    presets.pgd_linf(GOAL, steps=5),
    presets.fgsm(GOAL),
)


def on_disk(result, images):
    return from_uint8(quantize_toward(result.images, to_uint8(images)))


def test_the_strongest_result_of_each_image_is_kept(tiny_score, images, keys):
    best = run_attack(Strongest(GOAL, MEMBERS), tiny_score, images, keys)
    members = [run_attack(member, tiny_score, images, keys) for member in MEMBERS]
    scores = np.stack([tiny_score(on_disk(member, images)) for member in members])
    np.testing.assert_allclose(best.scores, scores.min(0), rtol=1e-6)
    np.testing.assert_allclose(tiny_score(best.images), best.scores, rtol=1e-6)
    assert best.loss_trace.shape == (3 + 3 + 5 + 1, 5)
    np.testing.assert_array_equal(best.queries, sum(member.queries for member in members) + len(MEMBERS))


def test_the_objective_of_the_whole_decides(tiny_score, images, keys):
    clean = tiny_score(images)
    both = run_attack(Strongest(objectives.change(clean), MEMBERS[:2]), tiny_score, images, keys)
    changes = [
        np.abs(tiny_score(on_disk(run_attack(m, tiny_score, images, keys), images)) - clean) for m in MEMBERS[:2]
    ]
    np.testing.assert_allclose(np.abs(both.scores - clean), np.max(changes, axis=0), rtol=1e-4)


def test_a_failed_member_is_passed_over(images, keys):
    def score(images):
        return jnp.where(images.mean((1, 2, 3)) > 0, images.mean((1, 2, 3)), jnp.nan)

    failing = GradientAttack(GOAL, anywhere(), Partial(update_rules.sign_descent, 1.0), steps=1)
    best = run_attack(Strongest(GOAL, (failing, presets.fgsm(GOAL))), score, images, keys)
    assert np.all(np.isfinite(best.scores))


def by_sign(knob):
    return GradientAttack(GOAL, anywhere(), Partial(update_rules.sign_descent, knob), steps=4)


@pytest.mark.parametrize(
    ("cost", "limit"),
    [
        (fidelity.linf, 6 / 255),
        (lambda x, y: 1 - fidelity.ssim(x, y), 0.02),
        (lambda x, y: -fidelity.psnr(x, y), -35.0),
    ],
    ids=["linf", "ssim", "psnr"],
)
def test_strength_is_matched_for_each_image(cost, limit, tiny_score, images, keys):
    attack = Matched(GOAL, by_sign, cost, limit + 1e-6, 1e-4, 1.0, rounds=12)
    found = run_attack(attack, tiny_score, images, keys)
    costs = np.asarray(cost(found.images, images))
    assert np.all(costs <= limit + 2e-6)
    assert np.all(costs >= limit - 0.25 * abs(limit))
    assert np.all(found.scores < tiny_score(images))
    alone = run_attack(attack, tiny_score, images[1:2], keys[1:2])
    np.testing.assert_allclose(alone.images, found.images[1:2], atol=1e-6)
    np.testing.assert_array_equal(alone.queries, found.queries[1:2])


@pytest.mark.parametrize("own", [0.1, 0.02, 1e-3])
def test_a_search_for_a_strength_ends_when_all_images_have_met_it(own, tiny_score, images, keys):
    made = []

    def make(knob):
        made.append(knob)
        return by_sign(knob)

    attack = Matched(GOAL, make, fidelity.linf, 8 / 255 + 1e-6, own / 64, own * 64)
    found = run_attack(attack, tiny_score, images, keys)
    np.testing.assert_allclose(fidelity.linf(found.images, images), 8 / 255, atol=1e-6)
    queries = np.asarray(found.queries) // (4 + 1 + 1)  # of a run: its steps, the result, and that rounded
    assert queries.max() == len(made) <= 5


def test_a_search_for_a_strength_can_be_compiled(tiny_score, images, keys):
    attack = Matched(GOAL, by_sign, fidelity.linf, 8 / 255 + 1e-6, 1e-4, 1.0)
    whole = jax.jit(lambda images: attack(tiny_score, images, keys).images)(images)
    np.testing.assert_allclose(whole, run_attack(attack, tiny_score, images, keys).images, atol=1e-6)


def test_the_smallest_cost_is_kept_where_no_strength_fits(tiny_score, images, keys):
    found = run_attack(Matched(GOAL, by_sign, fidelity.linf, 1e-4, 0.01, 1.0, rounds=8), tiny_score, images, keys)
    weakest = run_attack(by_sign(jnp.full(5, 0.01)), tiny_score, images, keys)
    smallest = fidelity.linf(on_disk(weakest, images), images)
    np.testing.assert_allclose(fidelity.linf(found.images, images), smallest, atol=1e-6)


def test_a_knob_for_each_image_equals_one_for_all(tiny_score, images, keys):
    knobs = jnp.array([1.0, 2.0, 3.0, 4.0, 5.0]) / 255
    for make in (presets.ifgsm, presets.pgd_linf, presets.pgd_l2, presets.apgd, presets.mifgsm):
        together = run_attack(make(GOAL, epsilon=knobs), tiny_score, images, keys).images
        for i, knob in enumerate(knobs.tolist()):
            alone = run_attack(make(GOAL, epsilon=knob), tiny_score, images[i : i + 1], keys[i : i + 1]).images
            np.testing.assert_allclose(together[i : i + 1], alone, atol=1e-6)


def test_the_radius_of_an_image_is_a_share_of_its_niqe(tiny_score, keys):
    rng = np.random.default_rng(2)
    grain = np.array([5.0, 20.0, 60.0]).reshape(3, 1, 1, 1)
    images = jnp.asarray(np.clip(np.round(rng.normal(128, grain, (3, 200, 100, 3))), 0, 255), jnp.float32) / 255
    natural = pristine_of(np.full(36, 0.5), np.eye(36))
    found = run_attack(amifgsm_niqe(GOAL, scale=0.05, natural=natural), tiny_score, images, keys[:3])
    radii = 0.05 / niqe(images, natural)
    np.testing.assert_allclose(jnp.abs(found.images - images).max((1, 2, 3)), radii, rtol=1e-3)
    assert np.all(found.scores < tiny_score(images))
