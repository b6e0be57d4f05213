"""Training: what it writes, and that it never looks at the test part by default."""

import csv
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from blurred_set import QUICK, blurred_set, log, same, train, weights
from PIL import Image

from experiments import train_model
from experiments.subjective import read_scores
from experiments.training import events
from experiments.weights import load
from nriqa_jax.models.tinyiqa import tinyiqa
from nriqa_jax.parallel import call
from weights_convert import store

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return blurred_set(tmp_path_factory.mktemp("set"))


def test_a_run_leaves_weights_with_their_history(table, tmp_path, script):
    settings = {**QUICK, "data": table, "epochs": 8}
    code, printed, _ = script(train_model, out=tmp_path / "run", **settings)
    assert code == 0
    assert "test part: SROCC" in printed
    assert "highest SROCC on the validation part" in printed
    rows, out = log(tmp_path / "run"), tmp_path / "run"
    assert [row["epoch"] for row in rows] == list(range(1, 9))
    assert rows[-1]["loss"] < rows[0]["loss"]
    result = json.loads((out / "result.json").read_text())
    assert rows[result["epoch"] - 1]["srocc"] == max(row["srocc"] for row in rows)
    # The released file is one that all scripts take, and its scores are those reported.
    loaded = load(str(out / "weights.safetensors"), tinyiqa(), 0)
    with (out / "test_scores.csv").open(newline="") as file:
        found = {row["image"]: float(row["score"]) for row in csv.DictReader(file)}
    # What reads opinions from it finds the labels, and not the model's own scores beside them.
    opinions, labels = read_scores(out / "test_scores.csv"), read_scores(table)
    assert opinions == pytest.approx({name: labels[name] for name in found})
    pixels = np.stack([np.asarray(Image.open(table.parent / name)) for name in found])
    scores = call(loaded.model.score_fn(loaded.variables), jnp.asarray(pixels, jnp.float32) / 255)
    np.testing.assert_allclose(scores, list(found.values()), rtol=1e-4)
    split = json.loads((out / "split.json").read_text())
    assert sorted(found) == split["test"]
    assert [len(split[part]) for part in ("train", "validation", "test")] == [12, 4, 4]
    record = store.read_metadata(out / "weights.safetensors")["training"]
    card = (out / "weights.md").read_text()
    for text in (
        record["data"]["split_sha256"],
        "Apache-2.0",
        "12 to train",
        "--epochs=8",
        f"(epoch {result['epoch']})",
    ):
        assert text in card
    assert (out / "training.png").read_bytes().startswith(b"\x89PNG")
    assert not (out / "checkpoints").exists()
    # Nothing is computed again.
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert script(train_model, out=out, **settings)[0] == 0
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_tensorboard_shows_the_log(table, tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    train(table, tmp_path, tensorboard=True)
    [path] = (tmp_path / "events").iterdir()
    data, shown = path.read_bytes(), {}
    while data:  # records: length, its checksum, event, its checksum
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        shown |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        data = data[16 + length :]
    numbers = {
        (name, row["epoch"]): value
        for row in log(tmp_path)
        for name, value in row.items()
        if name not in ("epoch", "steps") and value is not None
    }
    assert shown == pytest.approx(numbers, rel=1e-6)
    assert {"loss", "srocc"} <= {name for name, _ in shown}


def test_several_splits_report_medians(table, tmp_path):
    summary = train(table, tmp_path, splits=3, epochs=1)
    values = [split["test"]["plcc"] for split in summary["splits"]]
    assert summary["median"]["plcc"] == sorted(values)[1]
    assert len({split["data"]["split_sha256"] for split in summary["splits"]}) == 3
    assert len({tuple(weights(tmp_path / f"split_{i:02}")["params/fc2/kernel"].ravel()) for i in (1, 2, 3)}) == 3


def relabelled(table, tmp_path, names):
    """The table with other scores for some images."""
    lines = table.read_text().splitlines()
    rows = [line.split(",") for line in lines]
    changed = [
        ",".join([ref, name, str(100 - float(mos))] if name in names else [ref, name, mos])
        for ref, name, mos in rows[1:]
    ]
    path = table.with_name("relabelled.csv")
    path.write_text("\n".join([lines[0], *changed]))
    return path


def test_the_test_part_decides_nothing_unless_asked_to(table, tmp_path):
    train(table, tmp_path / "a", epochs=4)
    tested = set(json.loads((tmp_path / "a" / "split.json").read_text())["test"])
    other = relabelled(table, tmp_path, tested)
    train(other, tmp_path / "b", epochs=4)
    same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert log(tmp_path / "a") == log(tmp_path / "b")
    scores = [json.loads((tmp_path / run / "result.json").read_text())["test"]["srocc"] for run in "ab"]
    assert scores[0] == -scores[1]
    # As in the papers: chosen by the test part, and trained on the validation part, too.
    summary = train(table, tmp_path / "c", epochs=4, selection="test")
    assert "the numbers are optimistic" in summary["selection"]
    assert "optimistic" in json.loads((tmp_path / "c" / "config.json").read_text())["selection"]
    assert "optimistic" in (tmp_path / "c" / "weights.md").read_text()
    assert summary["splits"][0]["test"]["srocc"] == max(row["srocc"] for row in log(tmp_path / "c"))
    assert summary["splits"][0]["data"]["images"] == {"train": 16, "validation": 0, "test": 4}


def test_events_need_their_package(table, tmp_path, refusal, monkeypatch):
    monkeypatch.setattr(events, "find_spec", lambda name: None)
    message = refusal(train_model, model="tinyiqa", data=table, out=tmp_path / "run", tensorboard=True)
    assert "needs the package tensorboardX" in message


def test_settings_that_make_no_sense_are_refused(table, tmp_path, refusal):
    def refused(**settings):
        return refusal(
            train_model, **{"model": "tinyiqa", "data": table, "out": tmp_path / "run", "crop": 32, **settings}
        )

    assert "--epochs=0" in refused(epochs=0)
    assert "--crop=16 or --resize: this model needs at least 32" in refused(crop=16)
    assert "--learning_rate=0.0 must be above 0" in refused(learning_rate=0)
    assert "--nt_weight=-1.0 must be at least 0" in refused(nt_weight=-1)
    assert "--flip=2.0 must be from 0 to 1" in refused(flip=2)
    assert "--resize=100 must be rows x columns" in refused(resize=100)
    assert "--epsilon=0" in refused(epsilon=0)
    assert "--defense=free carries a change from batch to batch" in refused(defense="free", crop=0)
    assert "tinyiqa has no part that is called its backbone" in refused(head_factor=10)
    assert "--backbone=nowhere.pth is not a file" in refused(model="hyperiqa", crop=224, backbone="nowhere.pth")
    assert "goes with a --config" in refused(paper_quirks=True)
    assert "should be one of" in refused(config="unknown")
    assert "should be one of" in refused(loss="l3")
    assert "has no protocol 'none'" in refused(protocol="none")
    assert "--labels=raw" in refused(labels="raw", mos_range="100,0")
    assert "is not a file" in refused(weights="nowhere.safetensors")
    assert not (tmp_path / "run").exists()
