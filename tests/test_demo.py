"""The embedded photographs and the embedded model: what `make demo` shows."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import demo, photographs, settings
from experiments.distortions import DISTORTIONS, labelled_set
from experiments.errors import UserError
from nriqa_jax.image import from_uint8
from nriqa_jax.models.tinyiqa import tinyiqa
from nriqa_jax.parallel import call


@pytest.fixture(scope="module")
def copies():
    pytest.importorskip("skimage")
    return labelled_set(photographs.load())


def test_the_embedded_set(copies):
    assert len(copies) == len(photographs.load()) * (1 + 4 * len(DISTORTIONS))
    assert 6 <= len(photographs.load()) <= 8
    for name in photographs.load():
        assert copies[f"{name}_pristine"][1] == pytest.approx(100, abs=0.1)
        for kind in DISTORTIONS:
            labels = [copies[f"{name}_{kind}{level}"][1] for level in range(1, 5)]
            assert labels == sorted(labels, reverse=True), (name, kind, labels)
            assert 0 <= labels[-1] < labels[0] < 98


def test_copies_are_reproducible(copies):
    again = labelled_set({"cat": photographs.load()["cat"]})
    for name, (pixels, label) in again.items():
        np.testing.assert_array_equal(pixels, copies[name][0])
        assert label == pytest.approx(copies[name][1], abs=1e-4)


def test_the_embedded_model_ranks_unseen_photographs(copies):
    """SROCC between scores and labels; none of these photographs was trained on."""
    config = settings.Common(model="tinyiqa", weights="embedded", images="", out="")
    _, scorers, description = settings.load_model(config)
    batches = np.split(np.stack([pixels for pixels, _ in copies.values()]), len(copies) // 21)
    scores = np.concatenate([call(scorers.score, from_uint8(jnp.asarray(batch))) for batch in batches])
    assert demo.srocc(scores, [label for _, label in copies.values()]) >= 0.85
    assert len(description["weights_sha256"]) == 64


def test_the_embedded_weights_are_small_and_documented():
    folder = demo.Path(demo.__file__).parents[1] / "nriqa_jax" / "models" / "embedded"
    assert (folder / "tinyiqa.safetensors").stat().st_size <= 3_000_000
    card = (folder / "tinyiqa.md").read_text()
    for word in ("MS-SSIM", "NIPS 2017", "CC-BY", "seed", "SROCC", *DISTORTIONS):
        assert word in card, word
    assert tinyiqa().card.training_data


@pytest.mark.slow
def test_the_demo_ends_with_a_report_and_reuses_it(tmp_path, monkeypatch):
    pytest.importorskip("skimage")
    keep = {name: pixels for name, pixels in photographs.load().items() if name in ("cat", "rocket")}
    monkeypatch.setattr(photographs, "load", lambda: keep)
    config = demo.Config(out=str(tmp_path / "demo"), steps=4, photographs=1)
    numbers = demo.run(config)
    assert numbers["images"] == 21
    assert numbers["srocc_labels_clean"] > 0.8
    assert numbers["srocc_labels_adversarial"] < 0.5
    page = tmp_path / "demo" / "report.html"
    before = page.stat().st_mtime_ns
    assert demo.run(config) == numbers
    assert page.stat().st_mtime_ns == before
    for count, words in ((2, "holds another number of them"), (3, "must be from 1 to 2")):
        with pytest.raises(UserError, match=f"^--photographs={count}.* {words}"):
            demo.run(dataclasses.replace(config, photographs=count))
