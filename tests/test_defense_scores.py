"""Scores of defenses, and those of robustness, against plain transcriptions of their published formulas."""

import math
import warnings

import numpy as np
import pytest
from scipy import stats

from nriqa_jax.metrics import defense, robustness

LOW, HIGH = -20.0, 80.0

# What the benchmark's demonstration measured: KonCept on ten images of KonIQ-10k, FGSM, JPEG of quality 50.
DEMO = {
    "clear": (23.5256, 41.0142, 38.5947, 54.1383, 58.1322, 40.2621, 24.3408, 38.8108, 58.9964, 47.4077),
    "attacked": (72.2018, 72.6298, 74.9161, 76.6848, 79.4950, 72.3352, 67.7870, 76.5219, 65.4192, 73.5221),
    "defended_clear": (21.2093, 38.7176, 39.2769, 51.7250, 57.8352, 39.1156, 24.7558, 38.5120, 58.8322, 46.0931),
    "defended_attacked": (29.8739, 42.8352, 46.7332, 57.5589, 63.1752, 46.2902, 30.8684, 48.1114, 61.4037, 50.6213),
    "mos": (1.6061, 1.9706, 2.0588, 3.3153, 3.1698, 2.2476, 1.6132, 2.3019, 3.1275, 1.6542),
    "ssim_defended_clear": (0.9424, 0.9393, 0.9372, 0.9193, 0.9257, 0.8635, 0.9609, 0.9350, 0.8768, 0.9137),
    "psnr_defended_clear": (38.918, 40.518, 39.790, 32.641, 38.226, 34.347, 39.546, 36.287, 26.104, 38.089),
    "ssim_defended_attacked": (0.9381, 0.9362, 0.9319, 0.9149, 0.9227, 0.8596, 0.9570, 0.9308, 0.8745, 0.9096),
    "psnr_defended_attacked": (38.755, 40.302, 39.485, 32.526, 38.049, 34.208, 39.379, 36.080, 26.025, 37.885),
}
DEMO = {name: np.array(values) for name, values in DEMO.items()}


def table(kind, n=30, seed=0):
    """A random table of one kind."""
    rng = np.random.default_rng(seed)
    columns = {name: rng.uniform(1, 60, n) for name in ("clear", "attacked", "defended_clear", "defended_attacked")}
    columns |= {"mos": rng.uniform(1, 5, n)}
    for name in ("defended_clear", "defended_attacked"):
        columns |= {f"ssim_{name}": rng.uniform(0.5, 1, n), f"psnr_{name}": rng.uniform(20, 45, n)}
    return KINDS[kind](columns)


def with_nan_similarity(columns):
    columns["ssim_defended_attacked"][3] = columns["psnr_defended_clear"][5] = np.nan
    return columns


KINDS = {
    "plain": lambda columns: columns,
    "ties": lambda columns: {n: np.round(8 * v / v.max()) + 0.5 for n, v in columns.items()},
    "negative": lambda columns: {n: v if n.startswith(("ssim", "psnr")) else v - 30 for n, v in columns.items()},
    "identity": lambda columns: (
        columns
        | {"defended_clear": columns["clear"], "defended_attacked": columns["attacked"]}
        | {"ssim_defended_clear": np.ones(30), "psnr_defended_clear": np.full(30, np.inf)}
    ),
    "small images": with_nan_similarity,
}


def transcription(t, low, high):
    """The thirteen scores as the benchmark's tables define them."""

    def rel(a, b):
        return np.mean(np.abs(a - b) / (a + 1e-6))

    def abs_(a, b):
        return np.mean(np.abs(a - b) / (high - low))

    def quality(name):
        values = t[f"ssim_{name}"] + t[f"psnr_{name}"] / 40
        return np.mean(values[~np.isnan(values)])

    def rank(a, b):
        a, b = stats.rankdata(a), stats.rankdata(b)
        return np.corrcoef(a, b)[0, 1]

    t = {name: np.asarray(values) for name, values in t.items()}
    c, a, dc, da, mos = (t[n] for n in ("clear", "attacked", "defended_clear", "defended_attacked", "mos"))
    return {
        "robust_rel_gain": rel(c, da),
        "robust_abs_gain": abs_(c, da),
        "nonpurified_rel_gain": rel(c, a),
        "nonpurified_abs_gain": abs_(c, a),
        "both_defended_rel_gain": rel(dc, da),
        "both_defended_abs_gain": abs_(dc, da),
        "similarity_score": quality("defended_attacked"),
        "clear_similarity_score": quality("defended_clear"),
        "robust_attacked_srocc_mos": rank(mos, da),
        "robust_clear_srocc_mos": rank(mos, dc),
        "clear_srocc_mos": rank(mos, c),
        "attacked_srocc_mos": rank(mos, a),
        "robust_clear_srocc_clear": rank(c, dc),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_thirteen_scores_equal_a_plain_transcription(kind):
    columns = table(kind)
    expected = transcription(columns, LOW, HIGH)
    found = defense.evaluate(defense.benchmark_scores(LOW, HIGH), columns)
    assert list(found) == list(expected)
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-12)
    if kind == "identity":
        assert found["clear_similarity_score"] == math.inf
        assert found["robust_abs_gain"] == found["nonpurified_abs_gain"] == found["both_defended_abs_gain"]


