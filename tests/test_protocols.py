"""The protocols that models share: where crops lie, and that seeds and sizes alone decide it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nriqa_jax.models import protocols
from nriqa_jax.models.hyperiqa import hyperiqa
from nriqa_jax.resize import scale_torch

PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def coordinates(height, width):
    """An image whose pixels tell where they are."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return jnp.asarray(np.stack([rows, columns, 0 * rows], -1)[None], jnp.float32)


def corners(views):
    return [tuple(int(v) for v in view[0, 0, :2]) for view in np.asarray(views[0])]


@pytest.mark.parametrize(("count", "rows", "columns"), [(25, 5, 5), (20, 4, 5), (50, 7, 8), (1, 1, 1), (4, 2, 2)])
def test_uniform_crops_are_the_first_of_a_grid_from_the_top_left(count, rows, columns):
    found = corners(protocols.uniform_views(coordinates(101, 87), PLAIN, 32, count))
    steps = [(side - 32) // int(np.sqrt(count)) for side in (101, 87)]
    expected = [(y * steps[0], x * steps[1]) for y in range(rows) for x in range(columns)]
    assert len(found) == count
    assert found[: len(expected)] == expected[:count]


def test_uniform_crops_of_small_images_are_upscaled_by_a_factor():
    image = jnp.asarray(np.random.default_rng(0).random((1, 32, 40, 3)), jnp.float32)
    views = protocols.uniform_views(image, PLAIN, 32, 4)
    large = scale_torch(image, 33 / 32)
    assert large.shape[1:3] == (33, 41)
    np.testing.assert_array_equal(views[0, 0], large[0, :32, :32])
    np.testing.assert_array_equal(views[0, 1], large[0, :32, 4:36])


def test_random_crops_follow_their_seed_and_the_size():
    image = coordinates(90, 120)
    first = corners(protocols.random_views(3, PLAIN, 32, 9)(image))
    assert first == corners(protocols.random_views(3, PLAIN, 32, 9)(image))
    assert first != corners(protocols.random_views(4, PLAIN, 32, 9)(image))
    assert len(set(first)) > 1
    assert corners(protocols.random_views(0, PLAIN, 32, 9)(coordinates(32, 32))) == [(0, 0)] * 9


def test_a_seed_is_recorded_and_other_protocols_have_none():
    model = hyperiqa().with_protocol("random", 5)
    assert model.preprocess.seed == 5
    image = coordinates(300, 280) / 300
    other = hyperiqa().with_protocol("random", 6)
    assert not np.array_equal(model.preprocess.views(image), other.preprocess.views(image))
    assert np.array_equal(model.preprocess.views(image), hyperiqa().with_protocol("random", 5).preprocess.views(image))
    assert hyperiqa().with_protocol("grid", 5).preprocess.seed is None


@pytest.mark.parametrize("size", [(20, 31), (64, 64), (33, 200)])
def test_grids_cover_every_pixel_of_the_enlarged_image(size):
    views = lambda x: protocols.grid_views(x, PLAIN, 32)  # noqa: E731
    image = jnp.full((1, *size, 3), 0.5)
    assert views(image).shape[2:] == (32, 32, 3)
    assert np.all(np.asarray(jax.grad(lambda x: views(x).sum())(image)) > 0)
