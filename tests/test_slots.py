"""Slots: results are those of plain batches, batches stay full, and nothing is compiled twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from nriqa_jax.attacks import black_box, objectives
from nriqa_jax.attacks.query import QueryAttack
from nriqa_jax.parallel import Replicas, run_attack
from nriqa_jax.slots import run_in_slots

COUNT = 40
PRESETS = {
    "nes": (black_box.nes, {"epsilon": 0.1, "samples": 3, "sigma": 0.01, "step_size": 0.3, "tile": 8, "steps": 10}),
    "square": (black_box.square, {"epsilon": 0.1, "queries": 60}),
}


@pytest.fixture
def many():
    images = np.random.default_rng(2).random((COUNT, 16, 12, 3), np.float32)
    return images, jax.random.split(jax.random.key(3), COUNT)


@pytest.fixture
def goals(many, tiny_score):
    """Scores at which images are done, in no order: gains from next to nothing on, and four that are never reached."""
    gains = np.concatenate([np.linspace(0.02, 1.5, COUNT - 4), np.full(4, 1e3)])
    return tiny_score(many[0]) + jnp.asarray(np.random.default_rng(0).permutation(gains), jnp.float32)


def made(name, goals, **settings):
    """The attack on the images at some positions, each of which stops at its own goal."""
    preset, own = PRESETS[name]
    return lambda rows: preset(objectives.raise_score(), stop_at=-goals[rows], **{**own, **settings})


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("slots", [4, 7])
def test_results_are_those_of_a_plain_batch(name, slots, tiny_score, many, goals):
    images, keys = many
    make = made(name, goals)
    found = run_in_slots(make, Replicas(tiny_score), images, keys, slots)
    expected = run_attack(make(np.arange(COUNT)), tiny_score, jnp.asarray(images), keys)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found.result, expected)
    per_step = 6 if name == "nes" else 1
    np.testing.assert_array_equal(found.steps * per_step + 1, found.result.queries)
    assert len(set(found.steps.tolist())) >= 5
    assert found.fill > 0.8
    assert found.fill > 1.5 * found.steps.mean() / make(np.arange(COUNT)).steps  # that of the plain batch


def test_objectives_may_differ_between_images_and_candidates_may_be_kept(tiny_score, many):
    images, keys = many
    clean = tiny_score(images)

    def make(rows):
        attack = black_box.square(objectives.move_away(clean[rows], 40.0, 60.0), epsilon=0.1, queries=20)
        return QueryAttack(attack.objective, attack.search, attack.steps, keep_best=True)

    found = run_in_slots(make, Replicas(tiny_score), images[:9], keys[:9], 4)
    expected = run_attack(make(np.arange(9)), tiny_score, jnp.asarray(images[:9]), keys[:9])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found.result, expected)
    assert found.fill == 1.0  # without a goal all take the same time; the last image gets a batch of its own


def test_the_model_is_traced_once_for_each_number_of_slots(many, goals):
    shapes = []

    def score(weight, images):
        shapes.append(images.shape)
        return weight * (images**2).mean((1, 2, 3))

    images, keys = many
    replicas = Replicas(Partial(score, jnp.float32(3.0)))
    make = made("square", 3.0 * (images**2).mean((1, 2, 3)) + jnp.linspace(0.001, 0.2, COUNT))
    found = run_in_slots(make, replicas, images, keys, 8)
    assert len(set(found.steps.tolist())) > 3
    assert len(shapes) == len(set(shapes))  # one program for steps and results
    assert {rows for rows, *_ in shapes} <= {8, 4, 2, 1}  # where no image waits


def test_slots_without_images_and_images_without_slots(tiny_score, many, goals):
    images, keys = many
    make = made("square", goals)
    few = run_in_slots(make, Replicas(tiny_score), images[:3], keys[:3], 16)
    assert few.result.images.shape == (3, 16, 12, 3)
    for count, slots in ((0, 4), (3, 0)):
        with pytest.raises(ValueError, match="slots"):
            run_in_slots(make, Replicas(tiny_score), images[:count], keys[:count], slots)
