"""Batching: a plan that depends on shapes alone, padding that leaves no trace, one compilation per shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nriqa_jax.attacks import objectives, presets
from nriqa_jax.parallel import Batch, call_padded, plan_batches, run_attack, run_score


def test_plan_groups_by_shape_and_covers_every_item_once():
    shapes = [(3, 4), (5, 5), (3, 4), (3, 4), (5, 5), (3, 4), (3, 4)]
    batches = plan_batches(shapes, 2)
    assert sorted(item for batch in batches for item in batch.items) == list(range(7))
    for batch in batches:
        assert len({shapes[item] for item in batch.items}) == 1
        assert len(batch.items) <= batch.size <= 2
    assert batches[:3] == [Batch((0, 2), 2), Batch((3, 5), 2), Batch((6,), 2)]


@pytest.mark.parametrize(("count", "limit", "sizes"), [(17, 16, [9, 9]), (5, 16, [5]), (32, 16, [16, 16]), (0, 4, [])])
def test_batches_of_one_shape_are_even(count, limit, sizes):
    assert [batch.size for batch in plan_batches([(2, 2)] * count, limit)] == sizes


def test_padding_leaves_no_trace(images, tiny_score):
    outputs = call_padded(lambda x, k: {"scores": run_score(tiny_score, x), "twice": 2 * k}, 8, images, jnp.arange(5))
    np.testing.assert_allclose(outputs["scores"], tiny_score(images), rtol=1e-6)
    np.testing.assert_array_equal(outputs["twice"], 2 * np.arange(5))
    assert isinstance(outputs["scores"], np.ndarray)


def test_padding_of_typed_keys(keys):
    data = call_padded(lambda k: jax.random.key_data(k), 7, keys)
    np.testing.assert_array_equal(data, jax.random.key_data(keys))


def test_one_compilation_per_shape(images, keys):
    traces = []

    def score(images):
        traces.append(images.shape)
        return images.mean((1, 2, 3))

    for batch in (images, images + 0.0, images[::-1]):
        run_attack(presets.pgd(objectives.raise_score(), steps=3), score, batch, keys)
    first = len(traces)
    assert {shape for shape in traces} == {images.shape}
    run_attack(presets.pgd(objectives.raise_score(), steps=3), score, images[:2], keys[:2])
    assert len(traces) == 2 * first
