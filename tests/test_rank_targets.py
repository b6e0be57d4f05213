"""Stage one as a script: its files, what it reads, and what it refuses."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import rank_targets
from experiments.rank_targets import Config, Scale
from nriqa_jax.attacks.ranking import SmaConfig, sma_targets

SCORES = np.random.default_rng(3).uniform(5, 95, 12)


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path, *columns, header):
    lines = [",".join(header), *(",".join(map(str, row)) for row in zip(*columns))]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def table(tmp_path):
    return write(tmp_path / "scores.csv", [f"i{k}.png" for k in range(12)], SCORES, header=("image", "score"))


def test_targets_are_those_of_the_library(table, tmp_path, script):
    code, printed, _ = script(rank_targets, scores=table, out=tmp_path / "run", target_steps=700)
    assert code == 0
    assert "12 targets after 700 steps" in printed
    rows = read(tmp_path / "run" / "targets.csv")
    assert list(rows[0]) == ["image", "score", "mos", "target"]
    assert [row["image"] for row in rows] == [f"i{k}.png" for k in range(12)]
    with jax.enable_x64(True):
        expected = sma_targets(jnp.asarray(SCORES), SmaConfig(steps=700))
    np.testing.assert_allclose([float(row["target"]) for row in rows], expected, atol=1e-5)
    trace = read(tmp_path / "run" / "trace.csv")
    assert [int(row["step"]) for row in trace] == list(range(100, 701, 100))
    loss = [float(row["agreement"]) - 1e-4 * (float(row["variance"]) + float(row["error"])) for row in trace]
    np.testing.assert_allclose([float(row["loss"]) for row in trace], loss, atol=2e-6)
    frontier = read(tmp_path / "run" / "frontier.csv")
    assert {row["family"] for row in frontier} == {"sma"}
    same = next(row for row in frontier if row["variance_weight"] == "0.0001")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert float(same["mae"]) == pytest.approx(summary["targets_and_scores"]["mae"], abs=1e-5)
    assert (tmp_path / "run" / "report.html").is_file()


def test_another_range_is_the_same_problem(table, tmp_path):
    rank_targets.run(Config(scores=str(table), out=str(tmp_path / "a"), target_steps=300))
    small = write(tmp_path / "small.csv", [f"i{k}.png" for k in range(12)], SCORES / 100, header=("image", "score"))
    rank_targets.run(Config(scores=str(small), high=1.0, out=str(tmp_path / "b"), target_steps=300))
    a, b = ([float(row["target"]) for row in read(tmp_path / run / "targets.csv")] for run in "ab")
    np.testing.assert_allclose(b, np.array(a) / 100, atol=1e-6)
    np.testing.assert_allclose(Scale(-2, 6).restore(Scale(-2, 6).shrink(SCORES)), SCORES)


def test_subjective_scores_beside_in_a_column_and_in_a_file(table, tmp_path):
    mos = SCORES[::-1]
    names = [f"i{k}.png" for k in range(12)]
    np.save(tmp_path / "both.npy", np.stack([SCORES, mos], axis=1))
    beside = write(tmp_path / "beside.csv", names, SCORES, mos, header=("image", "score", "mos"))
    other = write(tmp_path / "mos.csv", [f"folder/{name}" for name in names[::-1]], mos[::-1], header=("path", "MOS"))
    found = []
    for name, settings in (
        ("npy", {"scores": str(tmp_path / "both.npy")}),
        ("column", {"scores": str(beside)}),
        ("file", {"scores": str(table), "mos": str(other)}),
    ):
        found.append(rank_targets.run(Config(**settings, out=str(tmp_path / name), target_steps=200)))
    for name, numbers in found[0].items():
        assert found[1][name] == pytest.approx(numbers)
    assert found[1] == found[2]
    assert found[0]["scores_and_mos"]["mae"] == pytest.approx(np.abs(SCORES - mos).mean())


@pytest.mark.parametrize("agreement", ["plcc", "krocc"])
def test_other_correlations(table, tmp_path, agreement):
    strength = 20.0 if agreement == "krocc" else 1.0
    settings = {"agreement": agreement, "strength": strength, "learning_rate": 0.05, "target_steps": 4000}
    summary = rank_targets.run(Config(scores=str(table), out=str(tmp_path / "run"), **settings))
    assert summary["targets_and_scores"][agreement] < 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be used"),
        ("image,score\na.png,1\na.png,2", "line 3 scores an image twice"),
        ("image,score\na.png,1\nb.png,high", "line 3 has no finite score"),
        ("image,score\na.png,nan\nb.png,2", "line 2 has no finite score"),
        ("image,score\na.png,1", "holds 1 score(s)"),
        ("image\na.png", "needs two columns"),
        ("", "needs two columns"),
    ],
)
def test_tables_that_hold_no_scores(tmp_path, script, content, message):
    path = tmp_path / "scores.csv"
    if content is not None:
        path.write_text(content)
    code, printed, error = script(rank_targets, scores=path, out=tmp_path / "run")
    assert (code, printed) == (2, "")
    assert str(path) in error
    assert message in error or content is None
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((3, 3)), "shape (3, 3)"),
        (np.array([1.0, np.nan]), "NaN"),
        (np.array(["a", "b"]), "expected [n] or [n, 2]"),
        (np.array(4.0), "shape ()"),
    ],
)
def test_arrays_that_hold_no_scores(tmp_path, script, values, message):
    np.save(tmp_path / "scores.npy", values)
    code, _, error = script(rank_targets, scores=tmp_path / "scores.npy", out=tmp_path / "run")
    assert code == 2
    assert message in error


def test_an_array_file_that_is_none(tmp_path, script):
    (tmp_path / "scores.npy").write_bytes(b"<html>")
    code, _, error = script(rank_targets, scores=tmp_path / "scores.npy", out=tmp_path / "run")
    assert code == 2
    assert "is no .npy file of numbers" in error


def test_settings_that_make_no_sense(table, tmp_path, script):
    mos = write(tmp_path / "mos.csv", ["i0.png"], [3.0], header=("image", "mos"))
    for settings, message in (
        ({"low": 5, "high": 5}, "--low=5.0 must be below --high=5.0"),
        ({"learning_rate": 0}, "--learning_rate=0.0 must be positive"),
        ({"variance_weight": -1}, "--variance_weight=-1.0 must not be negative"),
        ({"target_steps": 0}, "--target_steps=0 must be positive"),
        ({"mos": mos}, "has not exactly one score for 11 of the images, such as i1.png"),
        ({"agreement": "abacus"}, "--agreement"),
    ):
        code, _, error = script(rank_targets, scores=table, out=tmp_path / "run", **settings)
        assert code == 2
        assert message in error


def test_other_scores_are_another_run(table, tmp_path, script):
    assert script(rank_targets, scores=table, out=tmp_path / "run", target_steps=100)[0] == 0
    write(table, ["a.png", "b.png", "c.png"], [1.0, 2.0, 3.0], header=("image", "score"))
    code, _, error = script(rank_targets, scores=table, out=tmp_path / "run", target_steps=100)
    assert code == 2
    assert "scores_sha256" in error
