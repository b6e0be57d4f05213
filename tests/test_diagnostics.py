"""The sceptic: each check stays silent on a sound attack and speaks up on what it is there for."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import attack_images, settings
from nriqa_jax.attacks.diagnostics import Checks, findings, same_size_noise
from nriqa_jax.models.tinyiqa import tinyiqa

SOUND = Checks(zero_gradient=0.1, nonfinite=0, unmoved=0.0, at_budget=1.0, gain_over_noise=20.0, more_steps=0.5)


def test_a_sound_attack_has_no_findings():
    assert findings(SOUND) == []
    assert findings(SOUND._replace(more_steps=None)) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"zero_gradient": 0.99}, "99% of gradient entries were exactly zero"),
        ({"nonfinite": 3}, "3 gradient entries were NaN or infinite"),
        ({"unmoved": 0.5}, "50% of images did not change"),
        ({"at_budget": 0.1}, "Only 10% of images used the whole budget"),
        ({"gain_over_noise": 1.1}, "1.1 times as far as by random noise"),
        ({"more_steps": -0.1}, "Twice the steps did worse"),
    ],
)
def test_each_symptom_is_named(change, text):
    (warning,) = findings(SOUND._replace(**change))
    assert text in warning


def test_noise_has_the_size_of_the_attack(images, keys):
    adversarial = jnp.clip(images + 0.02 * jnp.sign(images - 0.5), 0, 1)
    noisy = same_size_noise(images, adversarial, keys)
    inside = (images > 0.05) & (images < 0.95)
    np.testing.assert_allclose(jnp.abs(noisy - images)[inside], jnp.abs(adversarial - images)[inside], atol=1e-6)
    assert 0.3 < np.mean((jnp.sign(noisy - images) == jnp.sign(adversarial - images))[inside]) < 0.7


def test_a_masked_gradient_is_reported(photo_folder, tmp_path, monkeypatch):
    """A model that rounds its input has no gradient: the attack fails, and the summary says so."""
    model = tinyiqa()
    views = model.preprocess.views
    rounding = dataclasses.replace(model.preprocess, views=lambda images: views(jnp.round(images * 8) / 8))
    broken = dataclasses.replace(model, preprocess=rounding)
    monkeypatch.setattr(settings, "MODELS", {"tinyiqa": lambda: broken})
    config = attack_images.Config(
        model="tinyiqa", weights="random", images=str(photo_folder), out=str(tmp_path), steps=3
    )
    attack_images.run(config)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert any("exactly zero" in warning for warning in summary["warnings"])
    assert any("did not change" in warning for warning in summary["warnings"])
