"""Presets of black-box attacks: plain loops of the published rules, with the same random draws, and their contract."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from nriqa_jax.attacks import black_box, objectives
from nriqa_jax.parallel import run_attack

EPSILON = 8 / 255
LAST_ITERATIONS = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]  # with squares of one size, of 10,000
PRESETS = {
    "nes": (black_box.nes, {"samples": 5, "sigma": 0.01, "steps": 8, "step_size": 0.3, "tile": 8}),
    "square": (black_box.square, {"queries": 60}),
    "square_msu": (black_box.square_msu, {"queries": 60}),
}
CONTRACT = pytest.mark.parametrize("name", PRESETS)


def build(name, objective=None, **settings):
    preset, own = PRESETS[name]
    return preset(objective or objectives.raise_score(), **{"epsilon": EPSILON, **own, **settings})


@pytest.fixture
def images():
    """Larger than usual, since some squares go anywhere in 256x256 pixels; partly saturated."""
    images = np.random.default_rng(1).integers(0, 256, (5, 72, 60, 3)).astype(np.float32) / 255
    images[:, :20] = np.round(images[:, :20])
    return jnp.asarray(images)


@pytest.fixture
def score():
    """As `tiny_score`, without an offset: differences of close scores keep their digits."""
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 3, 4))

    def score(kernel, images):
        x = jax.lax.conv_general_dilated(images, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return 10.0 * jnp.tanh(x).mean((1, 2)) @ jnp.array([1.0, -2.0, 3.0, -1.0])

    return Partial(score, kernel)


@CONTRACT
def test_the_objective_improves_in_both_directions(name, score, images, keys):
    clean, more = score(images), {} if name == "nes" else {"queries": 300}
    assert np.all(run_attack(build(name, **more), score, images, keys).scores > clean)
    assert np.all(run_attack(build(name, objectives.lower_score(), **more), score, images, keys).scores < clean)


@CONTRACT
def test_results_are_feasible_and_consistent(name, score, images, keys):
    result = run_attack(build(name), score, images, keys)
    assert np.abs(result.images - images).max() <= EPSILON * (1 + 1e-5)
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    np.testing.assert_allclose(score(result.images), result.scores, atol=1e-4)
    assert result.health is None


@CONTRACT
def test_results_depend_on_key_and_image_alone(name, score, images, keys):
    attack = build(name)
    result = run_attack(attack, score, images, keys)
    np.testing.assert_array_equal(result.images, run_attack(attack, score, images, keys).images)
    order = jnp.array([3, 0, 4, 1, 2])
    permuted = run_attack(attack, score, images[order], keys[order])
    np.testing.assert_allclose(permuted.images, result.images[order], atol=1e-5)
    alone = run_attack(attack, score, images[2:3], keys[2:3])
    np.testing.assert_allclose(alone.images, result.images[2:3], atol=1e-5)


@CONTRACT
def test_one_program_equals_the_host_loop(name, score, images, keys):
    host = run_attack(build(name), score, images, keys, fused=False)
    fused = run_attack(build(name), score, images, keys, fused=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), host, fused)


@CONTRACT
def test_a_sweep_traces_the_model_once_for_each_shape(name, images, keys):
    shapes = []

    def score(weight, images):
        shapes.append(images.shape)
        return weight * (images**2).mean((1, 2, 3))

    for k in (1, 4, 16):
        own = {"sigma": 0.001 * k, "step_size": 0.01 * k} if name == "nes" else {}
        run_attack(build(name, epsilon=k / 255, **own), Partial(score, jnp.float32(3.0)), images, keys, fused=False)
    queries = 10 if name == "nes" else 1
    assert sorted(shapes) == sorted({(5, 72, 60, 3), (5 * queries, 72, 60, 3)})


@CONTRACT
def test_a_radius_for_each_image_is_a_radius_for_all(name, score, images, keys):
    radii = jnp.array([1.0, 2.0, 4.0, 8.0, 16.0]) / 255
    together = run_attack(build(name, epsilon=radii), score, images, keys).images
    for i in range(5):
        own = run_attack(build(name, epsilon=float(radii[i])), score, images, keys).images
        np.testing.assert_allclose(together[i], own[i], atol=1e-5)


@CONTRACT
def test_flat_images_give_finite_results(name, score, keys):
    flat = jnp.stack([jnp.full((24, 20, 3), value, jnp.float32) for value in (0.0, 1.0, 0.5, 0.25, 0.001)])
    for score_fn in (score, lambda images: 0.0 * images.mean((1, 2, 3))):
        result = run_attack(build(name), score_fn, flat, keys)
        assert np.all(np.isfinite(result.images))


@CONTRACT
def test_an_image_stops_at_its_goal(name, score, images, keys):
    free = run_attack(build(name), score, images, keys)
    per_step = 10 if name == "nes" else 1
    goal = free.loss_trace[len(free.loss_trace) // 2]
    result = run_attack(build(name, stop_at=goal), score, images, keys)
    steps = np.argmax(np.asarray(free.loss_trace) <= goal, axis=0) + 1
    np.testing.assert_array_equal(result.queries, per_step * steps + 1)
    assert np.all(-result.scores <= goal + 1e-4)


def test_nes_equals_the_published_loop(score, images, keys):
    # A wide sigma: with a small one, close scores make errors of rounding of float32 visible in the estimate.
    settings = {"epsilon": 0.03, "samples": 6, "sigma": 0.05, "steps": 10, "tile": 16, "step_size": 0.3}
    found = run_attack(black_box.nes(objectives.raise_score(), **settings), score, images, keys).images
    expected = np.stack([published_nes(score, *one, **settings) for one in zip(np.asarray(images), keys)])
    assert_equal_pixels(found, expected)
    assert np.mean(np.isclose(np.abs(found - images), 0.03, atol=1e-6)) > 0.05  # the radius was met


def published_nes(score, x0, key, epsilon, samples, sigma, steps, tile, step_size):
    """The MSU benchmark's estimate of gradients, raising the score of one image."""
    height, width = x0.shape[:2]

    def tiled(noise):
        return np.tile(noise, (5, 5, 1))[:height, :width]

    x = x0
    for _ in range(steps):
        key = jax.random.fold_in(key, 0)
        estimate = np.zeros((tile, tile, 3), np.float32)
        draws = np.asarray(jax.random.normal(key, (samples, tile, tile, 3)))
        pairs = [np.clip(x + sign * sigma * tiled(u), 0, 1) for u in draws for sign in (1, -1)]
        scores = np.asarray(score(jnp.asarray(pairs, jnp.float32)))
        for u, ahead, behind in zip(draws, scores[::2], scores[1::2]):
            estimate += (ahead - behind) * u / (2 * samples * sigma)
        x = np.clip(x + step_size * tiled(estimate / np.sqrt((estimate**2).sum())), 0, 1)
        x = np.clip(np.clip(x, x0 - epsilon, x0 + epsilon), 0, 1)
    return x


