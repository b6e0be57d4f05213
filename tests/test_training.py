"""The training step: batch norm's modes, what a recipe composes, and one program for many settings and devices."""

import functools
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial
from small_models import images_and_labels, small_model, variables_of

from nriqa_jax.defenses import statistics
from nriqa_jax.defenses.losses import huber, l1, l2, norm_in_norm
from nriqa_jax.defenses.optimisers import adam, clipped
from nriqa_jax.defenses.training import METHODS, Batch, GradientPenalty, Recipe, init_state, train_step

ROOT = Path(__file__).parents[1]
PLAIN = Recipe(Partial(l2), Partial(optax.sgd, 1.0))

DEVICES = f"""
import re, sys
sys.path.insert(0, "{ROOT / "tests"}")
import jax
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")
from functools import partial
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial
from small_models import images_and_labels, small_model, variables_of
from nriqa_jax.defenses.adversaries import fast
from nriqa_jax.defenses.losses import huber
from nriqa_jax.defenses.optimisers import adam
from nriqa_jax.defenses.regimes import AdversarialTraining
from nriqa_jax.defenses.training import METHODS, Batch, GradientPenalty, Recipe, init_state, train_step

model = small_model()
penalty = GradientPenalty(weight=1e-3, method=METHODS["jvp"])
recipe = Recipe(Partial(huber), Partial(adam, 1e-3), penalty, AdversarialTraining(fast(4 / 255)), 0.9)
step, ends = jax.jit(partial(train_step, model)), []
for count in (1, 8):
    mesh = Mesh(np.array(jax.devices()[:count]), ("images",))
    everywhere, rows = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("images"))
    state = jax.device_put(init_state(recipe, variables_of(model)), everywhere)
    data = jax.device_put((Batch(*images_and_labels(16)), jax.random.split(jax.random.key(0), 16)), rows)
    if count == 8:
        program = step.lower(recipe, state, *data).compile().as_text()
        assert "num_partitions=8" in program and "all-reduce" in program
        assert not re.findall("all-gather|reduce-scatter|collective-permute|all-to-all", program)
    for _ in range(20):
        state, metrics = step(recipe, state, *data)
    ends.append(jax.tree.map(np.asarray, (state, metrics)))
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *ends)
"""


@functools.cache
def compiled(model):
    return jax.jit(functools.partial(train_step, model))


def stepped(recipe, model=None, count=1, dtype=np.float32, **initial):
    """The state before and after some steps on one batch, and the last metrics."""
    model = model or small_model()
    state = start = init_state(recipe, variables_of(model, dtype))._replace(**initial)
    batch, keys = Batch(*images_and_labels(dtype=dtype)), jax.random.split(jax.random.key(0), 4)
    for _ in range(count):
        state, metrics = compiled(model)(recipe, state, batch, keys)
    return start, state, metrics


def difference(before, after):
    return jax.tree.map(np.subtract, before, after)


def assert_trees_close(found, expected, rtol):
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * largest), found, expected)


@pytest.mark.parametrize("method", ["finite_difference", "jvp", "double_backprop"])
def test_the_gradient_of_a_step_is_that_of_its_total(method):
    """Also by way of batch statistics, which are constants in derivatives by images, but not in those by weights."""
    with jax.enable_x64(True):
        penalty = GradientPenalty(weight=0.1, method=METHODS[method])
        recipe = Recipe(Partial(l2), Partial(optax.sgd, 1.0), penalty)
        run = functools.partial(stepped, recipe, dtype=np.float64)
        before, after, metrics = run()
        assert metrics["total"] == metrics["loss"] + 0.1 * metrics["penalty"]
        rng, h = np.random.default_rng(3), 1e-6
        along = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), before.params)

        def moved(by):
            return run(params=jax.tree.map(lambda p, d: p + by * d, before.params, along))[2]["total"]

        slope = jax.tree.map(np.vdot, difference(before.params, after.params), along)
        np.testing.assert_allclose(sum(jax.tree.leaves(slope)), (moved(h) - moved(-h)) / (2 * h), rtol=1e-5)


@pytest.mark.parametrize("method", ["finite_difference", "jvp"])
def test_the_penalty_normalises_every_image_with_the_statistics_of_the_clean_batch(method):
    """And leaves the stored statistics as a plain step does; the published code changes them in each of its passes."""
    with jax.enable_x64(True):
        model, (images, _) = small_model(), images_and_labels(dtype=np.float64)
        penalty = GradientPenalty(weight=1.0, method=METHODS[method], step=1e-6)
        before, after, metrics = stepped(Recipe(Partial(l2), Partial(optax.sgd, 1.0), penalty), dtype=np.float64)
        _, plain, _ = stepped(PLAIN, dtype=np.float64)
        jax.tree.map(np.testing.assert_array_equal, after.batch_stats, plain.batch_stats)
        variables, views = before.variables(), model.views(images)
        _, stored, used = jax.jit(model.apply_held)(variables, views)
        assert_trees_close(after.batch_stats, stored, 1e-12)
        frozen = {**variables, "batch_stats": used}
        gradients = jax.jit(jax.grad(lambda views: model.apply_views(frozen, views).sum()))(views)
        norms = np.abs(gradients).sum((1, 2, 3, 4))
        np.testing.assert_allclose(metrics["penalty"], 0.5 * np.mean(norms**2), rtol=1e-5)
        np.testing.assert_allclose(metrics["slope"], np.mean(norms), rtol=1e-5)

        recipe = Recipe(Partial(l2), PLAIN.optimiser, penalty, statistics=statistics.published_three_passes)
        _, thrice, quirk = stepped(recipe, dtype=np.float64)
        assert abs(quirk["penalty"] / metrics["penalty"] - 1) > 0.01
        averages = before.batch_stats
        for _ in range(3 if method == "finite_difference" else 2):  # the perturbed batch is hardly another at this step
            averages = jax.jit(model.apply_training)({**variables, "batch_stats": averages}, views)[1]
        assert_trees_close(thrice.batch_stats, averages, 1e-5)
        assert quirk["loss"] == metrics["loss"]


