"""The 25 kinds of distortion: each a function of the photograph, stronger from level to level."""

import numpy as np
import pytest
from PIL import Image

from experiments import photographs
from experiments.distortions import quality_labels
from experiments.kadid import KADID


@pytest.fixture(scope="module")
def photograph():
    """At a size that MS-SSIM just takes."""
    return np.asarray(Image.fromarray(photographs.load()["cat"]).resize((176, 176)))


@pytest.fixture(scope="module")
def copies(photograph):
    """All distorted copies, by kind."""
    return {name: [apply(photograph, level) for level in levels] for name, (apply, levels) in KADID.items()}


@pytest.fixture(scope="module")
def labels(photograph, copies):
    """The labels that training uses, by kind."""
    everything = np.stack([photograph, *(copy for group in copies.values() for copy in group)])
    return dict(zip(copies, quality_labels(everything, photograph)[1:].reshape(25, 5)))


def test_there_are_25_kinds_of_five_levels():
    assert [name[:2] for name in KADID] == [f"{number:02}" for number in range(1, 26)]
    assert all(len(kind.levels) == 5 for kind in KADID.values())


@pytest.mark.parametrize("name", KADID)
def test_stronger_from_level_to_level(name, labels):
    """The mildest level changes something, too."""
    assert labels[name][0] < 99.9
    assert np.all(np.diff(labels[name]) < 0), labels[name]
    assert labels[name][0] - labels[name][-1] > 3, labels[name]


@pytest.mark.parametrize("name", KADID)
def test_a_function_of_the_photograph(name, photograph, copies):
    apply, levels = KADID[name]
    np.testing.assert_array_equal(apply(photograph.copy(), levels[2]), copies[name][2])
    assert all(copy.shape == photograph.shape and copy.dtype == np.uint8 for copy in copies[name])


def test_photographs_of_any_shape():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 31, 3), dtype=np.uint8)
    for apply, levels in KADID.values():
        assert apply(pixels, levels[-1]).shape == pixels.shape
