"""Every purifier: the contract that all of them keep."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smooth_pictures import smooth_pictures

from experiments import filters
from experiments.catalog import PURIFIERS
from nriqa_jax.defenses import fcn
from nriqa_jax.defenses.gaussian import GaussianBlur, Unsharp
from nriqa_jax.defenses.geometric import Flip, RandomCrop, RandomRotate, Resize
from nriqa_jax.defenses.median import MedianBlur
from nriqa_jax.defenses.noise import RandomNoise
from nriqa_jax.defenses.purifier import Gradient, batch_shared, compose
from nriqa_jax.defenses.quantization import ColorQuantization
from nriqa_jax.parallel import call

HEIGHT, WIDTH = 33, 40


class Entry(NamedTuple):
    """A purifier in the contract.

    Attributes:
      settings: what it is run with here, where its defaults need larger images.
      unchanged: settings at which 8-bit images come back as they are; None where there are none.
      size: of what it returns.
      slack: how far values may leave [0, 1] by rounding.
    """

    settings: Mapping[str, Any] = MappingProxyType({})
    unchanged: Mapping[str, Any] | None = None
    size: tuple[int, int] = (HEIGHT, WIDTH)
    slack: float = 1e-6


CONTRACT: Mapping[str, Entry] = {
    "none": Entry(unchanged={}),
    "flip": Entry(),
    "random_rotate": Entry(unchanged={"limit": 0.0}),
    "random_crop": Entry({"size": 16}, size=(16, 16)),
    "resize": Entry(unchanged={"scale": 1.0}, size=(HEIGHT // 2, WIDTH // 2)),
    "upscale": Entry(unchanged={"scale": 1.0}),
    "gaussian_blur": Entry(unchanged={"size": 1}),
    "median_blur": Entry(unchanged={"size": 1}),
    "bilateral": Entry(unchanged={"colour": 0.0}),
    "non_local_means": Entry({"search": 5}, unchanged={"h": 0.0, "search": 5}),
    "total_variation": Entry(unchanged={"steps": 1}),
    "jpeg": Entry(),
    "jpeg_codec": Entry(),
    "diffjpeg": Entry(),
    "color_quantization": Entry(unchanged={"levels": 256}),
    "bit_depth": Entry(unchanged={"bits": 8}),
    "random_noise": Entry(unchanged={"sigma": 0.0}),
    "unsharp": Entry(unchanged={"amount": 0.0}),
    "wavelet_shrinkage": Entry(unchanged={"sigma": 0.0}, slack=0.1),
    "fcn": Entry(),
}


@pytest.fixture(scope="module")
def pictures():
    return smooth_pictures(HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def seeds():
    return jax.random.split(jax.random.key(5), 4)


@pytest.fixture(scope="module")
def some_filter(tmp_path_factory):
    """A file of FCN with random weights."""
    path = tmp_path_factory.mktemp("filter") / "fcn.safetensors"
    network = fcn.FCN(normalised=False, residual=True)
    filters.save(path, network, network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3))), {})
    return str(path)


@pytest.fixture
def build(some_filter):
    def build(name, settings=None):
        settings = CONTRACT[name].settings if settings is None else settings
        return PURIFIERS[name](**({"weights": some_filter} if name == "fcn" else settings))

    return build


def test_every_purifier_is_in_the_contract():
    assert CONTRACT.keys() == PURIFIERS.keys()


@pytest.mark.parametrize("name", CONTRACT)
def test_the_contract(name, build, pictures, seeds):
    purifier, entry = build(name), CONTRACT[name]
    found = call(purifier, pictures, seeds)
    assert found.shape == (4, *entry.size, 3)
    assert found.dtype == jnp.float32
    assert found.min() >= -entry.slack
    assert found.max() <= 1.0 + entry.slack
    np.testing.assert_array_equal(call(purifier, pictures, seeds), found)
    other_keys = call(purifier, pictures, jax.random.split(jax.random.key(6), 4))
    assert np.array_equal(other_keys, found) == (not purifier.random)
    order = jnp.array([2, 0, 3, 1])
    np.testing.assert_allclose(call(purifier, pictures[order], seeds[order]), found[order], rtol=0, atol=2e-6)
    np.testing.assert_allclose(call(purifier, pictures[1:2], seeds[1:2]), found[1:2], rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", [name for name, entry in CONTRACT.items() if entry.unchanged is not None])
def test_the_mildest_settings_change_nothing(name, build, pictures, seeds):
    found = call(build(name, CONTRACT[name].unchanged), pictures, seeds)
    np.testing.assert_allclose(found, pictures, rtol=0, atol=2e-6)


def _mass(purifier, images, keys, weights):
    return jnp.sum(weights * purifier(images, keys))


@pytest.mark.parametrize("name", CONTRACT)
def test_the_gradient_is_what_the_purifier_says(name, build, pictures, seeds):
    purifier = build(name)
    weights = jax.random.normal(jax.random.key(1), (4, *CONTRACT[name].size, 3))
    for images in (pictures, jnp.zeros_like(pictures), jnp.full_like(pictures, 0.5)):
        slope = call(jax.grad(_mass, argnums=1), purifier, images, seeds, weights)
        assert np.isfinite(slope).all()
    slope = call(jax.grad(_mass, argnums=1), purifier, pictures, seeds, weights)
    assert bool(jnp.any(slope)) == (purifier.gradient is not Gradient.NONE)


EXACT = [name for name in CONTRACT if name not in ("jpeg", "jpeg_codec", "diffjpeg", "color_quantization", "bit_depth")]


@pytest.mark.parametrize("name", EXACT)
def test_exact_gradients_are_those_of_small_changes(name, build, pictures, seeds):
    purifier = build(name)
    assert purifier.gradient is Gradient.EXACT
    # Inside the range, where nothing is cut off, and with values that no median has to choose between.
    images = 0.3 + 0.4 * pictures[:1] + 0.01 * jax.random.uniform(jax.random.key(9), pictures[:1].shape)
    change = jax.random.normal(jax.random.key(2), images.shape)
    weights = jax.random.normal(jax.random.key(1), (1, *CONTRACT[name].size, 3))
    with jax.enable_x64(True):
        images, change, weights = (jnp.asarray(x, jnp.float64) for x in (images, change, weights))
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), purifier)
        slope = jnp.vdot(jax.grad(_mass, argnums=1)(wide, images, seeds[:1], weights), change)
        ends = [_mass(wide, images + side * 1e-9 * change, seeds[:1], weights) for side in (1.0, -1.0)]
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-9, rtol=2e-4)


def test_random_draws_stay_within_their_limits(seeds, pictures):
    noisy = call(RandomNoise(0.05), jnp.full((4, 64, 64, 3), 0.5), seeds)
    assert np.std(noisy) == pytest.approx(0.05, rel=0.03)
    crops = np.asarray(call(RandomCrop(16), pictures, seeds))
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(pictures), (16, 16), axis=(1, 2))
    for crop, places in zip(crops, windows):
        assert (places == np.moveaxis(crop, -1, 0)).all((-3, -2, -1)).any()
    turned = call(RandomRotate(0.4), pictures, seeds)  # less than half a pixel near the centre
    centre = (slice(None), slice(HEIGHT // 2 - 5, HEIGHT // 2 + 5), slice(WIDTH // 2 - 5, WIDTH // 2 + 5))
    np.testing.assert_array_equal(turned[centre], pictures[centre])


def test_a_sweep_of_real_settings_compiles_once(pictures, seeds):
    traces = []

    def purify(purifier, images, keys):
        traces.append(1)
        return purifier(images, keys)

    run = jax.jit(purify)
    results = [run(RandomNoise(jnp.float32(sigma)), pictures, seeds) for sigma in (0.01, 0.05, 0.1)]
    assert len(traces) == 1
    assert not np.array_equal(results[0], results[1])


def test_chains_and_shared_draws(pictures, seeds):
    chain = compose(MedianBlur(), Unsharp(3))
    expected = Unsharp(3)(MedianBlur()(pictures, seeds), seeds)
    np.testing.assert_allclose(call(chain, pictures, seeds), expected, atol=1e-6)
    assert (chain.random, chain.gradient) == (False, Gradient.EXACT)
    weak = compose(RandomNoise(), ColorQuantization(), Flip())
    assert (weak.random, weak.gradient) == (True, Gradient.NONE)
    same = jnp.broadcast_to(pictures[:1], pictures.shape)
    assert len(np.unique(call(batch_shared(RandomCrop(16)), same, seeds), axis=0)) == 1
    assert len(np.unique(call(RandomCrop(16), same, seeds), axis=0)) > 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda x, k: RandomCrop(64)(x, k), "need larger images than 40x33"),
        (lambda x, k: Resize(0.01)(x, k), "vanish at a scale"),
        (lambda x, k: MedianBlur(4)(x, k), "give an odd size"),
        (lambda x, k: GaussianBlur.preset(5), "has 5 presets"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[..., Any], words, pictures, seeds):
    with pytest.raises(ValueError, match=words):
        make(pictures, seeds)
