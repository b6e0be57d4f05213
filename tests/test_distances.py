"""LPIPS and DISTS: parity with transcriptions of the papers in PyTorch, and gradients where they are subtle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_distances import ALL, SIDES, converted, make_state, narrow, theirs

from experiments.catalog import DISTANCES
from nriqa_jax.models.dists import dists, dists_pooled, pooled
from nriqa_jax.models.lpips import lpips_alex, lpips_vgg
from weights_convert.convert import convert_tensors
from weights_convert.rules import expected_shapes, flatten, unflatten


def pair(name, batch=3, seed=0, side=None):
    rng = np.random.default_rng(seed)
    clean = rng.uniform(0, 1, (batch, *(side or SIDES[name]), 3))
    return np.clip(clean + rng.normal(0, 0.1, clean.shape), 0, 1), clean


@jax.jit
def value_and_gradient(apply, x, y):
    def total(x):
        values = apply(x, y)
        return jnp.sum(values * jnp.arange(1, 1 + len(values))), values

    (_, values), gradient = jax.value_and_grad(total, has_aux=True)(x)
    return values, gradient


def ours(distance, variables, attacked, images, dtype="float64"):
    with jax.enable_x64(dtype == "float64"):
        variables = jax.tree.map(lambda x: jnp.asarray(x, dtype), variables)
        apply, x, y = distance.distance(variables), jnp.asarray(attacked, dtype), jnp.asarray(images, dtype)
        return jax.tree.map(np.asarray, value_and_gradient(apply, x, y))


def assert_close(found, expected, tolerance, gradient_tolerance):
    np.testing.assert_allclose(found[0], expected[0], rtol=tolerance)
    scale = np.linalg.norm(expected[1])
    assert scale > 0
    assert np.linalg.norm(found[1] - expected[1]) < gradient_tolerance * scale


@ALL
def test_values_and_gradients_equal_torch(name):
    state, images = make_state(name), pair(name)
    expected = theirs(name, state, *images)
    assert np.ptp(expected[0]) > 1e-3 * expected[0].max()
    variables = converted(name, state)
    assert_close(ours(narrow(name), variables, *images), expected, 1e-9, 1e-8)
    assert_close(ours(narrow(name), variables, *images, "float32"), expected, 1e-4, 1e-2)


@pytest.mark.slow
@ALL
def test_full_networks_equal_torch(name):
    """In float32, with weights laid out for speed."""
    state, images = make_state(name, 64), pair(name, 1, side=(64, 64))
    expected = theirs(name, state, *images, "float32")
    distance = DISTANCES[name]()
    variables = distance.prepare(jax.device_put(unflatten(convert_tensors(state, distance)[1].arrays)))
    assert_close(ours(distance, variables, *images, "float32"), expected, 1e-3, 2e-2)


@ALL
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_identical_images_are_at_distance_0_with_gradient_0(name, dtype):
    _, clean = pair(name)
    values, gradient = ours(narrow(name), converted(name, make_state(name)), clean, clean, dtype)
    np.testing.assert_array_equal(values, 0)
    np.testing.assert_array_equal(gradient, 0)


@ALL
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_dead_features_and_flat_images_have_finite_gradients(name, level):
    """Where no feature responds, lengths and means are 0."""
    state = make_state(name)
    state = {key: array - 100 if key.endswith(".bias") else array for key, array in state.items()}
    attacked, clean = pair(name)
    variables = converted(name, state)
    for x, y in ((attacked, clean), (np.full_like(clean, level), clean), (clean, np.full_like(clean, level))):
        values, gradient = ours(narrow(name), variables, x, y, "float32")
        assert np.isfinite(values).all()
        assert np.isfinite(gradient).all()
    alive = converted(name, make_state(name))
    assert np.isfinite(ours(narrow(name), alive, np.full_like(clean, level), clean, "float32")[1]).all()


@ALL
def test_each_pair_stands_alone_and_noise_adds_to_the_distance(name):
    distance = narrow(name)
    apply = jax.jit(distance.distance(jax.device_put(converted(name, make_state(name)))))
    attacked, clean = (jnp.asarray(x, jnp.float32) for x in pair(name))
    together = apply(attacked, clean)
    for i in range(3):
        np.testing.assert_allclose(apply(attacked[i : i + 1], clean[i : i + 1])[0], together[i], rtol=1e-5)
    nearer = apply(clean + 0.25 * (attacked - clean), clean)
    assert np.all((nearer > 0) & (nearer < together))


@ALL
def test_weights_are_data_and_prepared_weights_give_the_same(name):
    distance = narrow(name)
    variables = jax.device_put(converted(name, make_state(name)))
    attacked, clean = (jnp.asarray(x, jnp.float32) for x in pair(name, 1))
    traces = []

    @jax.jit
    def measure(apply, x, y):
        traces.append(1)
        return apply(x, y)

    apply = distance.distance(variables)
    value = measure(apply, attacked, clean)
    other = measure(jax.tree.map(lambda x: 1.1 * x, apply), attacked, clean)
    assert len(traces) == 1
    assert value[0] != other[0]
    prepared = distance.prepare(variables)
    np.testing.assert_allclose(jax.jit(distance.apply)(prepared, attacked, clean), value, rtol=1e-5)
    half = distance.prepare(variables, jnp.bfloat16)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half)} == {"bfloat16"}
    np.testing.assert_allclose(jax.jit(distance.apply)(half, attacked, clean), value, rtol=0.1)


def test_the_pooled_variant_averages_large_images():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for side, factor in (((383, 500), 1), ((384, 401), 2), ((650, 640), 2), ((700, 641), 3)):
        images = rng.uniform(0, 1, (1, *side, 3)).astype(np.float32)
        expected = torch.nn.functional.avg_pool2d(torch.from_numpy(images).permute(0, 3, 1, 2), factor)
        np.testing.assert_allclose(pooled(jnp.asarray(images)), expected.permute(0, 2, 3, 1), atol=1e-6)
    assert dists_pooled().name == dists().name
    assert dists_pooled().view is pooled


@pytest.mark.parametrize(("build", "side"), [(lpips_vgg, 16), (lpips_alex, 31), (dists, 1)])
def test_the_smallest_images(build, side):
    distance = narrow(build().name)
    variables = jax.jit(distance.init)(jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (2, side, side, 3))
    assert np.isfinite(jax.jit(distance.apply)(variables, images, images**2)).all()
    if side > 1:
        with pytest.raises(ValueError, match=f"{distance.name} needs at least {side} pixels a side, got {side - 1}x"):
            distance.apply(variables, images[:, 1:], images[:, 1:])


def test_counts_are_as_published_and_random_heads_positive():
    """As many numbers as published: backbone, and heads or the two vectors."""
    for name, count in (
        ("lpips_vgg", 14_714_688 + 1472),
        ("lpips_alex", 2_469_696 + 1152),
        ("dists", 14_714_688 + 2950),
    ):
        shapes = expected_shapes(DISTANCES[name]())
        assert sum(spec.size for spec in shapes.values()) == count
        variables = flatten(jax.jit(narrow(name).init)(jax.random.key(0)))
        assert all((variables[path] >= 0).all() for path in variables if "/net/" not in path)
