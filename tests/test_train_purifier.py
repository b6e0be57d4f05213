"""Training a filter: it learns, it goes on after a kill as if nothing had been, and says what it did."""

import numpy as np
import pytest

from experiments import filters, train_purifier
from experiments.train_purifier import Config
from nriqa_jax.defenses import fcn
from weights_convert.store import read_metadata

TINY = {"models": "tinyiqa:embedded", "pairs": 2, "crop": 32, "validation_crop": 40, "held_out": 4, "attack_steps": 1}
TINY |= {"attacks": "fgsm", "epsilons": "8/255", "validate_every": 8, "steps": 16, "variant": "nonorm"}


def config(photo_folder, out, **settings):
    return Config(images=str(photo_folder), out=str(out), **{**TINY, **settings})


class Killed(Exception):
    pass


def test_training_improves_validation_and_survives_a_kill(photo_folder, tmp_path, monkeypatch):
    whole = train_purifier.run(config(photo_folder, tmp_path / "whole"))
    rows = train_purifier._read_rows(tmp_path / "whole" / "training.csv")
    assert [row["step"] for row in rows] == ["8", "16"]
    for name in ("psnr_clean", "psnr_attacked"):
        assert whole[name] == pytest.approx(float(rows[-1][name]), abs=1e-5)
        assert whole[name] > float(rows[0][name]) + 1.0

    draw = train_purifier.purifier_training.draw_pairs

    def draw_until_killed(curriculum, step):
        if step == 12:
            raise Killed
        return draw(curriculum, step)

    with monkeypatch.context() as patch:
        patch.setattr(train_purifier.purifier_training, "draw_pairs", draw_until_killed)
        with pytest.raises(Killed):
            train_purifier.run(config(photo_folder, tmp_path / "killed"))
    assert not (tmp_path / "killed" / "fcn_nonorm.safetensors").exists()
    steps = []
    monkeypatch.setattr(
        train_purifier.purifier_training, "draw_pairs", lambda c, step: steps.append(step) or draw(c, step)
    )
    train_purifier.run(config(photo_folder, tmp_path / "killed"))
    assert steps == list(range(9, 17))
    for name in ("fcn_nonorm.safetensors", "fcn_nonorm.md", "training.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name

    path = tmp_path / "whole" / "fcn_nonorm.safetensors"
    record = read_metadata(path)
    assert path.stat().st_size < 100_000
    assert record["flags"]["attacks"] == "fgsm"
    assert str(photo_folder) not in str(record)
    assert filters.load(str(path)).network == fcn.nonorm()
    card = path.with_suffix(".md").read_text()
    assert f"{whole['psnr_clean']:.2f} dB" in card
    assert "5 photographs for training, 2 held out" in card


def test_pairs_follow_from_seed_and_step(photo_folder, tmp_path):
    settings = config(photo_folder, tmp_path)
    images = train_purifier.pipeline.survey(photo_folder, tmp_path, 1)
    training, _ = train_purifier._photographs(settings, images)
    models = train_purifier.listed.load_models(settings.models, 0)
    victims = {n: train_purifier.Victim(m.score_fn, m.model.score_range) for n, m in models.items()}
    attacks = {"fgsm": train_purifier._attack("fgsm", 1)}
    curriculum = train_purifier.Curriculum(training, victims, attacks, [4 / 255], 32, 2, 0)
    first, again, next_ = (train_purifier.purifier_training.draw_pairs(curriculum, step) for step in (3, 3, 4))
    np.testing.assert_array_equal(first.images, again.images)
    assert not np.array_equal(first.targets, next_.targets)
    attacked, clean = first.images[:2], first.images[2:]
    np.testing.assert_array_equal(clean, first.targets[2:])
    np.testing.assert_array_equal(first.targets[:2], first.targets[2:])
    np.testing.assert_allclose(np.max(np.abs(attacked - clean)), 4 / 255, atol=1e-6)


def test_bad_settings_are_refused(photo_folder, tmp_path, refusal):
    def refused(**settings):
        return refusal(train_purifier, **{"images": photo_folder, "out": tmp_path / "out", **TINY, **settings})

    assert "--steps=0" in refused(steps=0)
    assert "--crop=16" in refused(crop=16)
    assert "--held_out=1" in refused(held_out=1)
    assert "there is no 'universal'" in refused(attacks="universal")
    assert "--epsilons=2 is outside" in refused(epsilons="2")
    assert "tinyiqa has no weights" in refused(models="tinyiqa")
    assert "is there twice" in refused(models="tinyiqa:embedded,tinyiqa:random")
    assert "there is no 'nima'" in refused(models="nima:random")
