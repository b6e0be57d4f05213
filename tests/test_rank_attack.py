"""The rank attack: its ledgers and tables, where methods aim, interruption, and settings that make no sense."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from experiments import ledger, rank_attack, records
from experiments.ranking.methods import METHODS

pytestmark = pytest.mark.xdist_group("ranking")  # one run for all tests

QUICK = {"model": "tinyiqa", "weights": "embedded", "steps": 5, "epsilon": "4/255", "target_steps": 300}
RUN_FILES = ("targets.csv", "methods.csv", "trace.csv", "frontier.csv", "rows.csv", "summary.json", "report.html")


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def numbers(rows, column):
    return np.array([float(row[column] or "nan") for row in rows])


@pytest.fixture(scope="module")
def folder(photo_folder, tmp_path_factory):
    """Seven pictures, a broken one, and subjective scores of the seven."""
    root = tmp_path_factory.mktemp("ranking")
    shutil.copytree(photo_folder, root / "images")
    (root / "images" / "broken.png").write_bytes(b"no image")
    names = [name for name in records.list_images(root / "images")]
    lines = [f"{name.split('/')[-1]},{30 + 7 * i}" for i, name in enumerate(names)]
    (root / "mos.csv").write_text("\n".join(["image,mos", *lines]))
    return root


@pytest.fixture(scope="module")
def finished(folder):
    """A run of all methods."""
    out = folder / "run"
    rank_attack.run(
        rank_attack.Config(**QUICK, images=str(folder / "images"), mos=str(folder / "mos.csv"), out=str(out))
    )
    return out


def ledger_of(finished, method):
    return read((finished if method == "sma" else finished / "methods" / method) / "rows.csv")


def test_every_method_leaves_a_ledger_whose_numbers_are_those_of_its_files(finished, folder):
    for method in METHODS:
        rows = ledger_of(finished, method)
        assert list(rows[0]) == list(ledger.ATTACK_COLUMNS)
        assert [row["image"] for row in rows] == records.list_images(folder / "images")
        assert [row["image"] for row in rows if row["status"] == "failed"] == ["broken.png"]
        where = finished if method == "sma" else finished / "methods" / method
        for row in (row for row in rows if row["status"] == "ok"):
            clean = records.load_image(folder / "images" / row["image"]).astype(int)
            saved = np.asarray(Image.open((where / "adversarial" / row["image"]).with_suffix(".png"))).astype(int)
            assert np.abs(saved - clean).max() == int(row["linf_255"]) <= 4


def test_the_table_of_methods_agrees_with_the_ledgers(finished):
    methods = {row["method"]: row for row in read(finished / "methods.csv")}
    assert list(methods) == ["clean", *METHODS]
    mos = numbers(read(finished / "targets.csv"), "mos")
    for method in METHODS:
        rows = [row for row in ledger_of(finished, method) if row["status"] == "ok"]
        clean, reached = numbers(rows, "score_clean"), numbers(rows, "score_adversarial")
        found = methods[method]
        assert float(found["srocc"]) == pytest.approx(spearmanr(reached, clean)[0], abs=1e-5)
        assert float(found["mos_srocc"]) == pytest.approx(spearmanr(reached, mos)[0], abs=1e-5)
        assert float(found["mae"]) == pytest.approx(np.abs(reached - clean).mean(), abs=1e-4)
        assert int(found["images"]) == len(rows) == 7
    assert float(methods["clean"]["mos_srocc"]) == pytest.approx(spearmanr(mos, clean)[0], abs=1e-5)


def test_gradients_and_forward_passes_are_counted(finished):
    methods = {row["method"]: row for row in read(finished / "methods.csv")}
    gradients = {name: int(row["gradients"]) for name, row in methods.items()}
    once = {name: 5 for name in METHODS} | {"threshold_best": 10, "away": 10}
    assert gradients == {"clean": 0} | once  # within reach: one down, one up, three further
    assert float(methods["sma"]["forwards"]) == 6
    assert float(methods["reach"]["forwards"]) == 2 + 2 + 4 + 11


def test_targets_within_reach_are_met_on_the_saved_files(finished):
    rows = read(finished / "targets.csv")
    low, high, target = (numbers(rows, name) for name in ("low", "high", "target_reach"))
    assert np.all((low <= target) & (target <= high))
    width = high - low
    assert np.all(width > 1)
    assert np.median(np.abs(numbers(rows, "reached_reach") - target) / width) < 0.01


def test_within_reach_orders_are_as_wanted_and_the_wide_one_moves_scores_as_far_as_sma(finished):
    methods = {row["method"]: row for row in read(finished / "methods.csv")}
    rows = read(finished / "targets.csv")
    wanted = spearmanr(numbers(rows, "target_reach"), numbers(rows, "score"))[0]
    assert float(methods["reach"]["srocc"]) == pytest.approx(wanted, abs=0.15)
    assert float(methods["reach"]["srocc"]) < float(methods["threshold_best"]["srocc"]) < 0
    frontier = [row for row in read(finished / "frontier.csv") if row["family"] == "reach"]
    most = max(float(row["mae"]) for row in frontier)
    assert float(methods["reach_wide"]["mae"]) >= min(float(methods["sma"]["mae"]), most) - 0.1


def test_methods_aim_where_they_say(finished):
    rows = read(finished / "targets.csv")
    score = numbers(rows, "score")
    columns = {name: numbers(rows, f"target_{name}") for name in METHODS}
    np.testing.assert_allclose(columns["mirror"], 100 - score, atol=1e-5)
    for name in ("reversal", "permutation"):
        np.testing.assert_allclose(np.sort(columns[name]), np.sort(score), atol=1e-5)
    assert spearmanr(columns["reversal"], score)[0] == pytest.approx(-1)
    order = np.argsort(score)
    np.testing.assert_allclose(columns["uniform"][order], np.linspace(100, 0, 7), atol=1e-5)
    raised, lowered = (
        numbers(read(finished / "methods" / side / "rows.csv")[1:], "score_adversarial") for side in ("raise", "lower")
    )
    np.testing.assert_array_equal(numbers(rows, "reached_threshold_middle"), np.where(score < 50, raised, lowered))
    further = np.where(raised - score >= score - lowered, raised, lowered)
    np.testing.assert_array_equal(numbers(rows, "reached_away"), further)
    cuts = [spearmanr(np.where(score < cut, raised, lowered), score)[0] for cut in score]
    assert spearmanr(numbers(rows, "reached_threshold_best"), score)[0] == pytest.approx(min(cuts))
    assert all(np.isnan(columns[name]).all() for name in ("threshold_middle", "threshold_best", "away"))


def test_an_interrupted_run_ends_in_the_same_bytes(finished, folder, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    for name in RUN_FILES:
        (out / name).unlink()
    shutil.rmtree(out / "methods" / "reach")
    shutil.rmtree(out / "methods" / "raise")
    rank_attack.run(
        rank_attack.Config(**QUICK, images=str(folder / "images"), mos=str(folder / "mos.csv"), out=str(out))
    )
    for name in (*RUN_FILES[:-1], "methods/reach/rows.csv", "methods/raise/rows.csv"):
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name


def test_one_method_alone_computes_nothing_else(folder, tmp_path, script):
    settings = QUICK | {"images": folder / "images", "out": tmp_path, "method": "mirror", "compare": "none"}
    code, printed, _ = script(rank_attack, **settings)
    assert code == 1  # one image is broken
    assert "Mirrored scores" in printed
    assert "7 of 8 images" in printed
    assert not (tmp_path / "methods").exists()
    assert json.loads((tmp_path / "summary.json").read_text())["images"] == {"total": 8, "ok": 7, "failed": 1}
    assert "mirror" in json.loads((tmp_path / "config.json").read_text())["flags"].values()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"compare": "sma,abacus"}, "--compare: there is no 'abacus'"),
        ({"method": "abacus"}, "--method"),
        ({"strength": 0}, "--strength=0.0 must be positive"),
        ({"error_weight": -1}, "--error_weight=-1.0 must not be negative"),
        ({"attack": "fgsm"}, "--steps does not apply to --attack=fgsm"),
        ({"mos": "/nowhere.csv"}, "--mos=/nowhere.csv cannot be read as CSV"),
        ({"epsilon": "2"}, "--epsilon=2 is outside"),
    ],
)
def test_settings_that_make_no_sense(folder, tmp_path, script, settings, message):
    code, printed, error = script(rank_attack, **(QUICK | {"images": folder / "images", "out": tmp_path} | settings))
    assert code == 2
    assert not printed
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("*.csv"))


def test_one_image_is_no_ranking(folder, tmp_path, script):
    code, _, error = script(rank_attack, **QUICK, images=folder / "images" / "p0.png", out=tmp_path)
    assert code == 2
    assert "1 image(s) could be scored; a ranking needs two" in error
