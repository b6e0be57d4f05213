"""The pool, run with two sessions of different kinds: greedy flips of blocks, and differential evolution."""

import heapq
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from nriqa_jax import parallel
from nriqa_jax.attacks import objectives
from nriqa_jax.attacks.pool import losses_of, run_pool

EPSILON, SIDE, BLOCK = np.float32(0.05), 16, 4


def block_flips(image, seed, budget=250):
    """Mini-batches of blocks, whose signs are flipped by lazy greedy insertion: many candidates, then one by one."""
    rng = np.random.default_rng(seed)
    blocks = [(r, c, k) for r in range(0, SIDE, BLOCK) for c in range(0, SIDE, BLOCK) for k in range(3)]
    rng.shuffle(blocks)
    noise = np.full_like(image, -EPSILON)

    def render(flips):
        candidates = np.stack([noise] * max(len(flips), 1))
        for candidate, (r, c, k) in zip(candidates, flips):
            candidate[r : r + BLOCK, c : c + BLOCK, k] *= -1
        return np.clip(image + candidates, 0, 1)

    loss, spent = (yield render([]))[0], 1
    while spent < budget:
        size = int(rng.integers(5, 13))
        batch, blocks = blocks[:size], blocks[size:] + blocks[:size]
        heap = [(flipped - loss, i) for i, flipped in enumerate((yield render(batch)))]
        heapq.heapify(heap)
        spent += len(batch)
        while heap:
            _, i = heapq.heappop(heap)
            margin = (yield render([batch[i]]))[0] - loss
            spent += 1
            if margin > min(0.0, heap[0][0] if heap else 0.0):
                break
            r, c, k = batch[i]
            noise[r : r + BLOCK, c : c + BLOCK, k] *= -1
            loss += margin
    return render([])[0]


class Pixels:
    """Images with one changed pixel each, made only when they are read."""

    def __init__(self, image, population):
        self.image, self.population = image, population
        self.shape = (len(population), *image.shape)

    def __getitem__(self, rows):
        chosen = self.population[rows]
        changed = np.stack([self.image] * len(chosen))
        places = (chosen[:, :2] * self.image.shape[:2]).astype(int)
        changed[np.arange(len(chosen)), places[:, 0], places[:, 1]] = chosen[:, 2:]
        return changed


def one_pixel(image, seed, generations=8):
    """Differential evolution, best1bin, of one pixel; populations differ in size."""
    rng = np.random.default_rng(seed)
    population = rng.random((10 + 7 * (seed % 3), 5)) * 0.999
    energies = yield Pixels(image, population)
    for _ in range(generations):
        best = population[energies.argmin()]
        pairs = rng.integers(0, len(population), (2, len(population)))
        trial = best + rng.uniform(0.5, 1) * (population[pairs[0]] - population[pairs[1]])
        trial = np.where((trial < 0) | (trial >= 1), rng.random(trial.shape) * 0.999, trial)
        losses = yield Pixels(image, trial)
        better = losses < energies
        population, energies = np.where(better[:, None], trial, population), np.where(better, losses, energies)
    return Pixels(image, population)[energies.argmin() : energies.argmin() + 1][0]


def pictures(count=16, sides=(SIDE, SIDE)):
    return np.random.default_rng(3).random((count, *sides, 3), np.float32)


WEIGHTS = np.random.default_rng(4).normal(size=(SIDE, SIDE, 3))


def loss_of(image):
    return np.float32((np.tanh(image - 0.5) * WEIGHTS).sum())


class Counted:
    """A loss function that takes one image after the other, and remembers the sizes of batches."""

    def __init__(self):
        self.sizes = []

    def __call__(self, candidates, owners):
        assert len(candidates) == len(owners)
        self.sizes.append(len(candidates))
        return np.array([loss_of(candidate) for candidate in candidates])


def alone(session):
    """A session run by itself: its image and its number of queries."""
    queries, losses = 0, None
    while True:
        try:
            candidates = session.send(losses)[:]
        except StopIteration as end:
            return end.value, queries
        losses = np.array([loss_of(candidate) for candidate in candidates])
        queries += len(losses)


