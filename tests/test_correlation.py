import math
import warnings
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from scipy import stats

from nriqa_jax.metrics import logistic
from nriqa_jax.metrics.correlation import (
    bootstrap_interval,
    krocc,
    mae,
    plcc,
    rmse,
    srocc,
)
from nriqa_jax.metrics.logistic import fit_logistic4, fit_logistic5

DBCNN = Path(__file__).parents[2] / "shared" / "data" / "sma" / "dbcnn_livec_test_pred_mos.npy"
CORRELATIONS = [srocc, krocc, plcc]
ERRORS = [rmse, mae]


def noisy_pair(n=60, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(50, 20, n)
    return x, 100 / (1 + np.exp(-(x - 45) / 12)) + rng.normal(0, 4, n)


def brute_tau_b(x, y):
    sign_x, sign_y = (np.sign(v[:, None] - v[None, :]) for v in (x, y))
    return np.sum(sign_x * sign_y) / np.sqrt(np.sum(sign_x**2) * np.sum(sign_y**2))


@pytest.mark.parametrize("statistic", CORRELATIONS + ERRORS)
def test_matches_its_definition(statistic):
    x, y = (np.round(v, -1) for v in noisy_pair())  # rounded to tens: many ties
    expected = {
        srocc: np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1],
        krocc: brute_tau_b(x, y),
        plcc: np.corrcoef(x, y)[0, 1],
        rmse: np.linalg.norm(x - y) / np.sqrt(len(x)),
        mae: np.abs(x - y).sum() / len(x),
    }[statistic]
    assert statistic(x, y) == pytest.approx(expected, abs=1e-12)
    assert isinstance(statistic(x, y), float)


