"""Every model of the zoo as scripts use it: attacked, and scored from files alone and among others."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from random_weights import with_weights
from zoo import NARROW, ZOO

from experiments import catalog, score_images
from experiments.ledger import SCORE_COLUMNS, Table
from nriqa_jax.attacks import objectives, presets
from nriqa_jax.parallel import run_attack
from weights_convert import store
from weights_convert.rules import flatten

SIDE = 64
_LAST_DIGIT = 1e-6  # of the table of scores
COSTLY = ("hyperiqa", "linearity", "maniqa")  # and their variants: run by make test-full


def narrow(names):
    """The costly ones apart."""
    marks = {name: [pytest.mark.full] if name.startswith(COSTLY) else [] for name in names}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=found) for name, found in marks.items()])


SMALL = narrow(NARROW)
FULL = pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow, pytest.mark.full]) for name in ZOO])


def photographs():
    """A smooth picture with noise, and flat, black and white ones."""
    rng = np.random.default_rng(0)
    smooth = jax.image.resize(jnp.asarray(rng.random((1, 6, 7, 3)), jnp.float32), (1, SIDE, SIDE + 8, 3), "cubic")
    picture = jnp.round(jnp.clip(smooth + 0.03 * rng.normal(size=smooth.shape), 0, 1) * 255) / 255
    flat = [jnp.full_like(picture, level) for level in (0.5, 0.0, 1.0)]
    return jnp.concatenate([picture, *flat]).astype(jnp.float32)


UP, DOWN = (objectives.raise_score, 1), (objectives.lower_score, -1)


def attack(model, variables, directions, epsilon, steps):
    """Gradients are finite, and not zero, on every image."""
    images = photographs()
    score = model.score_fn(model.prepare(variables))
    keys = jax.random.split(jax.random.key(0), len(images))
    for direction, sign in directions:
        result = run_attack(presets.ifgsm(direction(), epsilon=epsilon, steps=steps), score, images, keys)
        clean = -sign * result.loss_trace[0]
        assert np.all(np.isfinite(result.scores))
        assert not np.any(result.health.nonfinite)
        assert np.all(result.health.zero < 1)
        assert np.abs(result.images - images).max() <= epsilon + 1e-6
        assert np.all(sign * (result.scores - clean)[:1] > 0), "the photograph's score must move"


@SMALL
def test_attacked(name):
    attack(*with_weights(ZOO[name].narrow_model()), (UP, DOWN), epsilon=8 / 255, steps=4)


@FULL
def test_full_networks_attacked(name):
    """One way, by one tiny step, since random weights make deep networks rough."""
    attack(*with_weights(ZOO[name].build()), (UP,), epsilon=1e-4, steps=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty pictures of two sizes."""
    path, rng = tmp_path_factory.mktemp("forty"), np.random.default_rng(1)
    for i in range(40):
        size = (70, 66) if i % 3 else (66, 72)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(path / f"{(7 * i) % 40:02}.png")
    return path


@pytest.mark.slow
@narrow({type(ZOO[name].build().network): name for name in NARROW}.values())
def test_a_score_is_a_function_of_the_image_alone(name, folder, tmp_path, script, monkeypatch):
    """The same alone, among forty files, in another batch size and under another name, to 1e-5 or the last digit."""
    model, variables = with_weights(ZOO[name].narrow_model())
    monkeypatch.setitem(catalog.MODELS, name, lambda: model)
    weights = tmp_path / "weights.safetensors"
    store.save_variables(weights, variables, store.describe(model))

    def scores(images, batch_size):
        out = tmp_path / f"{images.name}-{batch_size}"
        settings = {"model": name, "weights": weights, "images": images, "out": out, "batch_size": batch_size}
        assert script(score_images, **settings)[0] == 0
        table = Table(out / "scores.csv", SCORE_COLUMNS)
        return dict(zip(table.rows, table.numbers("score")))

    whole = scores(folder, 8)
    assert len(whole) == 40
    assert np.ptp(list(whole.values())) > 1e-4 * np.abs(list(whole.values())).max()
    other = scores(folder, 3)
    np.testing.assert_allclose(list(other.values()), list(whole.values()), rtol=1e-5, atol=_LAST_DIGIT)
    for file in ("05.png", "21.png"):
        alone = tmp_path / f"z{file}"
        alone.write_bytes((folder / file).read_bytes())
        np.testing.assert_allclose(list(scores(alone, 1).values()), [whole[file]], rtol=1e-5, atol=_LAST_DIGIT)


def test_random_weights_are_used():
    """`with_weights` fills every variable, and gives another score for another image."""
    model, variables = with_weights(dataclasses.replace(ZOO["hyperiqa"].narrow_model()))
    assert set(flatten(variables)) == set(flatten(jax.eval_shape(model.init, jax.random.key(0))))
