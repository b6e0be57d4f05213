"""Training: what it writes, that it can be interrupted, and that it never looks at the test part by default."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import train_model
from experiments.errors import UserError
from nriqa_jax.models.tinyiqa import tinyiqa
from weights_convert import store
from weights_convert.rules import flatten

ROOT = Path(__file__).parents[1]
SIDE = 40


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Twenty pictures of five scenes, each at four strengths of blur, scored by it."""
    folder = tmp_path_factory.mktemp("set")
    rng, rows = np.random.default_rng(0), ["ref_name,dist_name,mos"]
    for scene in range(5):
        picture = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
        for level in range(4):
            small = picture.resize((SIDE - 9 * level,) * 2, Image.Resampling.BILINEAR)
            small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"s{scene}_{level}.png")
            rows.append(f"s{scene}.png,s{scene}_{level}.png,{90 - 25 * level + scene}")
    (folder / "set.csv").write_text("\n".join(rows))
    return folder / "set.csv"


QUICK = {"model": "tinyiqa", "crop": 32, "epochs": 2, "batch_size": 6, "shares": "60,20,20", "learning_rate": 3e-3}


def train(table, out, **settings):
    return train_model.run(train_model.Config(**{**QUICK, "data": str(table), "out": str(out), **settings}))


def weights(out):
    return flatten(store.load_variables(out / "weights.safetensors", tinyiqa()))


def same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_it(table, tmp_path):
    print(train(table, tmp_path / "run"))
    print(os.listdir(tmp_path / "run"))
    print((tmp_path / "run" / "weights.md").read_text())
    print((tmp_path / "run" / "log.jsonl").read_text())
    print((tmp_path / "run" / "config.json").read_text())
