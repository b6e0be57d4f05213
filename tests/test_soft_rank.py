"""Soft ranks against independent isotonic regressions and finite differences, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import isotonic_regression
from scipy.stats import pearsonr, rankdata, spearmanr

from nriqa_jax.metrics.correlation import soft_rank, soft_srocc
from nriqa_jax.metrics.soft_rank import soft_plcc

REGULARIZATIONS = ("l2", "log_kl")


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def reference(values, strength):
    """Blondel et al., equation 6, by scipy's pool of adjacent violators."""
    order = np.argsort(-values, kind="stable")
    s = values[order] / strength
    ranks = np.empty(len(values))
    ranks[order] = s - isotonic_regression(s - np.arange(len(values), 0, -1), increasing=False).x
    return ranks


def test_l2_equals_scipy_on_random_vectors_with_ties():
    rng = np.random.default_rng(0)
    rank = jax.jit(soft_rank)
    for n in [1, 2, 3, 5, 17, 64, 232, 600, 700, 2000] * 20:
        values = rng.normal(50, 25, n)
        values[rng.random(n) < 0.2] = np.round(values[0])
        strength = 10.0 ** rng.uniform(-3, 3)
        np.testing.assert_allclose(rank(jnp.asarray(values), strength), reference(values, strength), atol=1e-10)


@pytest.mark.parametrize("regularization", REGULARIZATIONS)
def test_limits_and_sums(regularization):
    values = jnp.asarray(np.random.default_rng(2).permutation(20) * 1.5)
    hard = soft_rank(values, 1e-3, regularization=regularization)
    np.testing.assert_allclose(hard, rankdata(values), atol=1e-6)
    down = soft_rank(values, 1e-3, regularization=regularization, descending=True)
    np.testing.assert_allclose(down, 21 - rankdata(values), atol=1e-6)
    for strength in (0.1, 1.0, 100.0):  # a permutahedron keeps the sum
        assert soft_rank(values, strength, regularization=regularization).sum() == pytest.approx(210)


def test_a_strong_l2_rank_is_the_value_minus_a_constant():
    values = jnp.asarray(np.random.default_rng(3).uniform(0, 100, 232))
    np.testing.assert_allclose(soft_rank(values, 1.0), values - values.mean() + 116.5, atol=1e-9)


@pytest.mark.parametrize("regularization", REGULARIZATIONS)
@pytest.mark.parametrize("n", [7, 40])
@pytest.mark.parametrize("strength", [0.2, 1.0, 10.0])
def test_gradients_equal_finite_differences(regularization, n, strength):
    rng = np.random.default_rng(4)
    values, weights = jnp.asarray(rng.normal(0, 4, n)), jnp.asarray(rng.normal(size=n))

    def total(values):
        return jnp.vdot(weights, soft_rank(values, strength, regularization=regularization))

    gradient = jax.grad(total)(values)
    steps = 1e-6 * jnp.eye(n)
    above, below = jnp.split(
        soft_rank(values + jnp.concatenate([steps, -steps]), strength, regularization=regularization), 2
    )
    expected = (above - below) @ weights / 2e-6
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-6 * max(1.0, np.abs(gradient).max()))


@pytest.mark.parametrize("regularization", REGULARIZATIONS)
@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [0.0], [2.0, 1.0, 2.0, 1.0]])
def test_gradients_are_finite_at_ties(regularization, values):
    gradient = jax.grad(lambda v: (soft_rank(v, 0.5, regularization=regularization) ** 2).sum())(jnp.asarray(values))
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("n", [30, 600])
def test_batches_and_vmap_equal_the_loop(n):
    values = jnp.asarray(np.random.default_rng(5).normal(0, 20, (64 if n < 100 else 4, n)))
    loop = jnp.stack([soft_rank(row, 0.7) for row in values])
    np.testing.assert_allclose(soft_rank(values, 0.7), loop, atol=1e-10)
    np.testing.assert_allclose(jax.jit(jax.vmap(lambda row: soft_rank(row, 0.7)))(values), loop, atol=1e-10)
    gradients = jax.vmap(jax.grad(lambda row: (soft_rank(row, 0.7) ** 2).sum()))(values)
    np.testing.assert_allclose(gradients[2], jax.grad(lambda row: (soft_rank(row, 0.7) ** 2).sum())(values[2]))


def test_soft_srocc_lies_between_srocc_and_pearson():
    rng = np.random.default_rng(6)
    x = rng.normal(50, 20, 60)
    y = np.exp(x / 30) + rng.normal(0, 1, 60)
    pair = jnp.asarray(x), jnp.asarray(y)
    assert soft_srocc(*pair, 1e-6) == pytest.approx(spearmanr(x, y).statistic, abs=1e-9)
    assert soft_srocc(*pair, 1e4) == pytest.approx(pearsonr(x, y).statistic, abs=1e-9)
    assert soft_plcc(*pair) == pytest.approx(pearsonr(x, y).statistic, abs=1e-12)
    constant = jnp.ones(60)
    assert soft_srocc(pair[0], constant) == 0
    assert np.all(np.isfinite(jax.grad(lambda v: soft_srocc(pair[0], v))(constant)))


def test_single_precision_stays_single():
    values = jnp.asarray([3.0, 1.0, 2.0], jnp.float32)
    assert soft_rank(values, 0.1).dtype == jnp.float32
    np.testing.assert_allclose(soft_rank(values, 0.1), [3, 1, 2], atol=1e-5)


def test_fifty_thousand_values():
    values = np.round(np.random.default_rng(6).normal(50, 20, 50_000), 3)  # ties included
    ranks, pull = jax.vjp(lambda values: soft_rank(values, 0.001), jnp.asarray(values))
    np.testing.assert_allclose(ranks, reference(values, 0.001), atol=1e-10 * 1e5)
    (gradient,) = pull(jnp.ones_like(ranks))
    np.testing.assert_allclose(gradient, 0.0, atol=1e-9)  # a permutahedron keeps the sum


def test_float32_keeps_its_digits():
    """Sums over blocks are of large numbers; their differences must not be."""
    values = jnp.asarray(np.random.default_rng(7).uniform(0, 100, 500), jnp.float32)
    for strength in (0.01, 0.1, 1.0):
        exact = reference(np.asarray(values, np.float64), np.float64(np.float32(strength)))
        np.testing.assert_allclose(soft_rank(values, strength), exact, atol=1e-3)