def test_scores_of_the_published_demonstration():
    """Recomputed by hand from the ten rows above, in the range that the benchmark gives KonCept."""
    found = defense.evaluate(defense.benchmark_scores(26.4031, 66.8693), DEMO)
    by_hand = {  # sums of the differences above, over 10 and the range of 40.4662
        "robust_abs_gain": 52.2486 / 10 / 40.4662,
        "nonpurified_abs_gain": 306.2901 / 10 / 40.4662,
        "both_defended_abs_gain": 61.3987 / 10 / 40.4662,
    }
    for name, value in by_hand.items():
        assert found[name] == pytest.approx(value, abs=1e-6), name
    expected = transcription(DEMO, 26.4031, 66.8693)
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-12)
    columns = [DEMO[name] for name in ("clear", "attacked", "defended_clear", "defended_attacked")]
    assert defense.gain_removed(*columns) == pytest.approx(1 - 61.3987 / 306.2901, abs=1e-6)


def test_scores_that_lack_a_column_are_nan_without_a_warning():
    columns = table("plain")
    del columns["mos"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = defense.evaluate(defense.benchmark_scores(LOW, HIGH), columns)
    assert {name for name, value in found.items() if math.isnan(value)} == {n for n in found if n.endswith("_mos")}


def test_constants_have_no_rank_and_a_broken_score_no_gain():
    columns = table("plain")
    scores = defense.benchmark_scores(LOW, HIGH) | defense.further_scores(LOW, HIGH)
    columns["defended_clear"] = np.full(30, 7.0)
    with pytest.warns(RuntimeWarning, match="all values of the second vector are equal"):
        found = defense.evaluate(scores, columns)
    constant = {"robust_clear_srocc_mos", "robust_clear_srocc_clear", "srocc_drop_clear"}
    assert {n for n, v in found.items() if math.isnan(v)} == constant | {
        f"defended_clear_{m}_mos" for m in ("plcc", "krocc")
    }
    columns = table("plain")
    columns["defended_attacked"][4] = np.nan
    with pytest.warns(RuntimeWarning, match="1 of 30 samples hold a NaN"):
        found = defense.evaluate(scores, columns)
    uses = {name for name, score in scores.items() if "defended_attacked" in score.columns}
    assert {name for name, value in found.items() if math.isnan(value)} == uses


def test_relative_changes_of_negative_scores():
    assert defense.relative_change([-2.0, 4.0], [-1.0, 5.0], epsilon=0) == pytest.approx((-0.5 + 0.25) / 2)
    assert defense.signed_relative_change([-2.0, 4.0], [-1.0, 5.0], epsilon=0) == pytest.approx((0.5 + 0.25) / 2)
    assert defense.relative_change([-1e-6, 4.0], [1.0, 5.0]) == math.inf


def test_signed_gains_tell_too_high_from_too_low():
    columns = {"clear": [10.0, 20.0], "attacked": [30.0, 40.0], "defended_clear": [8.0, 18.0]}
    columns["defended_attacked"] = [9.0, 23.0]
    found = defense.evaluate(defense.further_scores(0.0, 100.0), columns)
    assert found["robust_signed_abs_gain"] == pytest.approx((-1 + 3) / 2 / 100)
    assert found["purification_signed_abs_gain"] == pytest.approx(-2 / 100)
    assert found["nonpurified_signed_rel_gain"] == pytest.approx((20 / 10 + 20 / 20) / 2, rel=1e-6)
    assert found["gain_removed"] == pytest.approx(1 - (1 + 5) / (20 + 20))
    assert found["attacked_srocc_clear"] == pytest.approx(1.0)
    assert math.isnan(found["srocc_drop_attacked"])  # without MOS


def test_no_gain_to_remove_is_undefined():
    with pytest.warns(RuntimeWarning, match="moved no score"):
        assert math.isnan(defense.gain_removed([1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [1.5, 2.0]))
    with pytest.warns(RuntimeWarning, match="none of 2 images"):
        assert math.isnan(defense.similarity([math.nan, 0.9], [30.0, math.nan]))


def test_bad_ranges_are_named():
    for scores in (defense.benchmark_scores, defense.further_scores):
        with pytest.raises(ValueError, match="low < high"):
            scores(1.0, 1.0)


@pytest.mark.parametrize("kind", ["plain", "ties", "negative", "identity"])
def test_robustness_scores_equal_a_plain_transcription(kind):
    columns = table(kind, seed=1)
    c, a = (np.asarray(columns[name]) for name in ("clear", "defended_attacked"))
    a = c if kind == "identity" else a  # a defense that gives the clean scores back
    u, v = (c - LOW) / (HIGH - LOW), (a - LOW) / (HIGH - LOW)
    s, t = (c - c.min()) / np.ptp(c), (a - c.min()) / np.ptp(c)
    sign = np.sign(v.mean() - u.mean())
    points = np.sort(np.concatenate([u, v]))
    cdf = [np.searchsorted(np.sort(w), points[:-1], "right") / len(w) for w in (u, v)]
    expected = {
        "r_score": np.mean(np.log(np.maximum(HIGH - c, c - LOW) / (np.abs(c - a) + 1e-6))),
        "r_score_minmax": np.mean(np.log10(np.maximum(1 - s, s) / (np.abs(s - t) + 1e-6))),
        "absolute_gain": np.mean(v - u),
        "relative_gain": np.mean((v - u) / (u + 1)),
        "wasserstein_score": np.mean(np.abs(np.sort(u) - np.sort(v))) * sign,
        "energy_score": math.sqrt(2 * np.sum((cdf[0] - cdf[1]) ** 2 * np.diff(points))) * sign,
    }
    for name, value in expected.items():
        own = {} if name == "r_score_minmax" else {"low": LOW, "high": HIGH}
        assert getattr(robustness, name)(c, a, **own) == pytest.approx(value, abs=1e-10), name
