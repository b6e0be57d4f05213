"""Batching and devices: a plan that depends on shapes alone, one program per shape, rows that no device changes."""

import jax
import numpy as np
import pytest

from nriqa_jax.attacks import objectives, presets
from nriqa_jax.parallel import Replicas, call, gather, run_attack
from nriqa_jax.units import Unit, group_units, plan_units


def test_plan_groups_by_shape_and_covers_every_item_once():
    shapes = [(3, 4), (5, 5), (3, 4), (3, 4), (5, 5), (3, 4), (3, 4)]
    units = plan_units(shapes, lambda shape: 2)
    assert sorted(item for unit in units for item in unit.items) == list(range(7))
    for unit in units:
        assert len({shapes[item] for item in unit.items}) == 1
        assert len(unit.items) <= unit.size <= 2
    assert units[:3] == [Unit((0, 2), 2), Unit((3, 5), 2), Unit((6,), 2)]


@pytest.mark.parametrize(("count", "limit", "sizes"), [(17, 16, [9, 9]), (5, 16, [5]), (32, 16, [16, 16]), (0, 4, [])])
def test_units_of_one_shape_are_even(count, limit, sizes):
    assert [unit.size for unit in plan_units([(2, 2)] * count, lambda shape: limit)] == sizes


def test_the_batch_size_may_differ_by_shape():
    units = plan_units(["small"] * 4 + ["large"] * 4, {"small": 4, "large": 1}.get)
    assert [unit.size for unit in units] == [4, 1, 1, 1, 1]


def test_halves_keep_every_item():
    assert Unit((0, 1, 2, 3, 4), 5).halves() == [Unit((0, 1, 2), 3), Unit((3, 4), 3)]
    assert Unit((7,), 4).halves() == [Unit((7,), 2)]


@pytest.mark.parametrize(
    ("count", "devices", "widths"), [(9, 8, [5, 4]), (8, 8, [8]), (3, 2, [2, 1]), (1, 8, [1]), (5, 1, [1] * 5)]
)
def test_groups_use_no_more_devices_than_needed(count, devices, widths):
    units = [Unit((i,), 1) for i in range(count)]
    groups = group_units(units, lambda unit: "shape", devices)
    assert [len(group) for group in groups] == widths
    assert [unit for group in groups for unit in group] == units


def test_only_units_of_one_shape_and_size_are_grouped():
    units = [Unit((0, 1), 2), Unit((2,), 1), Unit((3, 4), 2), Unit((5, 6), 2)]
    groups = group_units(units, lambda unit: "wide" if unit.items == (3, 4) else "high", 4)
    assert groups == [(units[0], units[3]), (units[1],), (units[2],)]


def test_call_compiles_once_per_shape(images, tiny_score):
    traces = []

    def score(kernel, images):
        traces.append(images.shape)
        return tiny_score.func(kernel, images)

    for scale in (1.0, 2.0):  # weights are data
        call(jax.tree_util.Partial(score, tiny_score.args[0] * scale), images)
    assert len(traces) == 1
    call(jax.tree_util.Partial(score, *tiny_score.args), images[:2])
    assert len(traces) == 2


def test_one_compilation_of_an_attack_per_shape(images, keys):
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


@pytest.mark.parametrize("attack", [presets.ifgsm, presets.apgd, presets.pgd])
def test_the_fused_loop_equals_the_host_loop(images, keys, tiny_score, attack):
    attack = attack(objectives.raise_score(), steps=4)
    host, fused = (run_attack(attack, tiny_score, images, keys, fused=fused) for fused in (False, True))
    for one, other in zip(jax.tree.leaves(host), jax.tree.leaves(fused)):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


def test_scores_come_from_the_score_function_and_gradients_from_the_other(images, keys, tiny_score):
    def downward(images):
        return -tiny_score(images)

    attack = presets.ifgsm(objectives.raise_score(), steps=3)
    result = run_attack(attack, tiny_score, images, keys, gradient_fn=downward)
    np.testing.assert_allclose(result.scores, tiny_score(result.images), rtol=1e-6)
    assert np.all(result.scores < tiny_score(images))


def test_replicas_put_weights_and_rows_on_devices(images, tiny_score):
    replicas = Replicas(tiny_score)
    rows = replicas.rows(1, np.asarray(images))
    np.testing.assert_allclose(call(replicas.on(1), rows), tiny_score(images), rtol=1e-6)
    assert replicas.on(1) is replicas.on(1)


def test_cpu_devices_share_weights(tiny_score):
    key = jax.random.key(3)
    weights, shared_key = Replicas((tiny_score.args[0], key)).on(2)
    addresses = [shard.data.unsafe_buffer_pointer() for shard in weights.addressable_shards]
    assert addresses == [tiny_score.args[0].unsafe_buffer_pointer()] * 2
    np.testing.assert_array_equal(jax.random.key_data(shared_key), jax.random.key_data(key))


def test_gathering_in_one_process_changes_nothing():
    rows = np.arange(6).reshape(3, 2)
    assert gather(rows) is rows