KINDS = pytest.mark.parametrize("kind", [block_flips, one_pixel])


@KINDS
@pytest.mark.parametrize("batch_size", [1, 13, 16, 40])
def test_results_and_counts_are_those_of_a_session_alone(kind, batch_size):
    images = pictures()
    loss_fn = Counted()
    pooled = run_pool([kind(image, i) for i, image in enumerate(images)], loss_fn, batch_size)
    expected, queries = zip(*[alone(kind(image, i)) for i, image in enumerate(images)])
    np.testing.assert_array_equal(pooled.images, expected)
    np.testing.assert_array_equal(pooled.queries, queries)
    assert set(loss_fn.sizes) == {batch_size}
    assert pooled.fill == pytest.approx(sum(queries) / sum(loss_fn.sizes))
    assert all(loss_of(found) < loss_of(image) for found, image in zip(pooled.images, images))


@KINDS
def test_batches_are_full(kind):
    pooled = run_pool([kind(image, i) for i, image in enumerate(pictures())], Counted(), 16)
    assert pooled.fill > 0.8


def test_kinds_of_sessions_can_share_a_pool():
    images = pictures()
    kinds = [block_flips, one_pixel] * 8
    pooled = run_pool([kind(image, i) for i, (kind, image) in enumerate(zip(kinds, images))], Counted(), 16)
    for i, kind in enumerate(kinds):
        np.testing.assert_array_equal(pooled.images[i], alone(kind(images[i], i))[0])


def test_each_image_size_compiles_once(tiny_score):
    traces = []

    def score(score_fn, images):
        traces.append(images.shape)
        return score_fn(images)

    sizes = [(SIDE, SIDE), (SIDE, 24)] * 3
    images = [pictures(1, size)[0] for size in sizes]
    loss_fn = partial(parallel.call, losses_of(objectives.raise_score(), Partial(score, tiny_score), len(images)))
    pooled = run_pool([one_pixel(image, i) for i, image in enumerate(images)], loss_fn, 12)
    assert sorted(traces) == [(12, SIDE, SIDE, 3), (12, SIDE, 24, 3)]
    for image, found in zip(images, pooled.images):
        assert tiny_score(jnp.asarray(found)[None]) > tiny_score(jnp.asarray(image)[None])


def test_candidates_meet_the_objective_of_their_own_image(tiny_score):
    images = pictures(4)
    directions = objectives.push(jnp.array([1.0, -1.0, 1.0, -1.0]))
    loss_fn = partial(parallel.call, losses_of(directions, tiny_score, 4))
    pooled = run_pool([one_pixel(image, i) for i, image in enumerate(images)], loss_fn, 12)
    change = tiny_score(jnp.asarray(pooled.images)) - tiny_score(jnp.asarray(images))
    np.testing.assert_array_equal(np.sign(change), [1, -1, 1, -1])


def test_sessions_may_ask_for_nothing():
    def silent(image):
        return image
        yield

    def hesitant(image):
        assert len((yield image[None][:0])) == 0
        assert len((yield image[None])) == 1
        assert len((yield image[None][:0])) == 0
        return image

    images = pictures(3)
    pooled = run_pool([silent(images[0]), hesitant(images[1]), silent(images[2])], Counted(), 4)
    np.testing.assert_array_equal(pooled.images, images)
    np.testing.assert_array_equal(pooled.queries, [0, 1, 0])
    assert pooled.fill == 0.25
    assert run_pool([], Counted(), 4).fill == 1.0


def test_nan_reaches_a_session_as_an_infinite_loss():
    def curious(image):
        losses = yield np.stack([image, 1 - image])
        return np.full_like(image, np.isposinf(losses).sum())

    pooled = run_pool([curious(pictures(1)[0])], lambda rows, owners: np.full(len(rows), np.nan), 3)
    assert np.all(pooled.images[0] == 2)


def test_a_batch_size_of_zero_is_refused():
    with pytest.raises(ValueError, match="batch size"):
        run_pool([], Counted(), 0)
