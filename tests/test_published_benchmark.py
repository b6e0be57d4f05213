"""The numbers of the documents' example of a benchmark are those of its table."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from experiments import benchmark

ROOT = Path(__file__).parents[1]
RESULTS = Path(benchmark.__file__).parent / "results" / "benchmark"


@pytest.fixture(scope="module")
def rows():
    with (RESULTS / "cells.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def mean(rows, column, **chosen):
    return np.mean([float(row[column]) for row in rows if all(row[key] == value for key, value in chosen.items())])


def gain_left(rows, purifier, adaptive):
    return mean(rows, "both_defended_abs_gain", purifier=purifier, adaptive=adaptive)


def test_the_table_of_the_page_is_that_of_the_cells(rows):
    page = (ROOT / "docs" / "benchmark.md").read_text()
    printed = re.findall(r"^\| `(\w+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert {line[0] for line in printed} == {row["purifier"] for row in rows}
    for purifier, *numbers in printed:
        own = {"purifier": purifier}
        expected = (
            gain_left(rows, purifier, "0"),
            gain_left(rows, purifier, "1"),
            mean(rows, "as_strong_as_unaware", adaptive="1", **own),
            mean(rows, "mean_ssim_defended_clear", adaptive="0", **own),
        )
        np.testing.assert_allclose([float(number) for number in numbers], expected, atol=0.0051)


def test_the_learned_filter_is_compared_as_measured(rows):
    page = (ROOT / "docs" / "benchmark.md").read_text()
    printed = re.findall(r"^\| `(\w+)` \|((?: -?\d+ % \|){6}) ([\d.]+) \| ([\d.]+) dB \|$", page, re.MULTILINE)
    assert [line[0] for line in printed] == ["fcn", "jpeg", "gaussian_blur", "unsharp"]
    attacks = dict.fromkeys(row["attack"] for row in rows)
    for purifier, shares, similarity, ratio in printed:
        expected = [
            f"{100 * (1 - mean(rows, 'both_defended_abs_gain', adaptive=mode, **own) / undefended):.0f} %"
            for attack in attacks
            for undefended in [mean(rows, "nonpurified_abs_gain", adaptive="0", attack=attack)]
            for mode in "01"
            for own in [{"purifier": purifier, "attack": attack}]
        ]
        assert shares.strip(" |").split(" | ") == expected
        own = {"purifier": purifier, "adaptive": "0"}
        assert float(similarity) == pytest.approx(mean(rows, "mean_ssim_defended_clear", **own), abs=6e-4)
        assert float(ratio) == pytest.approx(mean(rows, "mean_psnr_defended_clear", **own), abs=0.06)


def test_the_readme_says_what_was_found(rows):
    text = " ".join((ROOT / "README.md").read_text().split())
    unpurified = mean(rows, "nonpurified_abs_gain", adaptive="0")
    assert f"move scores by {unpurified:.3f} of their range" in text
    found = {
        name: [f"{gain_left(rows, name, mode):.3f}" for mode in "01"] for name in {row["purifier"] for row in rows}
    }
    for sentence in (
        "A flip leaves {flip[0]} of attacks that do not know of it and {flip[1]} of those that do",
        "a median {median_blur[0]} and {median_blur[1]}",
        "Blur goes from {gaussian_blur[0]} to {gaussian_blur[1]}",
        "total variation from {total_variation[0]} to {total_variation[1]}",
        "JPEG is the best of the ten, with {jpeg[0]} and {jpeg[1]}",
        "no purifier, {unsharp[1]}",
    ):
        assert sentence.format(**found) in text


def test_attacks_through_differentiable_purifiers_are_as_strong(rows):
    """But for AdvCF, which moves scores little in ten steps."""
    strong = [row for row in rows if row["differentiated"] == "end to end" and not row["attack"].startswith("advcf")]
    assert len(strong) == 8 * 2 * 2
    assert min(float(row["as_strong_as_unaware"]) for row in strong) >= 0.95
