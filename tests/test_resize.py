"""Resizing: equal to the libraries that the functions are named after."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from nriqa_jax import resize

SIZES = pytest.mark.parametrize(("height", "width"), [(40, 31), (9, 11), (17, 46), (17, 23)])


@pytest.fixture
def pictures():
    return np.random.default_rng(0).random((2, 17, 23, 3)).astype(np.float32)


def interpolate(pictures, **options):
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(pictures.copy()).permute(0, 3, 1, 2)
    return torch.nn.functional.interpolate(x, **options).permute(0, 2, 3, 1).numpy()


@SIZES
@pytest.mark.parametrize("antialias", [False, True])
def test_linear(pictures, height, width, antialias):
    theirs = interpolate(pictures, size=(height, width), mode="bilinear", align_corners=False, antialias=antialias)
    ours = resize.resize_torch(jnp.asarray(pictures), height, width, antialias=antialias)
    np.testing.assert_allclose(ours, theirs, atol=3e-6)


@pytest.mark.parametrize("scale", [1.13, 0.71, 225 / 200, 2.0])
def test_scale_factor(pictures, scale):
    theirs = interpolate(pictures, scale_factor=scale, mode="bilinear", align_corners=False)
    ours = resize.scale_torch(jnp.asarray(pictures), scale)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


@SIZES
def test_corners(pictures, height, width):
    theirs = interpolate(pictures, size=(height, width), mode="bilinear", align_corners=True)
    np.testing.assert_allclose(resize.resize_corners(jnp.asarray(pictures), height, width), theirs, atol=3e-6)


def test_one_pixel_by_corners(pictures):
    theirs = interpolate(pictures, size=(1, 5), mode="bilinear", align_corners=True)
    np.testing.assert_allclose(resize.resize_corners(jnp.asarray(pictures), 1, 5), theirs, atol=3e-6)


@SIZES
def test_cubic(pictures, height, width):
    theirs = interpolate(pictures, size=(height, width), mode="bicubic", align_corners=False)
    np.testing.assert_allclose(resize.resize_cubic(jnp.asarray(pictures), height, width), theirs, atol=2e-5)


@pytest.mark.parametrize(
    ("before", "after"),
    [((299, 300), (224, 224)), ((60, 41), (97, 120)), ((500, 375), (512, 384)), ((64, 80), (64, 33)), ((7, 9), (1, 2))],
)
def test_pillow(before, after):
    """To the bit."""
    levels = np.random.default_rng(1).integers(0, 256, (*before, 3), dtype=np.uint8)
    theirs = np.asarray(Image.fromarray(levels).resize(after[::-1], Image.Resampling.BILINEAR)).astype(int)
    ours = resize.resize_pil(jnp.asarray(levels[None], jnp.float32) / 255, *after)[0] * 255
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_gradient_of_rounded_resizing_is_that_of_the_filter():
    x = jnp.asarray(np.random.default_rng(2).random((1, 12, 9, 3)), jnp.float32)
    weights = jnp.asarray(np.random.default_rng(3).normal(size=(1, 5, 6, 3)), jnp.float32)
    gradient = jax.grad(lambda x: jnp.sum(weights * resize.resize_pil(x, 5, 6)))(x)
    rows, columns = resize.pil_matrix(12, 5), resize.pil_matrix(9, 6)
    np.testing.assert_allclose(gradient, np.einsum("bopc,oh,pw->bhwc", weights, rows, columns), atol=1e-6)


def test_short_side():
    """As torchvision's Resize with one number."""
    assert resize.short_side(384, 512, 512) == (512, 682)
    assert resize.short_side(1024, 768, 512) == (682, 512)
    assert resize.short_side(512, 683, 512) == (512, 683)
