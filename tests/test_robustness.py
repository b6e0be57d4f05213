import math

import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from nriqa_jax.metrics.robustness import (
    absolute_gain,
    energy_score,
    r_score,
    r_score_minmax,
    relative_gain,
    wasserstein_score,
)

RANGED = [r_score, absolute_gain, relative_gain, wasserstein_score, energy_score]
SIGNED = [absolute_gain, relative_gain, wasserstein_score, energy_score]


def scores(n=50, seed=0):
    rng = np.random.default_rng(seed)
    clean = rng.uniform(20, 80, n)
    return clean, clean + rng.normal(8, 6, n)


def test_r_score_by_hand():
    # headroom max(10 - 2, 2 - 0) = 8 over 0.5, and max(10 - 7, 7 - 0) = 7 over 2
    by_hand = (math.log(16) + math.log(3.5)) / 2
    assert r_score([2, 7], [2.5, 5], low=0, high=10, epsilon=0) == pytest.approx(by_hand, abs=1e-12)
    log10 = r_score([2, 7], [2.5, 5], low=0, high=10, base=10, epsilon=0)
    assert log10 == pytest.approx(by_hand / math.log(10), abs=1e-12)


def test_r_score_has_the_clean_score_in_the_numerator():
    assert r_score([0.0], [5.0], low=0, high=10, epsilon=0) == pytest.approx(math.log(10 / 5))
    assert r_score([5.0], [0.0], low=0, high=10, epsilon=0) == pytest.approx(0)


def test_r_score_of_unmoved_scores_is_bounded_by_epsilon():
    assert r_score([10.0], [10.0], low=0, high=10) == pytest.approx(math.log(1e7))
    assert r_score([10.0, 3.0], [10.0, 4.0], low=0, high=10, epsilon=0) == math.inf


def test_r_score_ignores_direction_and_unit():
    clean, attacked = scores()
    value = r_score(clean, attacked, low=0, high=100, epsilon=1e-4)
    assert r_score(100 - clean, 100 - attacked, low=0, high=100, epsilon=1e-4) == pytest.approx(value, abs=1e-12)
    assert r_score(clean / 100, attacked / 100, low=0, high=1, epsilon=1e-6) == pytest.approx(value, abs=1e-9)


def test_minmax_form_scales_by_its_own_clean_sample():
    clean, attacked = scores()
    low, high = clean.min(), clean.max()
    u, v = (clean - low) / (high - low), (attacked - low) / (high - low)
    expected = np.mean(np.log10(np.maximum(1 - u, u) / (np.abs(u - v) + 1e-6)))
    assert r_score_minmax(clean, attacked) == pytest.approx(expected, abs=1e-12)
    assert r_score_minmax(3 * clean - 7, 3 * attacked - 7) == pytest.approx(expected, abs=1e-9)
    assert r_score_minmax(clean[:20], attacked[:20]) != pytest.approx(expected, abs=1e-3)
    assert 5.69 < r_score_minmax(clean, clean) <= 6


def test_gains_by_hand():
    clean, attacked = [0.0, 50.0], [100.0, 25.0]  # scaled: 0 -> 1, 0.5 -> 0.25
    assert absolute_gain(clean, attacked, low=0, high=100) == pytest.approx((1 - 0.25) / 2)
    assert relative_gain(clean, attacked, low=0, high=100) == pytest.approx((1 / 1 - 0.25 / 1.5) / 2)


def test_distances_by_hand():
    # distributions {0, 1} and {0.5, 1.5}: sorted differences 0.5; the CDFs differ by 1/2 on [0, .5] and [1, 1.5]
    assert wasserstein_score([0.0, 1.0], [1.5, 0.5], low=0, high=1) == pytest.approx(0.5)
    assert energy_score([0.0, 1.0], [1.5, 0.5], low=0, high=1) == pytest.approx(math.sqrt(2 * (0.25 + 0.25) / 2))