def test_ties_by_hand():
    # ranks (1, 2.5, 2.5, 4) against (1, 2, 3, 4): 4.5 / sqrt(4.5 * 5); five concordant pairs of six, one tied
    assert srocc([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(math.sqrt(0.9), abs=1e-12)
    assert krocc([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(5 / math.sqrt(5 * 6), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(arrays(np.int64, st.integers(2, 20), elements=st.integers(-30, 30)), st.randoms(use_true_random=False))
def test_rank_correlations_ignore_monotone_maps_and_order(scores, random):
    other = scores[::-1] + np.arange(len(scores))
    order = np.array(random.sample(range(len(scores)), len(scores)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for statistic in (srocc, krocc):
            value = statistic(scores, other)
            np.testing.assert_allclose(statistic(np.exp(scores / 7), other**3), value, atol=1e-12)
            np.testing.assert_allclose(statistic(scores[order], other[order]), value, atol=1e-12)
            np.testing.assert_allclose(statistic(-scores, other), -value, atol=1e-12)


@pytest.mark.parametrize("statistic", CORRELATIONS)
@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([], [], "at least 2"),
        ([1.0], [2.0], "at least 2"),
        ([3.0, 3.0, 3.0], [1.0, 2.0, 3.0], "first vector"),
        ([1.0, 2.0, 3.0], [3.0, 3.0, 3.0], "second vector"),
        ([1.0, math.nan, 3.0], [1.0, 2.0, 3.0], "1 of 3"),
        ([1.0, 2.0, 3.0], [1.0, 2.0, math.inf], "1 of 3"),
    ],
)
def test_undefined_correlation_is_nan_with_one_reason(statistic, x, y, reason):
    with pytest.warns(RuntimeWarning, match=reason) as caught:
        assert math.isnan(statistic(x, y))
    assert len(caught) == 1


@pytest.mark.parametrize("statistic", ERRORS)
def test_errors_are_undefined_only_without_numbers(statistic):
    assert statistic([2.0], [5.0]) == 3.0
    assert statistic([2.0, 2.0], [2.0, 2.0]) == 0.0
    for x, y in (([], []), ([math.nan], [1.0])):
        with pytest.warns(RuntimeWarning):
            assert math.isnan(statistic(x, y))


@pytest.mark.parametrize("function", [*CORRELATIONS, *ERRORS, fit_logistic4, fit_logistic5])
@pytest.mark.parametrize(("x", "y"), [([1.0, 2.0], [1.0, 2.0, 3.0]), ([[1.0], [2.0]], [[1.0], [2.0]])])
def test_wrong_shapes_are_named(function, x, y):
    with pytest.raises(ValueError, match=r"got shapes \(2,.*\) and \("):
        function(x, y)


@pytest.mark.parametrize(
    ("fit", "parameters"),
    [(fit_logistic4, (90.0, 8.0, 45.0, 12.0)), (fit_logistic5, (60.0, 0.08, 45.0, 0.3, 40.0))],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_fit_recovers_a_known_curve(fit, parameters, sign):
    x = np.linspace(0, 100, 80)
    y = logistic.LogisticMap(parameters)(x)
    fitted = fit(sign * x, y)  # sign -1: a model for which lower means better
    np.testing.assert_allclose(fitted(sign * x), y, atol=1e-3)
    if sign == 1:
        np.testing.assert_allclose(fitted.parameters, parameters, rtol=1e-2)


@pytest.mark.parametrize("fit", [fit_logistic4, fit_logistic5])
@pytest.mark.parametrize(
    "shape",
    [lambda z: z, np.square, np.exp, lambda z: np.exp(-z), np.sign],
    ids=["line", "square", "exp", "fall", "step"],
)
def test_fit_ends_and_beats_the_mean_on_any_shape(fit, shape):
    rng = np.random.default_rng(1)
    z = rng.normal(size=60)
    y = shape(z) + rng.normal(0, 0.1, 60)
    assert rmse(fit(1e-3 * z + 7, y)(1e-3 * z + 7), y) < y.std()


@pytest.mark.parametrize("fit", [fit_logistic4, fit_logistic5])
def test_fit_scales_with_both_units(fit):
    x, y = noisy_pair()
    error = rmse(fit(x, y)(x), y)
    assert rmse(fit(1e6 * x - 3, y)(1e6 * x - 3), y) == pytest.approx(error, rel=1e-6)
    assert rmse(fit(x, 1e-3 * y + 9)(x), 1e-3 * y + 9) == pytest.approx(1e-3 * error, rel=1e-6)


def test_four_parameter_fit_never_hurts_and_is_monotone():
    x, y = noisy_pair()
    mapping = fit_logistic4(x, y)
    assert plcc(x, y, mapping) >= plcc(x, y)
    assert np.all(np.diff(mapping(np.linspace(-50, 150, 50))) > 0)
    assert mapping == fit_logistic4(x, y)
    with pytest.raises(AttributeError):
        mapping.parameters = ()


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([1.0, 2.0], [1.0, 2.0], "at least"),
        ([1.0] * 9, list(range(9)), "first vector"),
        ([*range(8), math.nan], list(range(9)), "1 of 9"),
    ],
)
@pytest.mark.parametrize("fit", [fit_logistic4, fit_logistic5])
def test_impossible_fit_says_why(fit, x, y, reason):
    with pytest.raises(ValueError, match=reason):
        fit(x, y)


def test_fit_that_never_converges_says_so(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError

    monkeypatch.setattr(scipy.optimize, "curve_fit", fail)
    with pytest.raises(ValueError, match="4-parameter logistic fit did not converge"):
        fit_logistic4(*noisy_pair())


def test_map_has_four_or_five_parameters():
    with pytest.raises(ValueError, match="4 or 5 parameters, got 3"):
        logistic.LogisticMap((1.0, 2.0, 3.0))


def test_bootstrap_of_the_mean_agrees_with_normal_theory():
    x = np.random.default_rng(0).normal(5, 2, 400)
    low, high = bootstrap_interval(np.mean, x, confidence=0.9, resamples=2000)
    half = 1.645 * x.std() / 20
    np.testing.assert_allclose([low, high], [x.mean() - half, x.mean() + half], atol=0.02)


def test_bootstrap_is_paired_and_seeded():
    x, y = noisy_pair()
    low, high = bootstrap_interval(srocc, x, y, resamples=200)
    assert low < srocc(x, y) < high
    assert bootstrap_interval(srocc, x, y, resamples=200) == (low, high)
    assert bootstrap_interval(srocc, x, y, resamples=200, seed=1) != (low, high)
    assert bootstrap_interval(srocc, x, 2 * x, resamples=50) == pytest.approx((1, 1))


def test_bootstrap_leaves_undefined_resamples_out_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        low, high = bootstrap_interval(plcc, [1.0, 2.0, 3.0], [1.0, 2.0, 2.5], resamples=100)
    assert -1 <= low <= high <= 1


@pytest.mark.parametrize(
    ("statistic", "samples"),
    [(np.mean, ([1.0],)), (np.mean, ([],)), (np.mean, ([1.0, math.nan],)), (srocc, ([1.0, 2.0], [3.0, 3.0]))],
)
def test_undefined_bootstrap_is_two_nans_with_one_warning(statistic, samples):
    with pytest.warns(RuntimeWarning, match="bootstrap interval is undefined") as caught:
        assert np.all(np.isnan(bootstrap_interval(statistic, *samples)))
    assert len(caught) == 1


def test_bootstrap_rejects_bad_arguments():
    with pytest.raises(ValueError, match="shapes"):
        bootstrap_interval(srocc, [1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval(np.mean, [1.0, 2.0], confidence=95.0)


@pytest.mark.skipif(not DBCNN.exists(), reason="predictions of DBCNN on LIVE Challenge are not at hand")
def test_published_agreement_of_dbcnn_on_live_challenge():
    predictions, mos = np.load(DBCNN).T
    assert plcc(predictions, mos) == pytest.approx(0.888799, abs=1e-6)
    assert srocc(predictions, mos) == pytest.approx(0.8683, abs=5e-5)
    assert krocc(predictions, mos) == pytest.approx(0.6864, abs=5e-5)
    assert rmse(predictions, mos) == pytest.approx(10.7822, abs=5e-5)
    assert mae(predictions, mos) == pytest.approx(8.366, abs=5e-4)
    four, five = fit_logistic4(predictions, mos), fit_logistic5(predictions, mos)
    assert plcc(predictions, mos, four) == pytest.approx(0.889993, abs=1e-6)
    assert rmse(four(predictions), mos) == pytest.approx(10.6724, abs=5e-5)
    assert plcc(predictions, mos, five) == pytest.approx(0.8900, abs=2e-4)
