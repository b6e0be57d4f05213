"""Files of universal perturbations, and the script that learns them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from PIL import Image

from experiments import attack_images, networks, patterns, train_universal
from experiments.errors import UserError
from nriqa_jax.attacks import objectives, unet, universal
from nriqa_jax.parallel import run_attack


@pytest.fixture
def pattern():
    return np.random.default_rng(3).uniform(-0.1, 0.1, (7, 9, 3)).astype(np.float32)


@pytest.mark.parametrize("name", ["p.npy", "p.safetensors"])
def test_files_hold_what_was_saved(name, pattern, tmp_path):
    path = tmp_path / "new" / name
    patterns.save_pattern(path, pattern, {"method": "optimised"})
    np.testing.assert_array_equal(patterns.load_pattern(path), pattern)


@pytest.mark.parametrize("shape", [(3, 7, 9), (1, 3, 7, 9), (1, 7, 9, 3), (7, 9, 3)])
def test_layouts_of_others_are_read(shape, pattern, tmp_path):
    array = pattern.astype(np.float64)
    array = array if shape[-1] == 3 else array.transpose(2, 0, 1)
    np.save(tmp_path / "p.npy", array.reshape(shape))
    loaded = patterns.load_pattern(tmp_path / "p.npy")
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, pattern)


BAD_FILES = {
    "absent.npy": (None, "is not a file"),
    "p.png": (b"", "must end with .npy or .safetensors"),
    "empty.npy": (b"", "not a sound .npy file"),
    "text.npy": (b"hello", "not a sound .npy file"),
    "text.safetensors": (b"hello", "not a sound .safetensors file"),
    "bytes.npy": (np.zeros((4, 4, 3), np.uint8), r"holds uint8 of shape \(4, 4, 3\)"),
    "flat.npy": (np.zeros((4, 4)), r"holds float64 of shape \(4, 4\)"),
    "four.npy": (np.zeros((2, 3, 4, 4)), r"of shape \(2, 3, 4, 4\)"),
    "nothing.npy": (np.zeros((0, 4, 3)), r"of shape \(0, 4, 3\)"),
    "large.npy": (np.full((4, 4, 3), 4.0), "beyond 1"),
    "nan.npy": (np.full((4, 4, 3), np.nan), "NaN"),
    "objects.npy": (np.array([{}, []], dtype=object), "not a sound .npy file"),
    "two.safetensors": ({"a": np.zeros((4, 4, 3)), "b": np.zeros(1)}, "holds 2 arrays"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_wrong_files_are_refused_in_one_sentence(name, tmp_path):
    content, message = BAD_FILES[name]
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif isinstance(content, dict):
        (tmp_path / name).write_bytes(safetensors.numpy.save(content))
    elif content is not None:
        np.save(tmp_path / name, content, allow_pickle=True)
    with pytest.raises(UserError, match=message) as caught:
        patterns.load_pattern(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_truncated_files_are_refused(pattern, tmp_path):
    for name in ("p.npy", "p.safetensors"):
        patterns.save_pattern(tmp_path / name, pattern, {})
        data = (tmp_path / name).read_bytes()
        for share in (0.02, 0.5, 0.99):
            (tmp_path / name).write_bytes(data[: int(share * len(data))])
            with pytest.raises(UserError, match="not a sound"):
                patterns.load_pattern(tmp_path / name)


@pytest.mark.parametrize("name", ["uap", "cumulative-uap", "generative-uap"])
def test_published_patterns_load_and_apply(name, shared, tiny_score, images, keys):
    path = shared / "data" / "uap_maniqa" / f"{name}_maniqa_COCO.npy"
    if not path.is_file():
        pytest.skip("the published patterns are not here")
    found = patterns.load_pattern(path)
    assert found.shape == (256, 256, 3)
    assert np.abs(found).max() == pytest.approx(10 / 255 if "generative" in name else 0.1, rel=1e-5)
    attack = universal.universal(objectives.raise_score(), amplitude=0.4, pattern=found)
    result = run_attack(attack, tiny_score, images, keys, fused=True)
    np.testing.assert_allclose(result.images, np.clip(images + 0.4 * found[:24, :20], 0, 1), atol=1e-6)


def train(photo_folder, out, **settings):
    defaults = {"model": "tinyiqa", "weights": "embedded", "epochs": 2, "batch_size": 3, "crop": 32}
    return train_universal.run(
        train_universal.Config(images=str(photo_folder), out=str(out), **{**defaults, **settings})
    )


@pytest.mark.parametrize("method", ["optimised", "cumulative", "generative"])
def test_the_script_is_reproducible_and_recorded(method, photo_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_universal, "NETWORK", unet.UNet(widths=(4, 6, 8)))
    files = [tmp_path / f"{run}.safetensors" for run in "ab"]
    means = [train(photo_folder, file, method=method) for file in files]
    assert files[0].read_bytes() == files[1].read_bytes()
    np.testing.assert_array_equal(*means)
    assert means[0].shape == (2,)
    assert patterns.load_pattern(files[0]).shape == (32, 32, 3)
    with safetensors.safe_open(files[0], framework="numpy") as file:
        record = json.loads(file.metadata()["nriqa_jax"])
    assert record["flags"]["method"] == method
    assert record["model"]["name"] == "tinyiqa"
    assert str(photo_folder) not in json.dumps(record)
    assert capsys.readouterr().out.count("mean objective") == 4


@pytest.mark.parametrize("objective", ["raise_quality", "lower_quality"])
def test_networks_are_trained_recorded_and_used(objective, photo_folder, tmp_path, monkeypatch):
    """Trained on some images, FACPA moves the scores of all of them; sides need not be those of the training."""
    monkeypatch.setattr(train_universal, "NETWORK", unet.UNet(widths=(4, 6, 8)))
    path = tmp_path / "network.safetensors"
    means = train(photo_folder, path, method="facpa", objective=objective, epochs=4)
    assert means[-1] < means[0]
    with safetensors.safe_open(path, framework="numpy") as file:
        record = json.loads(file.metadata()["nriqa_jax"])
    assert (record["flags"]["method"], record["widths"], record["model"]["name"]) == ("facpa", [4, 6, 8], "tinyiqa")
    settings = {"attack": "facpa", "network": str(path), "strength": 0.08, "objective": objective}
    settings |= {"model": "tinyiqa", "weights": "embedded", "images": str(photo_folder), "out": str(tmp_path / "run")}
    table = attack_images.run(attack_images.Config(**settings))
    change = table.numbers("score_adversarial") - table.numbers("score_clean")
    assert np.mean(change if objective == "raise_quality" else -change) > 0
    assert np.max(table.numbers("linf_255")) <= 8


def test_wrong_networks_are_refused_in_one_sentence(pattern, tmp_path):
    path = tmp_path / "net.safetensors"
    network = unet.UNet(widths=(4, 6))
    params = unet.init(network, jax.random.key(0))
    networks.save_network(path, network, params, {})
    found = networks.load_network(path)
    assert found.side == 4
    ones = jnp.ones((1, 8, 4, 3))
    np.testing.assert_array_equal(found.draw(ones), network.apply(params, ones))
    broken = {
        "absent.safetensors": (None, "is not a file"),
        "text.safetensors": (lambda file: file.write_bytes(b"hello"), "not a sound safetensors file"),
        "pattern.safetensors": (lambda file: patterns.save_pattern(file, pattern, {}), "is not of a network"),
        "other.safetensors": (
            lambda file: networks.save_network(file, unet.UNet(widths=(4, 5)), params, {}),
            "do not fit its widths: ",
        ),
        "nan.safetensors": (
            lambda file: networks.save_network(file, network, jax.tree.map(lambda x: x * np.nan, params), {}),
            "not finite",
        ),
    }
    for name, (write, message) in broken.items():
        if write:
            write(tmp_path / name)
        with pytest.raises(UserError, match=message) as caught:
            networks.load_network(tmp_path / name)
        assert str(caught.value).startswith("--network=")
        assert "\n" not in str(caught.value)


def test_the_script_learns(photo_folder, tmp_path, script):
    for objective in ("raise_quality", "lower_quality"):
        out = tmp_path / f"{objective}.npy"
        code, printed, _ = script(
            train_universal,
            model="tinyiqa",
            weights="embedded",
            images=photo_folder,
            out=out,
            crop=32,
            epochs=3,
            objective=objective,
        )
        assert code == 0
        assert f"wrote {out}" in printed
        means = [float(line.rpartition(" ")[2]) for line in printed.splitlines() if line.startswith("epoch")]
        assert means[-1] < means[0]
        assert np.load(out).shape == (32, 32, 3)


def test_crops_cover_small_and_large_images():
    pixels = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    np.testing.assert_array_equal(train_universal.cut_at(pixels, np.zeros(2), 3), pixels[:3, :3])
    np.testing.assert_array_equal(train_universal.cut_at(pixels, np.full(2, 0.999), 3), pixels[2:, 1:])
    mirrored = train_universal.cut_at(pixels, np.full(2, 0.5), 6)
    np.testing.assert_array_equal(mirrored[:5, :4], pixels)
    np.testing.assert_array_equal(mirrored[5, :4], pixels[3])
    np.testing.assert_array_equal(mirrored[:5, 4:], pixels[:, [2, 1]])


def test_unreadable_images_are_left_out(tmp_path, photo_folder):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="none of its 1 images"):
        train(folder, tmp_path / "p.npy")
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(folder / "b.png")
    assert np.all(np.isfinite(train(folder, tmp_path / "p.npy")))


def test_bad_settings_are_refused(photo_folder, tmp_path, refusal):
    def refused(**settings):
        defaults = {"model": "tinyiqa", "weights": "random", "images": photo_folder, "out": tmp_path / "p.npy"}
        return refusal(train_universal, **{**defaults, **settings})

    assert "must end with" in refused(out=tmp_path / "p.png")
    assert "--epochs=0" in refused(epochs=0)
    assert "--batch_size=0" in refused(batch_size=0)
    assert "--crop=16" in refused(crop=16)
    assert "multiple of 256" in refused(crop=128, method="generative")
    assert "must end with .safetensors" in refused(method="facpa")
    assert "multiple of 256" in refused(crop=128, method="facpa", out=tmp_path / "n.safetensors")
    assert "does not exist" in refused(images=tmp_path / "absent")
    assert "should be one of" in refused(objective="away")
