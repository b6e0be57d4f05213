"""NIQE: equality with a plain transcription of the paper and its published code, and what it is for."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io
from PIL import Image
from scipy import ndimage
from scipy.special import gamma

from experiments import natural
from experiments.errors import UserError
from nriqa_jax.metrics.niqe import FEATURES, block_features, fit_pristine, niqe, pristine_of

PHOTOGRAPHS = Path(__file__).parents[2] / "shared" / "data" / "nips2017" / "images"
NIQE = jax.jit(niqe)


def textures(batch, height, width, seed=0, variety=0.3):
    """8-bit pictures of blurred noise, differently coarse from place to place, as floats."""
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in range(batch):
        fine, coarse = (ndimage.gaussian_filter(rng.normal(size=(height, width, 3)), (s, s, 0)) for s in (0.6, 3.0))
        share = ndimage.gaussian_filter(rng.normal(size=(height, width, 1)), (30, 30, 0))
        share = 0.5 + variety * np.tanh(share / share.std())
        picture = 128 + 60 * (share * fine / fine.std() + (1 - share) * coarse / coarse.std())
        pictures.append(np.clip(np.round(picture), 0, 255))
    return np.stack(pictures) / 255


def numpy_luma(image):
    levels = np.round(image * 255).astype(np.int64)
    return ((19595 * levels[..., 0] + 38470 * levels[..., 1] + 7471 * levels[..., 2] + 32768) >> 16).astype(np.float64)


def numpy_aggd(x):
    shapes = np.arange(0.2, 10.0005, 0.001)
    table = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))
    left, right = np.sqrt(np.mean(x[x < 0] ** 2)), np.sqrt(np.mean(x[x > 0] ** 2))
    ratio = left / right
    moments = np.mean(np.abs(x)) ** 2 / np.mean(x**2)
    wanted = moments * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shape = shapes[np.argmin((table - wanted) ** 2)]
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * scale, right * scale


def numpy_block(block):
    shape, left, right = numpy_aggd(block)
    features = [shape, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, left, right = numpy_aggd(block * np.roll(block, shift, (0, 1)))
        features += [shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right]
    return features


def numpy_halved(x):
    """Bicubic with antialias, by the weights at each output pixel."""
    for axis in (0, 1):
        length = x.shape[axis]
        matrix = np.zeros((length // 2, length))
        for i in range(length // 2):
            for j in range(2 * i - 4, 2 * i + 6):
                t = abs(2 * i + 0.5 - j) / 2
                near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
                weight = (near if t <= 1 else far if t <= 2 else 0) / 2
                inside = -1 - j if j < 0 else 2 * length - 1 - j if j >= length else j
                matrix[i, inside] += weight
        x = np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)
    return x


def numpy_features(image):
    """Features [blocks, 36] and sharpness of the blocks."""
    luma = numpy_luma(image)
    luma = luma[: luma.shape[0] // 96 * 96, : luma.shape[1] // 96 * 96]
    line = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
    window = np.outer(line, line) / line.sum() ** 2
    scales, sharpness = [], []
    for size in (96, 48):
        mean = ndimage.correlate(luma, window, mode="nearest")
        deviation = np.sqrt(np.abs(ndimage.correlate(luma**2, window, mode="nearest") - mean**2))
        normalized = (luma - mean) / (deviation + 1)
        corners = [(y, x) for y in range(0, luma.shape[0], size) for x in range(0, luma.shape[1], size)]
        scales.append([numpy_block(normalized[y : y + size, x : x + size]) for y, x in corners])
        sharpness.append([deviation[y : y + size, x : x + size].mean() for y, x in corners])
        luma = numpy_halved(luma)
    return np.concatenate(scales, axis=1), np.array(sharpness[0])


def numpy_pristine(images):
    chosen = []
    for image in images:
        features, sharpness = numpy_features(image)
        chosen.append(features[sharpness > 0.75 * sharpness.max()])
    chosen = np.concatenate(chosen)
    return pristine_of(chosen.mean(0), np.cov(chosen, rowvar=False))


def numpy_niqe(image, pristine):
    features, _ = numpy_features(image)
    change = features.mean(0) - pristine.mean
    own = np.cov(features, rowvar=False) if len(features) > 1 else np.zeros((36, 36))
    return np.sqrt(change @ np.linalg.pinv((pristine.covariance + own) / 2) @ change)


@pytest.fixture(scope="module")
def natural_images():
    return [textures(4, 288, 384, seed) for seed in range(3)]


@pytest.fixture(scope="module")
def model(natural_images):
    return numpy_pristine([image for batch in natural_images for image in batch])


def test_features_equal_the_transcription():
    images = textures(2, 192, 200, 7)
    expected = [numpy_features(image) for image in images]
    with jax.enable_x64(True):
        found = jax.jit(block_features)(jnp.asarray(images))
        np.testing.assert_allclose(found.features, [features for features, _ in expected], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found.sharpness, [sharpness for _, sharpness in expected], rtol=1e-10)
    single = jax.jit(block_features)(jnp.asarray(images, jnp.float32))
    np.testing.assert_allclose(single.features, [features for features, _ in expected], rtol=1e-3, atol=2e-3)
    assert single.textured.all()


def test_the_model_equals_the_transcription(natural_images, model):
    with jax.enable_x64(True):
        found = fit_pristine(map(jnp.asarray, natural_images))
    np.testing.assert_allclose(found.mean, model.mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.covariance, model.covariance, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize(("height", "width"), [(192, 200), (290, 97)])
def test_scores_equal_the_transcription(model, height, width):
    images = textures(3, height, width, 9)
    images[1] = ndimage.gaussian_filter(images[1], (1, 1, 0))
    expected = [numpy_niqe(np.round(image * 255) / 255, model) for image in images]
    images = np.round(images * 255) / 255
    with jax.enable_x64(True):
        np.testing.assert_allclose(NIQE(jnp.asarray(images), model), expected, rtol=1e-7)
    np.testing.assert_allclose(NIQE(jnp.asarray(images, jnp.float32), model), expected, rtol=0.02)


def test_each_image_stands_alone_in_one_trace(model):
    images = jnp.asarray(textures(3, 192, 200, 11), jnp.float32)
    traces = []

    @jax.jit
    def score(images, model):
        traces.append(1)
        return niqe(images, model)

    together = score(images, model)
    swapped = score(images[::-1], model._replace(mean=model.mean + 1))
    assert len(traces) == 1
    assert not np.allclose(swapped[::-1], together)
    for i in range(3):
        np.testing.assert_allclose(NIQE(images[i : i + 1], model)[0], together[i], rtol=1e-4)


def test_flat_blocks_are_left_out(model):
    """An image of nothing else is infinitely far; half an image counts as that half, but for the border."""
    for level in (0, 0.5, 1):
        assert NIQE(jnp.full((1, 100, 120, 3), float(level)), model)[0] == np.inf
    half = textures(1, 192, 288, 5)
    half[:, :, 100:] = 1.0  # the second block keeps a strip, the third has none
    found = jax.jit(block_features)(jnp.asarray(half, jnp.float32))
    np.testing.assert_array_equal(found.textured[0], [True, True, False] * 2)
    assert np.isfinite(NIQE(jnp.asarray(half, jnp.float32), model)).all()


def test_what_cannot_be_measured_is_refused(model):
    with pytest.raises(ValueError, match="niqe needs images of at least 96 pixels a side, got 95x200"):
        niqe(jnp.zeros((1, 95, 200, 3)), model)
    with pytest.raises(ValueError, match="more than 36 sharp blocks, got 0"):
        fit_pristine([jnp.ones((2, 96, 96, 3))])
    with pytest.raises(ValueError, match="more than 36 sharp blocks, got 0"):
        fit_pristine([])


def test_models_from_files(tmp_path, model):
    natural.save(tmp_path / "own.mat", model)
    for found, expected in zip(natural.load(str(tmp_path / "own.mat")), model):
        np.testing.assert_array_equal(found, expected)
    scipy.io.savemat(tmp_path / "other.mat", {"mu_prisparam": np.zeros((1, FEATURES))})
    scipy.io.savemat(tmp_path / "less.mat", {"mu_prisparam": np.zeros(18), "cov_prisparam": np.eye(18)})
    scipy.io.savemat(tmp_path / "flat.mat", {"mu_prisparam": np.zeros(36), "cov_prisparam": np.zeros((36, 36))})
    scipy.io.savemat(tmp_path / "deficient.mat", {"mu_prisparam": np.zeros(36), "cov_prisparam": np.ones((36, 36))})
    (tmp_path / "text.mat").write_text("no matrix at all")
    (tmp_path / "empty").mkdir()
    for name, words in (
        ("other.mat", "holds no 'cov_prisparam'"),
        ("less.mat", "of other features"),
        ("flat.mat", "the covariance is none"),
        ("deficient.mat", "the covariance is singular"),
        ("text.mat", "is not a .mat file"),
        ("absent.mat", "is no file and no folder"),
        ("empty", "holds no image"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            natural.load(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_models_from_folders(tmp_path):
    pictures = [(image * 255).round().astype(np.uint8) for image in textures(2, 288, 672, 3, 0.05)]
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
    expected = fit_pristine([jnp.asarray(picture[None], jnp.float32) / 255 for picture in pictures])
    jax.tree.map(np.testing.assert_array_equal, natural.load(str(tmp_path)), expected)
    Image.fromarray(pictures[0][:90]).save(tmp_path / "small.png")
    with pytest.raises(UserError, match=r"small.png is smaller than the blocks of NIQE, 96 pixels a side"):
        natural.load(str(tmp_path))


def test_noise_and_blur_raise_the_score_of_photographs():
    paths = sorted(PHOTOGRAPHS.glob("*.png"))[:28] if PHOTOGRAPHS.is_dir() else []
    if len(paths) < 28:
        pytest.skip(f"{PHOTOGRAPHS} has too few photographs")
    pictures = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths]) / 255.0
    pristine = fit_pristine([jnp.asarray(pictures[4:], jnp.float32)])
    rng = np.random.default_rng(0)

    def mean_score(pictures):
        return float(np.mean(NIQE(jnp.asarray(np.round(255 * np.clip(pictures, 0, 1)) / 255, jnp.float32), pristine)))

    clean = pictures[:4]
    noise = rng.normal(size=clean.shape)
    noisy = [mean_score(clean + sigma * noise) for sigma in (0, 0.05, 0.1)]
    blurred = [mean_score(ndimage.gaussian_filter(clean, (0, s, s, 0))) for s in (0, 0.7, 1.4)]
    assert np.all(np.diff(noisy) > 0), noisy
    assert np.all(np.diff(blurred) > 0), blurred
