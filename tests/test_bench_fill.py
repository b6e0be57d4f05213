"""The measurement of how full batches of black-box attacks are: settings, crops, the table and the file."""

import json

import numpy as np
import pytest

from experiments import bench_fill

pytest.importorskip("skimage")


def test_crops_are_8bit_parts_of_photographs():
    cut = bench_fill.crops(9, 48)
    assert cut.shape == (9, 48, 48, 3)
    np.testing.assert_allclose(np.round(cut * 255) / 255, cut, atol=1e-6)
    assert len({crop.tobytes() for crop in cut}) == 9
    np.testing.assert_array_equal(bench_fill.crops(9, 48), cut)


@pytest.mark.full
def test_slots_keep_batches_full_where_images_are_done_at_different_times(script, tmp_path):
    settings = {"images": 24, "side": 32, "slots": 4, "queries": 100, "fall": 0.005}
    code, printed, _ = script(bench_fill, out=tmp_path / "out" / "fill.json", **settings)
    assert code == 0
    report = json.loads((tmp_path / "out" / "fill.json").read_text())
    assert report.keys() == {"settings", "machine", "rows"}
    lines = printed.splitlines()
    assert report["rows"] == [json.loads(line) for line in lines[:2]]
    assert [row["attack"] for row in report["rows"]] == ["nes", "square"]
    for row in report["rows"]:
        assert 2 <= row["queries"] <= 101
        assert row["fill_slots"] >= 0.8
        assert 0 < row["fill_plain"] <= 1
        assert row["seconds_plain"] > 0
        assert row["seconds_slots"] > 0
    assert report["rows"][1]["fill_plain"] < 0.6
    assert lines[2].startswith("| attack | images | batch | mean queries |")
    assert len(lines) == 6


@pytest.mark.parametrize(
    "setting", [{"attacks": "nes,sqare"}, {"images": 0}, {"slots": 0}, {"queries": 0}, {"side": 8}, {"side": 300}]
)
def test_bad_settings(refusal, setting):
    assert f"--{next(iter(setting))}" in refusal(bench_fill, **setting)
