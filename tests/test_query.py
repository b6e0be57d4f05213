"""The black-box loop, run with a small random search."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from nriqa_jax.attacks import gradient, objectives
from nriqa_jax.attacks.gradient import select
from nriqa_jax.attacks.query import QueryAttack, Search
from nriqa_jax.parallel import run_attack

Q = 3


def start(keys, images):
    return images, jnp.full(len(images), jnp.inf, jnp.float32)


def neighbours(size, state, images, keys):
    noise = jax.vmap(lambda key: jax.random.uniform(key, (Q, *images.shape[1:]), minval=-1.0))(keys)
    return jnp.clip(state[0][:, None] + size * noise, 0.0, 1.0)


def move(state, images, keys, candidates, losses):
    found = jax.vmap(lambda own, i: own[i])(candidates, losses.argmin(1))
    state = select(losses.min(1) < state[1], (found, losses.min(1)), state)
    return state, state[1]


def stay(state, images, keys, candidates, losses):
    return state, losses.mean(1)


def best(state, images):
    return state[0]


def random_search(objective=None, steps=6, size=0.05, tell=move, **settings):
    search = Search(Partial(start), Partial(neighbours, size), Partial(tell), Partial(best))
    return QueryAttack(objective or objectives.raise_score(), search, steps, **settings)


def test_each_step_scores_one_batch_and_counts_its_queries(images, keys):
    shapes = []

    def score(weight, images):
        shapes.append(images.shape)
        return weight * images.mean((1, 2, 3))

    score_fn = Partial(score, jnp.float32(2.0))
    for size in (0.02, 0.04, 0.06):
        result = run_attack(random_search(size=size), score_fn, images, keys, fused=False)
    assert sorted(shapes) == [(5, 24, 20, 3), (5 * Q, 24, 20, 3)]
    np.testing.assert_array_equal(result.queries, 6 * Q + 1)
    assert result.loss_trace.shape == (6, 5)
    assert result.health is None


def test_the_score_function_needs_no_derivative(images, keys):
    def score(images):
        rows = jax.ShapeDtypeStruct(images.shape[:1], jnp.float32)
        return jax.pure_callback(lambda x: np.asarray(x).mean((1, 2, 3)), rows, images)

    assert np.all(run_attack(random_search(), score, images, keys).scores > score(images))


def test_a_host_loop_and_one_program_agree_and_leave_the_images_alone(tiny_score, images, keys):
    attack = random_search(stop_at=-50.0, keep_best=True)
    host = run_attack(attack, tiny_score, images, keys, fused=False)
    fused = run_attack(attack, tiny_score, images, keys, fused=True)
    plain = gradient.run(attack, tiny_score, images, keys)
    for other in (fused, plain):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), host, other)
    assert np.isfinite(images).all()  # steps use their state up


def test_results_depend_on_key_and_image_alone(tiny_score, images, keys):
    attack = random_search()
    result = run_attack(attack, tiny_score, images, keys)
    order = jnp.array([3, 0, 4, 1, 2])
    permuted = run_attack(attack, tiny_score, images[order], keys[order])
    np.testing.assert_allclose(permuted.images, result.images[order], atol=1e-6)
    alone = run_attack(attack, tiny_score, images[2:3], keys[2:3])
    np.testing.assert_allclose(alone.images, result.images[2:3], atol=1e-6)


def test_the_best_candidate_of_each_image_is_kept(images, keys):
    def score(images):
        return jnp.sin(300.0 * images).mean((1, 2, 3))

    kept = run_attack(random_search(tell=stay, keep_best=True), score, images, keys)
    asked = [neighbours(0.05, (images, None), images, step_keys) for step_keys in keys_of_steps(keys, 6)]
    everything = jax.vmap(score, 1)(jnp.concatenate(asked, axis=1))
    np.testing.assert_allclose(kept.scores, everything.max(0), atol=1e-5)
    np.testing.assert_array_equal(kept.queries, 6 * Q + 2)
    forgotten = run_attack(random_search(tell=stay), score, images, keys)
    np.testing.assert_array_equal(forgotten.images, images)


@pytest.mark.parametrize("keep_best", [False, True])
def test_an_image_that_reaches_its_goal_asks_no_more(keep_best, tiny_score, images, keys):
    free = run_attack(random_search(steps=8), tiny_score, images, keys)
    stops = np.array([0, 2, 5, 7, 8])  # the last never does
    trace = np.vstack([free.loss_trace, np.full(5, -np.inf)])
    goals = jnp.asarray(trace[stops, np.arange(5)])
    attack = random_search(steps=8, keep_best=keep_best, stop_at=goals)
    result = run_attack(attack, tiny_score, images, keys)
    reached = np.array([np.argmax(trace[:, i] <= goals[i]) for i in range(5)])
    taken = np.minimum(reached + 1, 8)
    np.testing.assert_array_equal(result.queries, Q * taken + 1 + keep_best)
    for i, steps in enumerate(taken):
        shorter = run_attack(random_search(steps=int(steps)), tiny_score, images, keys)
        np.testing.assert_allclose(result.images[i], shorter.images[i], atol=1e-6)
        np.testing.assert_allclose(result.loss_trace[steps:, i], result.loss_trace[steps - 1, i])
    np.testing.assert_array_less(-result.scores[:4], goals[:4] + 1e-4)


def test_goals_are_data(images, keys):
    traces = []

    def score(weight, images):
        traces.append(1)
        return weight * images.mean((1, 2, 3))

    counts = []
    for goal in (-0.1, -0.2, -0.3):
        run_attack(random_search(stop_at=goal), Partial(score, jnp.float32(1.0)), images, keys, fused=True)
        counts.append(len(traces))
    assert counts == counts[:1] * 3


def test_each_candidate_is_held_against_the_target_of_its_image(tiny_score, images, keys):
    clean = tiny_score(images)
    targets = clean + jnp.array([0.2, -0.2, 0.1, -0.1, 0.0])
    result = run_attack(random_search(objectives.reach_target(targets), steps=20), tiny_score, images, keys)
    assert np.all(np.abs(result.scores - targets)[:4] < np.abs(clean - targets)[:4])


def test_nan_is_no_improvement(images, keys):
    def score(images):
        return jnp.where(images.mean((1, 2, 3)) > 0.5, jnp.nan, images.mean((1, 2, 3)))

    result = run_attack(dataclasses.replace(random_search(), keep_best=True), score, 0.8 * images, keys)
    assert np.all(np.isfinite(result.scores))


def keys_of_steps(keys, steps):
    for _ in range(steps):
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 0)
        yield keys
