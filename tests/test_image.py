"""Image primitives against exact arithmetic, Pillow and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nriqa_jax import image


def test_luma_equals_an_8_bit_grey_file():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    pixels[0, :, :, :] = np.arange(128)[:, None, None]  # greys stay as they are
    grey = np.stack([np.asarray(Image.fromarray(p).convert("L")) for p in pixels])
    luma = image.luma_8bit(image.from_uint8(jnp.asarray(pixels)))
    np.testing.assert_array_equal(np.asarray(luma[..., 0] * 255).round(), grey)
    np.testing.assert_allclose(luma[..., 0], grey / 255.0, atol=1e-6)


def test_luma_passes_its_gradient_through_the_rounding():
    gradient = jax.grad(lambda x: image.luma_8bit(x).sum())(jnp.full((1, 2, 2, 3), 0.3))
    np.testing.assert_allclose(gradient, np.broadcast_to([0.299, 0.587, 0.114], gradient.shape), atol=1e-4)


def test_8_bit_levels_survive_the_round_trip():
    levels = jnp.arange(256, dtype=jnp.uint8)
    np.testing.assert_array_equal(image.to_uint8(image.from_uint8(levels)), levels)


@given(epsilon=st.integers(1, 40), seed=st.integers(0, 2**16))
@settings(max_examples=25, deadline=None)
def test_rounding_toward_the_clean_image_stays_in_the_ball(epsilon, seed):
    rng = np.random.default_rng(seed)
    clean = rng.integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    radius = epsilon / 255 if seed % 2 else (epsilon - 0.4) / 255
    moved = np.clip(clean / 255.0 + rng.uniform(-radius, radius, clean.shape), 0, 1)
    moved = np.where(rng.random(clean.shape) < 0.3, np.clip(clean / 255.0 + radius, 0, 1), moved).astype(np.float32)
    rounded = np.asarray(image.quantize_toward(jnp.asarray(moved), jnp.asarray(clean))).astype(int)
    assert np.abs(rounded - clean).max() <= np.floor(radius * 255 + 1e-6)
    assert np.abs(rounded / 255.0 - moved).max() < 1 / 255
    assert np.all(np.sign(rounded - clean) * np.sign(moved * 255.0 - clean) >= 0)


def test_a_full_step_survives_rounding():
    clean = jnp.asarray(np.arange(256, dtype=np.uint8)).reshape(1, 16, 16, 1).repeat(3, -1)
    moved = jnp.clip(image.from_uint8(clean) + jnp.float32(4 / 255), 0, 1)
    expected = np.minimum(np.asarray(clean).astype(int) + 4, 255)
    np.testing.assert_array_equal(image.quantize_toward(moved, clean), expected)


@pytest.mark.parametrize(("length", "window"), [(32, 32), (33, 32), (299, 32), (384, 32), (500, 224), (224, 224)])
def test_covering_offsets_cover_every_pixel(length, window):
    offsets = image.covering_offsets(length, window)
    seen = np.zeros(length, int)
    for start in offsets:
        seen[start : start + window] += 1
    assert seen.min() >= 1
    assert offsets[0] == 0
    assert offsets[-1] + window == length
    assert len(offsets) == -(-length // window)


def test_crops_are_where_they_say():
    images = jnp.arange(2 * 6 * 7 * 3, dtype=jnp.float32).reshape(2, 6, 7, 3)
    cut = image.crops(images, ((0, 1), (2, 3)), 4)
    np.testing.assert_array_equal(cut[1, 1], images[1, 2:6, 3:7])


def test_straight_through_gradient():
    gradient = jax.grad(lambda x: image.straight_through(jnp.round(x), x**2).sum())(jnp.array([0.2, 1.7]))
    np.testing.assert_allclose(gradient, [0.4, 3.4], rtol=1e-6)
