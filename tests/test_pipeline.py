"""Runs over folders: out of memory, compilations, precision, and what a run says of itself."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import attack_images, batch_sizes, compilation, ledger, score_images
from experiments.catalog import MODELS
from experiments.settings import PRECISIONS
from nriqa_jax import memory
from nriqa_jax.attacks.black_box import nes
from nriqa_jax.attacks.composite import Strongest
from nriqa_jax.attacks.objectives import raise_score
from nriqa_jax.attacks.presets import ifgsm, pgd
from nriqa_jax.parallel import call

ROOT = Path(__file__).parents[1]


def config(kind, folder, out, **settings):
    defaults = {"model": "tinyiqa", "weights": "random", "images": str(folder), "out": str(out)}
    return kind.Config(**{**defaults, **settings})


@pytest.fixture(scope="module")
def thirty(tmp_path_factory):
    """Thirty pictures of one size."""
    folder = tmp_path_factory.mktemp("thirty")
    rng = np.random.default_rng(0)
    for i in range(30):
        Image.fromarray(rng.integers(0, 256, (36, 40, 3), dtype=np.uint8)).save(folder / f"{i:02}.png")
    return folder


def limited(limit):
    """A driver on devices that can take so many rows each, and no more."""

    def limited_call(fn, *arguments):
        rows = arguments[-1]
        if len(rows) > limit * len(rows.sharding.device_set):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1099511627776 bytes.")
        return call(fn, *arguments)

    return limited_call


def test_out_of_memory_halves_the_batch_and_loses_no_row(thirty, tmp_path, monkeypatch, script):
    expected = score_images.run(config(score_images, thirty, tmp_path / "plain", batch_size=4))
    performance = json.loads((tmp_path / "plain" / "performance.json").read_text())
    assert performance["fill"] == 30 / 32  # eight batches of four
    monkeypatch.setattr(score_images, "call", limited(4))
    settings = {"model": "tinyiqa", "weights": "random", "images": thirty, "batch_size": 30}
    code, printed, _ = script(score_images, out=tmp_path / "limited", **settings)
    assert code == 0
    assert "30 of 30 images scored" in printed
    assert "batch size 4 on 2 devices" in printed  # 30, 15, 8, 4
    assert json.loads((tmp_path / "limited" / "batch_sizes.json").read_text()) == {"36x40": 4}
    found = ledger.Table(tmp_path / "limited" / "scores.csv", ledger.SCORE_COLUMNS)
    assert found.rows.keys() == expected.rows.keys()
    np.testing.assert_allclose(found.numbers("score"), expected.numbers("score"), rtol=1e-4)


def test_a_continued_run_keeps_the_settled_batch_size(thirty, tmp_path, monkeypatch):
    monkeypatch.setattr(score_images, "call", limited(8))
    score_images.run(config(score_images, thirty, tmp_path, batch_size=16))
    (tmp_path / "scores.csv").unlink()
    sizes = []
    monkeypatch.setattr(score_images, "call", lambda fn, *rest: sizes.append(rest[-1]) or call(fn, *rest))
    score_images.run(config(score_images, thirty, tmp_path, batch_size=16))
    assert max(len(rows) / len(rows.sharding.device_set) for rows in sizes) <= 8


def test_an_image_too_large_for_memory_fails_alone(thirty, tmp_path, monkeypatch):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.png").write_bytes((thirty / f"0{i}.png").read_bytes())
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "large.png")

    def no_large_images(fn, *arguments):
        if arguments[-1].shape[1] == 64:
            raise MemoryError
        return call(fn, *arguments)

    monkeypatch.setattr(score_images, "call", no_large_images)
    table = score_images.run(config(score_images, folder, tmp_path / "out", batch_size=2))
    assert {name: row["status"] for name, row in table.rows.items()}["large.png"] == "failed"
    assert "takes more memory" in table.rows["large.png"]["error"]
    assert len(table.numbers("score")) == 3


def test_other_errors_are_not_taken_for_lack_of_memory(thirty, tmp_path, monkeypatch):
    def broken(fn, *arguments):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(score_images, "call", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        score_images.run(config(score_images, thirty, tmp_path))


def test_automatic_batch_sizes_follow_memory_and_area(tiny_score, monkeypatch):
    monkeypatch.setattr(batch_sizes, "_free_memory", lambda devices: 8e6 / devices)
    sizes = batch_sizes.automatic(tiny_score, (512, 512), 1)
    halved = batch_sizes.automatic(tiny_score, (512, 512), 2)
    assert 1 <= sizes((512, 512)) < sizes((256, 256)) <= 16
    assert halved((256, 256)) <= sizes((256, 256)) // 2 + 1
    assert sizes((4096, 4096)) == 1
    assert sizes((32, 32)) == 16


def test_what_an_attack_scores_together_makes_batches_smaller(tiny_score):
    up = raise_score()
    attacks = {1: ifgsm(up), 3: pgd(up, restarts=3), 10: nes(up, samples=5)}
    attacks[20] = Strongest(up, (ifgsm(up), nes(up, samples=10)))
    for together, attack in attacks.items():
        assert memory.scored_together(attack, 40, 50) == together
        assert batch_sizes.automatic(tiny_score, (40, 50), 2, attack)((40, 50)) == max(16 // together, 1)


def test_the_estimate_of_memory_is_an_upper_one(tiny_score):
    """Temporary memory of the compiled gradient, as XLA reports it."""
    image = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
    gradient = jax.jit(jax.grad(lambda x: tiny_score(x).sum())).lower(image).compile().memory_analysis()
    assert gradient.temp_size_in_bytes <= memory.gradient_bytes(tiny_score, 128, 128) <= 20e6


@pytest.mark.slow
def test_forty_sizes_compile_at_most_forty_programs(tmp_path, script):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(60):
        side = 32 + i % 40
        Image.fromarray(rng.integers(0, 256, (side, 103 - side, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    settings = {"model": "tinyiqa", "weights": "random", "images": folder, "out": tmp_path / "out"}
    code, _, said = script(score_images, **settings)
    assert code == 0
    programs = json.loads((tmp_path / "out" / "performance.json").read_text())["programs"]
    assert sum(programs.values()) <= 40, programs
    assert re.search(r"(\d+) programs compiled and (\d+) loaded in [\d.]+ s; they are kept in /", said)


@pytest.mark.slow
def test_a_second_start_compiles_nothing(photo_folder, tmp_path):
    command = [sys.executable, "-m", "experiments.attack_images", "--model=tinyiqa", "--weights=random", "--steps=2"]
    command += [f"--images={photo_folder}"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    said = []
    for out in ("first", "second"):
        done = subprocess.run(
            [*command, f"--out={tmp_path / out}"], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
        )
        said += re.findall(r"(\d+) programs compiled and (\d+) loaded", done.stderr)
    (compiled, _), (again, loaded) = said
    assert int(compiled) > 0
    assert (int(again), int(loaded)) == (0, sum(map(int, said[0])))


def test_compilations_are_counted_while_watched():
    def doubled(x):
        return 2 * x

    with compilation.watch() as found:
        for size in (3, 3, 4):
            jax.jit(doubled)(np.ones(size, np.float32))
    jax.jit(doubled)(np.ones(5, np.float32))
    assert found.programs["jit(doubled)"] == 2
    assert found.seconds > 0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_precision_is_of_gradients_only_and_is_stated(photo_folder, tmp_path, precision):
    settings = {"precision": precision, "steps": 2, "objective": "raise_score"}
    table = attack_images.run(config(attack_images, photo_folder, tmp_path, **settings))
    exact = call(MODELS["tinyiqa"]().score_fn(_weights()), _saved(tmp_path, table))
    np.testing.assert_allclose(table.numbers("score_adversarial"), exact, rtol=1e-4)
    assert np.all(table.numbers("score_adversarial") > table.numbers("score_clean"))
    assert np.max(table.numbers("linf_255")) <= 4
    stated = json.loads((tmp_path / "config.json").read_text())["precision"]
    assert stated["gradients"] == precision
    assert stated["scores"].startswith("float32")


def _weights():
    return jax.jit(MODELS["tinyiqa"]().init)(jax.random.key(0))


def _saved(out, table):
    files = [out / "adversarial" / name for name in ledger.adversarial_names(sorted(table.rows)).values()]
    pixels = [np.asarray(Image.open(path)) for path in files]
    if len({image.shape for image in pixels}) > 1:
        pytest.fail("expected pictures of one size")
    return jnp.asarray(np.stack(pixels), jnp.float32) / 255.0


@pytest.fixture
def photo_folder(thirty, tmp_path):
    """Four of the thirty pictures."""
    folder = tmp_path / "four"
    folder.mkdir()
    for i in range(4):
        (folder / f"{i}.png").write_bytes((thirty / f"{i:02}.png").read_bytes())
    return folder


def test_rematerialized_gradients_are_the_same_and_keep_less():
    model = MODELS["tinyiqa"]()
    score = model.score_fn(_weights())
    saving = memory.rematerialize(score)
    images = jax.random.uniform(jax.random.key(1), (2, 64, 64, 3))
    gradients = [jax.grad(lambda x, f=f: f(x).sum())(images) for f in (score, saving)]
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)
    kept = [jax.eval_shape(lambda x, f=f: jax.vjp(f, x)[1], images) for f in (score, saving)]
    plain, less = (sum(leaf.size for leaf in jax.tree.leaves(residuals)) for residuals in kept)
    assert less < 0.8 * plain