def test_stored_statistics_for_tuning():
    model, (images, labels) = small_model(), images_and_labels()
    recipe = Recipe(Partial(l2), PLAIN.optimiser, GradientPenalty(weight=1.0), statistics=statistics.stored)
    before, after, metrics = stepped(recipe)
    jax.tree.map(np.testing.assert_array_equal, after.batch_stats, before.batch_stats)
    np.testing.assert_allclose(metrics["loss"], l2(jax.jit(model.apply)(before.variables(), images), labels), rtol=1e-5)
    assert abs(stepped(PLAIN)[2]["loss"] / metrics["loss"] - 1) > 1e-3


def test_gradients_by_pixels_are_those_by_views_over_the_deviation():
    slopes = [
        stepped(Recipe(PLAIN.loss, PLAIN.optimiser, GradientPenalty(weight=1.0, method=METHODS["jvp"], by_pixels=by)))[
            2
        ]
        for by in (False, True)
    ]
    np.testing.assert_allclose(slopes[1]["slope"], slopes[0]["slope"] / 0.5, rtol=1e-5)


def test_settings_are_data():
    """A sweep over weights, steps and learning rates traces once."""
    traces, model = [], small_model()

    def step(recipe, state, batch, keys):
        traces.append(1)
        return train_step(model, recipe, state, batch, keys)

    step, ends = jax.jit(step), []
    batch, keys = Batch(*images_and_labels()), jax.random.split(jax.random.key(0), 4)
    for setting in (1.0, 2.0, 3.0):
        penalty = GradientPenalty(weight=setting, step=setting / 100)
        optimiser = Partial(clipped, Partial(adam, setting / 100, setting), setting)
        recipe = Recipe(Partial(huber, delta=setting), optimiser, penalty, ema_decay=0.1 * setting)
        ends.append(step(recipe, init_state(recipe, variables_of(model)), batch, keys)[1]["total"])
    assert len(traces) == 1
    assert len(set(map(float, ends))) == 3


def test_less_memory_and_half_precision_give_the_same_gradient():
    penalty = GradientPenalty(weight=0.01, method=METHODS["jvp"])
    gradients = {}
    for name, options in {"plain": {}, "remat": {"remat": True}, "bfloat16": {"dtype": jnp.bfloat16}}.items():
        before, after, metrics = stepped(Recipe(PLAIN.loss, PLAIN.optimiser, penalty, **options))
        gradients[name] = difference(before.params, after.params)
        assert {leaf.dtype.name for leaf in jax.tree.leaves((after.params, after.batch_stats, metrics))} == {"float32"}
    assert_trees_close(gradients["remat"], gradients["plain"], 1e-4)
    assert_trees_close(gradients["bfloat16"], gradients["plain"], 0.1)
    with pytest.raises(ValueError, match="drown in the rounding of bfloat16"):
        stepped(Recipe(PLAIN.loss, PLAIN.optimiser, GradientPenalty(weight=1.0), dtype=jnp.bfloat16))


def test_a_moving_average_follows_the_weights():
    before, after, _ = stepped(Recipe(PLAIN.loss, PLAIN.optimiser, ema_decay=0.75))
    average = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, before.params, after.params)
    assert_trees_close(after.variables()["params"], average, 1e-6)


def test_training_lowers_the_loss_and_the_penalty_the_gradients():
    ends = {}
    for weight in (0.0, 0.1):
        penalty = GradientPenalty(weight=weight, method=METHODS["jvp"])
        recipe = Recipe(Partial(l1), Partial(adam, 1e-2), penalty)
        (_, _, first), (_, _, last) = (stepped(recipe, count=count) for count in (1, 40))
        ends[weight] = last
        assert last["total"] < 0.7 * first["total"]
    assert ends[0.1]["slope"] < 0.5 * ends[0.0]["slope"]


def test_a_network_without_batch_norm_trains_too():
    before, after, metrics = stepped(
        Recipe(Partial(norm_in_norm), PLAIN.optimiser, GradientPenalty(weight=1e-3)), small_model(norm=False)
    )
    assert after.batch_stats == {}
    assert metrics["penalty"] > 0
    assert all(np.any(leaf) for leaf in jax.tree.leaves(difference(before.params, after.params)) if leaf.ndim > 1)


def test_eight_devices_train_as_one(outside_environment):
    command = [sys.executable, "-c", DEVICES]
    done = subprocess.run(command, cwd=ROOT, env=outside_environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
