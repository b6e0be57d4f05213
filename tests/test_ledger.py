"""The run folder: tables as a whole, names without clashes, and settings that cannot be mixed up."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import ledger
from experiments.cli import UserError
from experiments.pipeline import image_keys, image_numbers
from experiments.progress import Progress


def test_table_round_trip_in_order_of_name(tmp_path):
    table = ledger.Table(tmp_path / "t.csv", ["image", "status", "score"])
    names = ["b", 'a,"x"', "line\nbreak", "ü", "\udcff"]
    table.add({"image": name, "status": "ok", "score": np.float32(i) / 3} for i, name in enumerate(names))
    again = ledger.Table(tmp_path / "t.csv", ["image", "status", "score"])
    assert again.rows == table.rows
    assert list(again.rows) == sorted(names)
    assert again.rows["b"]["score"] == "0.000000"
    assert not list(tmp_path.glob(".*"))


def test_cells():
    values = [None, float("nan"), np.float32("inf"), 0.1, np.float32(0.1), 3, np.int32(4), "text"]
    assert [ledger.format_cell(v) for v in values] == ["", "", "inf", "0.100000", "0.100000", "3", "4", "text"]


def test_numbers_are_of_successful_rows(tmp_path):
    table = ledger.Table(tmp_path / "t.csv", ["image", "status", "score"])
    table.add([{"image": "a", "status": "failed"}, {"image": "c", "status": "ok"}])
    table.add([{"image": "b", "status": "ok", "score": 2.0}])
    np.testing.assert_array_equal(table.numbers("score"), [2.0, np.nan])


def test_other_columns_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("image,score\n")
    with pytest.raises(UserError, match="other columns"):
        ledger.Table(tmp_path / "t.csv", ["image", "status"])


def test_adversarial_names_never_clash():
    names = ["a.jpg", "a.png", "b.bmp", "sub/a.jpg", "c.tar.png", "no_suffix"]
    files = ledger.adversarial_names(names)
    assert files == {
        "a.jpg": "a.jpg.png",
        "a.png": "a.png.png",
        "b.bmp": "b.png",
        "sub/a.jpg": "sub/a.png",
        "c.tar.png": "c.tar.png",
        "no_suffix": "no_suffix.png",
    }
    assert len(set(files.values())) == len(names)


def test_runs_are_told_apart(tmp_path):
    config = {"flags": {"epsilon": "4/255", "out": "a", "images": "x"}, "versions": {"jax": "1"}, "weights_sha256": "f"}
    ledger.open_run(tmp_path, config)
    moved = {**config, "flags": {**config["flags"], "out": "b", "images": "y"}, "versions": {"jax": "2"}}
    ledger.open_run(tmp_path, moved)
    for other in ({**config, "weights_sha256": "0"}, {**config, "flags": {"epsilon": "2/255"}}):
        with pytest.raises(UserError, match="choose another --out"):
            ledger.open_run(tmp_path, other)
    assert json.loads((tmp_path / "config.json").read_text()) == config


def test_summary_follows_the_tables(tmp_path):
    table = ledger.Table(tmp_path / "t.csv", ["image", "status"])
    made = []

    def summarise():
        made.append(1)
        return {"count": len(table.rows), "undefined": float("nan")}

    for names in ("a", "a", "b"):
        table.add([{"image": names, "status": "ok"}])
        ledger.write_summary(tmp_path, [table], summarise)
    assert len(made) == 2
    assert json.loads((tmp_path / "summary.json").read_text())["undefined"] is None


def test_keys_are_of_names_not_of_positions():
    def keys(seed, names):
        return np.asarray(jax.random.key_data(image_keys(jax.random.key(seed), jnp.asarray(image_numbers(names)))))

    data = keys(3, ["a.png", "b.png", "c.png"])
    np.testing.assert_array_equal(keys(3, ["c.png", "a.png"]), data[[2, 0]])
    assert not np.array_equal(keys(4, ["a.png"])[0], data[0])


def test_progress_prints_plain_lines(capsys):
    progress = Progress(7)
    progress.advance(3)
    progress.advance(4)
    progress.close()
    printed = capsys.readouterr().err
    assert printed.startswith("7/7 images, ")
    assert "images/s, 0 s left" in printed
