"""Training the embedded model: reproducible from its seed, and it learns."""

import numpy as np
from PIL import Image

from experiments import train_demo_model
from experiments.train_demo_model import Config
from nriqa_jax.models.tinyiqa import tinyiqa
from weights_convert.store import load_variables, read_metadata


def test_training_is_reproducible_and_recorded(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for i in range(3):
        coarse = Image.fromarray(rng.integers(0, 256, (30, 30, 3), dtype=np.uint8))
        coarse.resize((162, 162), Image.Resampling.BICUBIC).save(tmp_path / f"{i}.png")
    settings = {"images": str(tmp_path), "epochs": 3, "crop": 48, "batch_size": 6, "held_out": 3}
    results = [train_demo_model.run(Config(out=str(tmp_path / f"{run}.safetensors"), **settings)) for run in "ab"]
    assert results[0] == results[1]
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    losses = [float(line.split()[3].rstrip(",")) for line in capsys.readouterr().out.splitlines() if "loss" in line]
    assert losses[2] < losses[0]
    metadata = read_metadata(tmp_path / "a.safetensors")
    assert metadata["model"] == "tinyiqa"
    assert metadata["seed"] == "0"
    assert "images" not in metadata
    assert load_variables(tmp_path / "a.safetensors", tinyiqa())
