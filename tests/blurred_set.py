"""A set of pictures on which training takes a second, settings for it, and what a run leaves."""

import json

import numpy as np
from PIL import Image

from experiments import train_model
from nriqa_jax.models.tinyiqa import tinyiqa
from weights_convert import store
from weights_convert.rules import flatten

SIDE = 40
QUICK = {"model": "tinyiqa", "crop": 32, "epochs": 2, "batch_size": 6, "shares": "60,20,20", "learning_rate": 3e-3}


def blurred_set(folder):
    """Twenty pictures of five scenes, each at four strengths of blur, scored by it; returns the table."""
    rng, rows = np.random.default_rng(0), ["ref_name,dist_name,mos"]
    for scene in range(5):
        picture = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
        for level in range(4):
            small = picture.resize((SIDE - 9 * level,) * 2, Image.Resampling.BILINEAR)
            small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"s{scene}_{level}.png")
            rows.append(f"s{scene}.png,s{scene}_{level}.png,{90 - 25 * level + scene}")
    (folder / "set.csv").write_text("\n".join(rows))
    return folder / "set.csv"


def train(table, out, **settings):
    return train_model.run(train_model.Config(**{**QUICK, "data": str(table), "out": str(out), **settings}))


def weights(out):
    return flatten(store.load_variables(out / "weights.safetensors", tinyiqa()))


def same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
