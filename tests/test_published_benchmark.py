"""The numbers of the documents' example of a benchmark are those of its table."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from experiments import benchmark

ROOT = Path(__file__).parents[1]
RESULTS = Path(benchmark.__file__).parent / "results" / "benchmark"
RANDOM = "metaiqa"
WEAK = ("advcf", "fgsm")


@pytest.fixture(scope="module")
def rows():
    with (RESULTS / "cells.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trained(rows):
    """The rows of models whose weights are not random."""
    return [row for row in rows if row["model"] != RANDOM]


def mean(rows, column, **chosen):
    return np.mean([float(row[column]) for row in rows if all(row[key] == value for key, value in chosen.items())])


def gain_left(rows, purifier, adaptive):
    return mean(rows, "both_defended_abs_gain", purifier=purifier, adaptive=adaptive)


def iterated(rows):
    """The cells of adaptive attacks end to end that are neither weak nor of one step."""
    return [row for row in rows if row["differentiated"] == "end to end" and row["attack"].split(":")[0] not in WEAK]


def test_the_run_is_as_large_as_it_says(rows):
    for column, count in (("model", 3), ("attack", 10), ("purifier", 16), ("adaptive", 2)):
        assert len({row[column] for row in rows}) == count, column
    assert {row["images"] for row in rows} == {"100"}
    assert len(rows) == 960


def test_the_table_of_the_page_is_that_of_the_cells(rows, trained):
    page = (ROOT / "docs" / "benchmark.md").read_text()
    printed = re.findall(r"^\| `([\w:=]+)` \|((?: [\d.]+ \|){7})$", page, re.MULTILINE)
    assert {line[0] for line in printed} == {row["purifier"] for row in rows}
    untrained = [row for row in rows if row["model"] == RANDOM]
    for purifier, numbers in printed:
        own = {"purifier": purifier}
        expected = (
            *(gain_left(some, purifier, mode) for some in (trained, untrained) for mode in "01"),
            mean(rows, "as_strong_as_unaware", adaptive="1", **own),
            mean(trained, "mean_ssim_defended_clear", adaptive="0", **own),
            mean(trained, "robust_clear_srocc_clear", adaptive="0", **own),
        )
        found = [float(number) for number in numbers.strip(" |").split(" | ")]
        np.testing.assert_allclose(np.array(found)[[0, 1, 2, 3, 5]], np.array(expected)[[0, 1, 2, 3, 5]], atol=5.1e-4)
        np.testing.assert_allclose(np.array(found)[[4, 6]], np.array(expected)[[4, 6]], atol=5.1e-3)
    for some, number in ((trained, "0.217"), (untrained, "0.062")):
        assert f"{mean(some, 'nonpurified_abs_gain', adaptive='0'):.3f}" == number
        assert number in page


def test_the_learned_filter_is_compared_as_measured(trained):
    page = (ROOT / "docs" / "benchmark.md").read_text()
    printed = re.findall(r"^\| `(\w+)` \|((?: -?\d+ → -?\d+ % \|){5}) ([\d.]+) \| ([\d.]+) dB \|$", page, re.MULTILINE)
    assert [line[0] for line in printed] == ["fcn", "jpeg", "gaussian_blur", "unsharp"]
    attacks = {row["attack"].split(":")[0]: row["attack"] for row in trained}
    for purifier, shares, similarity, ratio in printed:
        expected = []
        for attack in (attacks[name] for name in ("ifgsm", "pgd_l2", "korhonen", "stadv_adam", "advcf")):
            undefended = mean(trained, "nonpurified_abs_gain", adaptive="0", attack=attack)
            left = [
                mean(trained, "both_defended_abs_gain", adaptive=mode, purifier=purifier, attack=attack)
                for mode in "01"
            ]
            expected.append(" → ".join(f"{100 * (1 - gain / undefended):.0f}" for gain in left) + " %")
        assert shares.strip(" |").split(" | ") == expected
        own = {"purifier": purifier, "adaptive": "0"}
        assert float(similarity) == pytest.approx(mean(trained, "mean_ssim_defended_clear", **own), abs=6e-4)
        assert float(ratio) == pytest.approx(mean(trained, "mean_psnr_defended_clear", **own), abs=0.06)


def test_the_readme_says_what_was_found(trained):
    text = " ".join((ROOT / "README.md").read_text().split())
    unpurified = mean(trained, "nonpurified_abs_gain", adaptive="0")
    assert f"move scores by {unpurified:.3f} of their range" in text
    found = {
        name.split(":")[0]: [f"{gain_left(trained, name, mode):.3f}" for mode in "01"]
        for name in {row["purifier"] for row in trained}
    }
    for sentence in (
        "A flip leaves {flip[0]} of attacks that do not know of it and {flip[1]} of those that do",
        "a resize {resize[0]} and {resize[1]}, a median {median_blur[0]} and {median_blur[1]}",
        "Blur goes from {gaussian_blur[0]} to {gaussian_blur[1]}",
        "total variation from {total_variation[0]} to {total_variation[1]}",
        "hold best, with {random_rotate[0]} and {random_rotate[1]}, {random_crop[0]} and {random_crop[1]}, "
        "{jpeg[0]} and {jpeg[1]}",
    ):
        assert sentence.format(**found) in text, sentence
    best = sorted(found, key=lambda name: float(found[name][1]))
    assert best[:3] == ["random_rotate", "random_crop", "jpeg"]
    for mode, shares in (("0", "84 and 71 %"), ("1", "46 and 35 %")):
        left = [gain_left(trained, name, mode) for name in ("gaussian_blur", "total_variation")]
        assert " and ".join(f"{100 * (1 - one / unpurified):.0f}" for one in left) + " %" == shares
        assert shares in text


def test_why_some_adaptive_attacks_are_behind(rows):
    """What the page says of the purifiers with less than 90 %."""
    ends = [row for row in rows if row["differentiated"] == "end to end"]
    weak = {name: [row for row in ends if row["attack"].startswith(name)] for name in WEAK}
    assert [f"{mean(weak[name], 'as_strong_as_unaware'):.2f}" for name in WEAK] == ["0.69", "0.88"]
    strong = iterated(rows)
    shares = {
        name: float(f"{mean(strong, 'as_strong_as_unaware', purifier=name):.2f}")
        for name in {row["purifier"] for row in strong}
    }
    assert {name: shares.pop(name) for name in ("bilateral", "unsharp", "fcn", "jpeg")} == {
        "bilateral": 0.95,
        "unsharp": 0.96,
        "fcn": 0.91,
        "jpeg": 0.89,
    }
    assert min(shares.values()) >= 0.985
    jpeg = [row for row in rows if row["purifier"] == "jpeg" and row["attack"].split(":")[0] not in WEAK]
    for attack in {row["attack"] for row in jpeg}:
        unaware, adaptive = (mean(jpeg, "both_defended_abs_gain", attack=attack, adaptive=mode) for mode in "01")
        assert adaptive > unaware, attack