def test_nes_spends_ten_thousand_queries_in_250_steps(keys):
    images = jnp.full((2, 40, 36, 3), 0.5)
    attack = black_box.nes(objectives.raise_score())
    assert attack.steps == 250
    result = run_attack(dataclasses.replace(attack, steps=2), lambda x: x.mean((1, 2, 3)), images, keys[:2])
    np.testing.assert_array_equal(result.queries, 2 * (10_000 // 250) + 1)
    np.testing.assert_allclose(result.images[:, :4, :4], result.images[:, 32:36, 32:36], atol=1e-6)  # tiles


def test_square_sides_are_the_published_ones():
    sides = black_box.square_sides(10_000, 256**2)[1:]
    last, starts = [*LAST_ITERATIONS, 9998], [0, *(iteration + 1 for iteration in LAST_ITERATIONS)]
    expected = [57, 40, 29, 20, 14, 10, 7, 5, 4, 3]
    np.testing.assert_array_equal(sides[starts], expected)
    np.testing.assert_array_equal(sides[last], expected)
    assert len(sides) == 9999
    assert set(sides) == set(expected)


def test_square_sides_are_stretched():
    sides = black_box.square_sides(1000, 256**2)[1:]
    np.testing.assert_array_equal(sides[[0, 1, 2, 5, 6, 20, 21, 800, 801, 998]], [57, 57, 40, 40, 29, 29, 20, 4, 3, 3])
    assert black_box.square_sides(50, 8 * 8)[-1] == 1


@pytest.mark.parametrize("name", ["square", "square_msu"])
def test_square_equals_the_published_loop(name, score, images, keys):
    result = run_attack(build(name, epsilon=0.1, queries=80), score, images, keys)
    pairs = zip(np.asarray(images), keys)
    expected = np.stack([published_square(score, *one, 0.1, 80, name == "square_msu") for one in pairs])
    assert_equal_pixels(result.images, expected)
    np.testing.assert_array_equal(result.queries, 80 + 1)


def published_square(score, x0, key, epsilon, queries, corner_only):
    """Square Attack raising the score of one image; with the fixed region of the MSU benchmark, or of the paper."""
    height, width = x0.shape[:2]
    rate = jax.jit(lambda image: score(image[None])[0])
    best = x0
    if not corner_only:
        best = np.clip(x0 + epsilon * np.asarray(jax.random.rademacher(key, (1, width, 3), jnp.float32)), 0, 1)
    best_score = rate(best)
    key = jax.random.fold_in(key, 0)
    for iteration in range(queries - 1):
        key = jax.random.fold_in(key, 0)
        halvings = sum(iteration * 10_000 // queries > last for last in LAST_ITERATIONS)
        s = round(np.sqrt((256 * 256 if corner_only else height * width) * 0.05 / 2**halvings))
        room = (256 - s, 256 - s) if corner_only else (height - s + 1, width - s + 1)
        place, colour = jax.random.split(key)
        r, c = np.asarray(jax.random.randint(place, (2,), 0, jnp.array(room)))
        draws = np.asarray(jax.random.rademacher(colour, (8, 3), jnp.float32))
        tried = [with_square(x0, best, epsilon * signs, r, c, s) for signs in draws]
        new = next((image for image in tried if np.any(np.abs(image - best) > 1e-7)), tried[0])
        if rate(new) > best_score:
            best, best_score = new, rate(new)
    return best


def with_square(x0, best, change, r, c, s):
    new = best.copy()
    new[r : r + s, c : c + s] = np.clip(x0[r : r + s, c : c + s] + change, 0, 1)
    return new


def test_square_msu_leaves_all_but_a_corner_as_it_was(keys):
    images = jnp.full((1, 260, 264, 3), 0.5)
    attack = black_box.square_msu(objectives.raise_score(), queries=40)
    changed = np.any(run_attack(attack, lambda x: x.mean((1, 2, 3)), images, keys[:1]).images != images, axis=(0, 3))
    assert changed[:256, :256].mean() > 0.02
    assert not changed[256:].any()
    assert not changed[:, 256:].any()


def test_square_reaches_every_border(keys):
    draw = jax.vmap(lambda key: black_box.Squares(10).draw(key, jnp.int32(2), 6, 7)[0])
    corners = draw(jax.random.split(keys[0], 500))
    np.testing.assert_array_equal(corners.min(0), [0, 0])
    np.testing.assert_array_equal(corners.max(0), [6 - 2, 7 - 2])


def test_signs_that_change_nothing_are_drawn_again(keys):
    """With one pixel, of which two channels are saturated, many sign vectors give what is there already."""
    images = jnp.broadcast_to(jnp.array([0.5, 0.0, 1.0]), (5, 1, 1, 3))
    found = jnp.clip(images + 0.1 * jnp.array([1.0, -1.0, 1.0]), 0, 1)
    state = black_box.SquareState(found, jnp.zeros(5), jnp.ones(5, jnp.int32))
    for seed in range(4):
        step_keys = jax.random.split(jax.random.key(seed), 5)
        asked = black_box.square(objectives.raise_score(), epsilon=0.1).search.ask(state, images, step_keys)
        assert np.all(np.abs(asked[:, 0] - found).max((1, 2, 3)) > 1e-7)


def assert_equal_pixels(found, expected):
    assert np.mean(np.isclose(found, expected, rtol=0, atol=1e-6)) > 0.999
