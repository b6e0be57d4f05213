"""Models, attacks and purifiers as flags spell them."""

import pytest

from experiments import benchmark
from experiments.catalog import PURIFIERS
from experiments.errors import UserError
from experiments.listed import load_models
from experiments.matrix import spelled
from nriqa_jax.defenses.purifier import compose

SETTINGS = {"models": "tinyiqa:embedded", "attacks": "fgsm", "purifiers": "flip"}


def test_models_are_taken_with_their_protocol():
    models = load_models("cnniqa:random:protocol=grid, tinyiqa:embedded", 0)
    assert {name: found.model.preprocess.name for name, found in models.items()} == {
        "cnniqa": "grid",
        "tinyiqa": "grid",
    }
    assert load_models("cnniqa:random", 0)["cnniqa"].model.preprocess.name == "published"


def test_spelling_mistakes_are_named(two_pictures, tmp_path, refusal):
    def refused(**settings):
        return refusal(benchmark, **{**SETTINGS, "images": two_pictures, "out": tmp_path / "out", **settings})

    assert "--attacks: there is no 'bim'; give some of fgsm" in refused(attacks="bim")
    assert "attacks have no setting 'weights'" in refused(attacks="fgsm:weights=x", adaptive="all")
    assert "steps=many is not a number" in refused(attacks="ifgsm:steps=many", adaptive="none")
    assert "--steps does not apply to --attack=fgsm" in refused(attacks="fgsm:steps=3", adaptive="all")
    assert "there is no 'pgd'; give some of fgsm" in refused(adaptive="pgd")
    assert "flip is there twice" in refused(purifiers="flip, flip")
    assert "should be like NAME:SETTING=VALUE" in refused(purifiers="jpeg:2")
    assert "it has no setting 'q', but: preset, quality" in refused(purifiers="jpeg:q=3")
    assert "quality must be from 1 to 100" in refused(purifiers="jpeg:quality=0")
    assert "need larger images than 48x40" in refused(purifiers="random_crop:size=64")
    assert "resize:scale=0.5 leaves 24x20 pixels of images of 48x40, too few for tinyiqa" in refused(
        purifiers="resize:scale=0.5"
    )
    assert "--models: metaiqa has no protocol 'grid'; it knows: published, msu" in refused(
        models="metaiqa:random:protocol=grid"
    )
    assert "--draws must be at least 1" in refused(draws=0)


def test_presets_and_chains_are_purifiers(images, keys):
    preset = spelled.purifier(spelled.read("purifiers", "resize:preset=3", PURIFIERS)[0])
    assert preset.scale == 0.75
    with pytest.raises(UserError, match="has 5 presets"):
        spelled.purifier(spelled.read("purifiers", "resize:preset=5", PURIFIERS)[0])
    chain = compose(preset, PURIFIERS["flip"]())
    assert chain(images, keys).shape == (5, 18, 15, 3)
