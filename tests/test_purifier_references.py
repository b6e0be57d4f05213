"""What each purifier computes, at its presets, against plain references."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from smooth_pictures import smooth_pictures

from experiments.catalog import PURIFIERS
from experiments.codecs import JpegCodec
from nriqa_jax.defenses.gaussian import GaussianBlur
from nriqa_jax.defenses.geometric import rotate
from nriqa_jax.defenses.jpeg import DiffJpeg, ExactJpeg
from nriqa_jax.defenses.median import MedianBlur, median_network
from nriqa_jax.defenses.quantization import BitDepth
from nriqa_jax.parallel import call

HEIGHT, WIDTH = 33, 40


@pytest.fixture(scope="module")
def pictures():
    return smooth_pictures(HEIGHT, WIDTH)[:2]


@pytest.fixture(scope="module")
def seeds():
    return jax.random.split(jax.random.key(5), 2)


TORCH = ("flip", "resize", "upscale", "gaussian_blur", "unsharp", "median_blur", "bilateral", "non_local_means")
TORCH += ("total_variation", "wavelet_shrinkage", "diffjpeg", "color_quantization")


@pytest.mark.parametrize("name", TORCH)
def test_values_are_those_of_pytorch(name, pictures, seeds):
    torch = pytest.importorskip("torch")
    from experiments.contenders import torch_purifiers

    ours, theirs = PURIFIERS[name], torch_purifiers.PURIFIERS[name]
    x = torch.from_numpy(np.asarray(pictures).transpose(0, 3, 1, 2).copy())
    presets = ours.presets[:3] if name == "median_blur" else ours.presets  # the others against SciPy, below
    pairs = [(ours(), theirs)]
    pairs += [(ours.preset(number), lambda x, value=value: theirs(x, value)) for number, value in enumerate(presets)]
    for purifier, plain in pairs:
        found = call(purifier, pictures, seeds)
        expected = torch_purifiers.one_by_one(plain, x).numpy().transpose(0, 2, 3, 1)
        close = np.abs(found - expected) <= 1e-5
        # A coefficient half-way between two levels may go either way.
        assert close.mean() >= (0.97 if name == "diffjpeg" else 1.0), purifier


@pytest.mark.parametrize("bits", BitDepth.presets)
def test_fewer_bits_are_the_nearest_levels(bits, pictures, seeds):
    steps = 2**bits - 1
    expected = np.rint(np.asarray(pictures, np.float64) * steps) / steps
    np.testing.assert_allclose(call(BitDepth(bits), pictures, seeds), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", GaussianBlur.presets)
def test_blurs_are_those_of_scipy_at_every_preset(size, pictures, seeds):
    sigma = 0.3 * ((size - 1) / 2 - 1) + 0.8
    taps = np.exp(-0.5 * ((np.arange(size) - size // 2) / sigma) ** 2)
    expected = np.asarray(pictures, np.float64)
    for axis in (1, 2):
        expected = ndimage.correlate1d(expected, taps / taps.sum(), axis, mode="mirror")
    np.testing.assert_allclose(call(GaussianBlur(size), pictures, seeds), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", MedianBlur.presets)
def test_medians_are_those_of_scipy(size, pictures, seeds):
    expected = ndimage.median_filter(np.asarray(pictures), (1, size, size, 1), mode="mirror")
    median = MedianBlur(size)  # of many pixels it takes long to compile, here
    found = call(median, pictures, seeds) if size < 9 else median(pictures, seeds)
    np.testing.assert_array_equal(found, expected)


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