def test_distances_match_their_sample_forms():
    clean, attacked = scores()
    u, v = clean / 100, attacked / 100
    spread = lambda a, b: np.mean(np.abs(a[:, None] - b[None, :]))  # noqa: E731
    energy = math.sqrt(2 * spread(u, v) - spread(u, u) - spread(v, v))
    assert energy_score(clean, attacked, low=0, high=100) == pytest.approx(energy, abs=1e-10)
    w1 = np.mean(np.abs(np.sort(u) - np.sort(v)))
    assert wasserstein_score(clean, attacked, low=0, high=100) == pytest.approx(w1, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(arrays(np.float64, st.integers(1, 12), elements=st.floats(0, 1)), st.floats(0.01, 0.5))
def test_signs_follow_the_mean_change(clean, rise):
    for measure in SIGNED:
        assert measure(clean, clean + rise, low=0, high=1) > 0
        assert measure(clean, clean - rise, low=0, high=1) < 0
        assert measure(clean, clean, low=0, high=1) == 0
    assert absolute_gain(clean, clean + rise, low=0, high=1) == pytest.approx(rise)
    assert wasserstein_score(clean, clean - rise, low=0, high=1) == pytest.approx(-rise)


@pytest.mark.parametrize("measure", [absolute_gain, wasserstein_score, energy_score])
def test_reversed_scale_only_flips_the_sign(measure):
    clean, attacked = scores()
    value = measure(clean, attacked, low=0, high=100)
    assert measure(-clean, -attacked, low=-100, high=0) == pytest.approx(-value, abs=1e-12)


def test_distances_do_not_see_a_permutation():
    clean = np.array([1.0, 2.0, 4.0, 8.0])
    for measure in (wasserstein_score, energy_score):
        assert measure(clean, clean[::-1], low=0, high=10) == pytest.approx(0, abs=1e-12)


def test_jax_scores_are_accepted():
    clean, attacked = (jnp.asarray(v, jnp.float32) for v in scores())
    for measure in RANGED:
        expected = measure(np.asarray(clean), np.asarray(attacked), low=0, high=100)
        assert isinstance(measure(clean, attacked, low=0, high=100), float)
        assert measure(clean, attacked, low=0, high=100) == expected


@pytest.mark.parametrize("measure", RANGED)
@pytest.mark.parametrize(("clean", "attacked", "reason"), [([], [], "got 0"), ([1.0, math.nan], [1.0, 2.0], "1 of 2")])
def test_no_scores_are_nan_with_one_reason(measure, clean, attacked, reason):
    with pytest.warns(RuntimeWarning, match=reason) as caught:
        assert math.isnan(measure(clean, attacked, low=0, high=1))
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("clean", "attacked", "reason"),
    [([], [], "got 0"), ([2.0, 2.0], [1.0, 3.0], "all clean"), ([1.0, 2.0], [math.inf, 3.0], "1 of 2")],
)
def test_minmax_form_is_undefined_without_a_range(clean, attacked, reason):
    with pytest.warns(RuntimeWarning, match=reason) as caught:
        assert math.isnan(r_score_minmax(clean, attacked))
    assert len(caught) == 1


@pytest.mark.parametrize("measure", RANGED)
def test_bad_arguments_are_named(measure):
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\)"):
        measure([1.0, 2.0], [1.0, 2.0, 3.0], low=0, high=1)
    for low, high in ((1, 1), (2, 1), (0, math.inf), (math.nan, 1)):
        with pytest.raises(ValueError, match="low < high"):
            measure([1.0], [2.0], low=low, high=high)


@pytest.mark.parametrize("constants", [{"base": 1.0}, {"base": math.nan}, {"epsilon": -1e-9}])
def test_bad_constants_are_named(constants):
    with pytest.raises(ValueError, match="base > 1 and epsilon >= 0"):
        r_score([1.0, 2.0], [2.0, 3.0], low=0, high=1, **constants)
    with pytest.raises(ValueError, match="base > 1 and epsilon >= 0"):
        r_score_minmax([1.0, 2.0], [2.0, 3.0], **constants)
