"""Every purifier: the contract that all of them keep, and what each computes, against plain references."""

import io
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from experiments import filters
from experiments.catalog import PURIFIERS
from experiments.codecs import JpegCodec
from nriqa_jax.defenses import fcn
from nriqa_jax.defenses.gaussian import GaussianBlur, Unsharp
from nriqa_jax.defenses.geometric import Flip, RandomCrop, RandomRotate, Resize, rotate
from nriqa_jax.defenses.jpeg import DiffJpeg, ExactJpeg
from nriqa_jax.defenses.median import MedianBlur, median_network
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
    "non_local_means": Entry(unchanged={"h": 0.0}),
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
    """Four smooth 8-bit pictures with some noise, black and white included."""
    rng = np.random.default_rng(3)
    coarse = ndimage.zoom(rng.uniform(-0.2, 1.2, (4, 6, 7, 3)), (1, HEIGHT / 6, WIDTH / 7, 1), order=1)
    levels = np.clip(255 * coarse[:, :HEIGHT, :WIDTH] + rng.normal(0, 6, (4, HEIGHT, WIDTH, 3)), 0, 255)
    return jnp.asarray(levels.astype(np.uint8), jnp.float32) / 255.0


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


TORCH = ("flip", "resize", "upscale", "gaussian_blur", "unsharp", "median_blur", "bilateral", "non_local_means")
TORCH += ("total_variation", "wavelet_shrinkage", "diffjpeg", "color_quantization")


@pytest.mark.parametrize("name", TORCH)
def test_values_are_those_of_pytorch(name, build, pictures, seeds):
    torch = pytest.importorskip("torch")
    from experiments.contenders import torch_purifiers

    found = call(build(name, {}), pictures, seeds)
    x = torch.from_numpy(np.asarray(pictures).transpose(0, 3, 1, 2).copy())
    expected = torch_purifiers.one_by_one(torch_purifiers.PURIFIERS[name], x).numpy().transpose(0, 2, 3, 1)
    close = np.abs(found - expected) <= 1e-5
    # A coefficient half-way between two levels may go either way.
    assert close.mean() >= (0.97 if name == "diffjpeg" else 1.0)


@pytest.mark.parametrize("size", GaussianBlur.presets)
def test_blurs_are_those_of_scipy_at_every_preset(size, pictures, seeds):
    sigma = 0.3 * ((size - 1) / 2 - 1) + 0.8
    taps = np.exp(-0.5 * ((np.arange(size) - size // 2) / sigma) ** 2)
    expected = np.asarray(pictures, np.float64)
    for axis in (1, 2):
        expected = ndimage.correlate1d(expected, taps / taps.sum(), axis, mode="mirror")
    np.testing.assert_allclose(call(GaussianBlur(size), pictures, seeds), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", MedianBlur.presets[:3])
def test_medians_are_those_of_scipy(size, pictures, seeds):
    expected = ndimage.median_filter(np.asarray(pictures), (1, size, size, 1), mode="mirror")
    np.testing.assert_array_equal(call(MedianBlur(size), pictures, seeds), expected)


def test_networks_of_comparators_find_the_median():
    assert [len(median_network(size**2)) for size in MedianBlur.presets] == [22, 113, 313, 661, 1143]
    rng = np.random.default_rng(0)
    values = list(rng.integers(0, 40, (121, 500)).astype(float))
    for low, high, low_needed, high_needed in median_network(121):
        a, b = values[low], values[high]
        values[low] = np.minimum(a, b) if low_needed else values[low]
        values[high] = np.maximum(a, b) if high_needed else values[high]
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(values[60], np.median(rng.integers(0, 40, (121, 500)), axis=0))


@pytest.mark.parametrize("degrees", [7.3, 15.0, -33.0])
def test_rotation_takes_the_nearest_pixels(degrees, pictures):
    angle, image = np.deg2rad(degrees), np.asarray(pictures[0])
    found = np.asarray(rotate(pictures[0], degrees))
    centre = np.array([HEIGHT - 1, WIDTH - 1]) / 2
    different = 0
    for row, column in np.ndindex(HEIGHT, WIDTH):
        y, x = np.array([row, column]) - centre
        source = np.array([np.sin(angle) * x + np.cos(angle) * y, np.cos(angle) * x - np.sin(angle) * y]) + centre
        at = np.round(source).astype(int)
        inside = (at >= 0).all() and (at < (HEIGHT, WIDTH)).all()
        expected = image[tuple(at)] if inside else np.zeros(3, np.float32)
        different += not np.array_equal(found[row, column], expected)
    assert different <= 3  # pixels half-way between two, to the last digit


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


@pytest.fixture(scope="module")
def photograph():
    data = pytest.importorskip("skimage.data")
    return data.astronaut()[:384]


def _from_file(pixels, quality):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


@pytest.mark.parametrize("quality", DiffJpeg.presets)
def test_jpeg_is_that_of_a_codec(quality, photograph):
    x, expected = jnp.asarray(photograph[None], jnp.float32) / 255.0, _from_file(photograph, quality).astype(float)
    keys = jax.random.split(jax.random.key(0), 1)
    published = 255.0 * np.asarray(call(DiffJpeg(jnp.asarray(quality)), x, keys))[0]
    assert 10 * np.log10(255.0**2 / np.mean((published - expected) ** 2)) >= 41.0
    exact = 255.0 * np.asarray(call(ExactJpeg(jnp.asarray(quality)), x, keys))[0]
    assert np.mean(np.abs(exact - expected) <= 1.01) >= 0.97
    np.testing.assert_allclose(exact, np.round(exact), atol=1e-3)
    coded = 255.0 * np.asarray(call(JpegCodec(jnp.asarray(quality)), x, keys))[0]
    np.testing.assert_allclose(coded, expected, atol=1e-3)


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
