"""The comparison of purifiers with PyTorch and OpenCV: that all compute the same, and what it writes."""

import json

import numpy as np
import pytest

from experiments import bench_purifiers
from experiments.contenders import opencv_purifiers


def test_contenders_compute_the_same(tmp_path, script):
    pytest.importorskip("torch")
    out = tmp_path / "purifiers.json"
    code, printed, _ = script(bench_purifiers, batch=1, side=48, repeats=1, out=out)
    assert code == 0
    report = json.loads(out.read_text())
    theirs = [row for row in report["rows"] if row["contender"] == "torch"]
    assert {row["purifier"] for row in theirs} == set(bench_purifiers._NAMES)
    for row in theirs:
        assert row["difference"] < 2e-5, row
    assert "| flip | torch |" in printed
    assert script(bench_purifiers, table=out)[1].strip() == bench_purifiers.table(report).strip()


def test_opencv_computes_the_same_but_for_borders_and_rounding():
    pytest.importorskip("cv2")
    image = bench_purifiers.crops(1, 64)
    for name, purify in opencv_purifiers.load()[1].items():
        ours = np.asarray(bench_purifiers._ours(image, name)())[0]
        difference = np.abs(opencv_purifiers.one_by_one(purify, image)[0] - ours)[3:-3, 3:-3]
        assert difference.max() < (1.2 / 255 if name == "non_local_means" else 1e-5), name


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"purifiers": "flip,bleach"}, "--purifiers: there is no 'bleach'"),
        ({"batch": 0}, "--batch=0 must be at least 1"),
        ({"side": 8}, "--side=8 is not in"),
        ({"table": "nothing.json"}, "nothing.json"),
    ],
)
def test_bad_settings_get_one_sentence(settings, said, refusal):
    assert said in refusal(bench_purifiers, **settings)
