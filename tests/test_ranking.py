"""Stage one of SMA against published numbers, a plain NumPy loop and scipy's correlations, in float64."""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kendalltau, pearsonr, spearmanr

from nriqa_jax.attacks import ranking
from nriqa_jax.attacks.agreements import Kendall, Order, Pearson, Spearman
from nriqa_jax.attacks.ranking import SmaConfig, optimize_targets, sma_targets


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def livec(shared):
    """What DBCNN scores the 232 test images of LIVE Challenge, and their MOS."""
    return np.load(shared / "data" / "sma" / "dbcnn_livec_test_pred_mos.npy").T


@pytest.fixture
def scores():
    return jnp.asarray(np.random.default_rng(0).uniform(5, 95, 60))


def published_start(scores):
    torch = pytest.importorskip("torch")
    torch.manual_seed(919)
    return jnp.asarray(scores + 0.01 * torch.randint(-1, 1, (232,)).numpy())


def summary(targets, scores):
    return spearmanr(targets, scores).statistic, pearsonr(targets, scores).statistic, np.abs(targets - scores).mean()


def test_2000_steps_give_the_published_numbers(livec):
    scores, mos = livec
    assert spearmanr(scores, mos).statistic == pytest.approx(0.868286, abs=1e-6)
    assert np.abs(scores - mos).mean() == pytest.approx(8.365776, abs=1e-6)
    for seed in (1, 2, 3, None):
        start = None if seed else published_start(scores)
        found = sma_targets(jnp.asarray(scores), SmaConfig(seed=seed or 0, steps=2000), start)
        assert summary(found, scores) == pytest.approx((0.999954, 0.978295, 9.872864), abs=1e-3 if seed else 1e-6)


def test_20000_steps_give_the_published_numbers(livec):
    found = sma_targets(jnp.asarray(livec[0]), SmaConfig(steps=20_000), published_start(livec[0]))
    srocc, _, error = summary(found, livec[0])
    assert (srocc, error) == pytest.approx((0.485271, 38.0211), abs=1e-4)


def test_published_runs_end_at_both_ends_of_the_range_and_stop_there(livec):
    scores = jnp.asarray(livec[0])
    stopped = optimize_targets(scores, start=published_start(livec[0]))
    assert set(np.unique(stopped.targets)) == {0.0, 100.0}
    assert int((stopped.targets == 0).sum()) in (142, 143)
    assert 50_000 < stopped.steps < 100_000
    assert stopped.trace.error.shape == (1000,)
    whole = optimize_targets(scores, SmaConfig(tolerance=-1.0), published_start(livec[0]))
    assert whole.steps == 100_000
    np.testing.assert_array_equal(stopped.targets, whole.targets)


def numpy_stage_one(scores, start, steps, rate, variance_weight, error_weight):
    """Targets after each step, for the agreement Pearson; the gradient by hand."""
    targets, momentum, power, n = start, 0.0, 0.0, len(scores)
    y = scores - scores.mean()
    for t in range(1, steps + 1):
        x = targets - targets.mean()
        scale = np.sqrt(x @ x * (y @ y))
        gradient = y / scale - (x @ y) / scale * x / (x @ x)
        gradient -= 2 * variance_weight * x / (n - 1) + 2 * error_weight * (targets - scores) / n
        sign = gradient / np.abs(gradient + 1e-12)
        momentum, power = 0.9 * momentum + 0.1 * sign, 0.999 * power + 0.001 * sign**2
        update = momentum / (1 - 0.9**t) / (np.sqrt(power / (1 - 0.999**t)) + 1e-8)
        targets = np.clip(targets - rate * update, 0, 100)
        yield targets


def test_equals_a_plain_loop_and_traces_its_terms(scores):
    weights = {"variance_weight": 2e-4, "error_weight": 3e-4}
    config = SmaConfig(Pearson(), **weights, learning_rate=0.1, steps=300, record_every=70)
    start = scores + jnp.asarray(np.random.default_rng(1).normal(0, 0.1, 60))
    found = optimize_targets(scores, config, start)
    scores = np.asarray(scores)
    expected = list(numpy_stage_one(scores, np.asarray(start), 300, 0.1, **weights))
    np.testing.assert_allclose(found.targets, expected[-1], atol=1e-9)
    assert found.steps == 300
    assert (expected[-1].min(), expected[-1].max()) == (0, 100)
    assert np.abs(expected[-1] - expected[-10]).max() > 0.1
    for record, step in enumerate([70, 140, 210, 280, 300]):
        targets = expected[step - 1]
        assert found.trace.agreement[record] == pytest.approx(pearsonr(targets, scores).statistic, abs=1e-12)
        assert found.trace.variance[record] == pytest.approx(np.var(targets, ddof=1), rel=1e-12)
        assert found.trace.error[record] == pytest.approx(np.mean((targets - scores) ** 2), rel=1e-12)
    assert found.trace.error.shape == (5,)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WithoutSpread:
    """An agreement that is not told how far targets may differ."""

    agreement: Callable = dataclasses.field(metadata={"static": True})

    def __call__(self, scores, spread):
        return self.agreement(scores)


@pytest.mark.parametrize(("n", "high", "sorts"), [(232, 100.0, False), (60, 100.0, True), (232, 900.0, True)])
def test_ranks_of_many_targets_in_a_small_range_need_no_sorting(n, high, sorts):
    scores = jnp.asarray(high * np.random.default_rng(2).random(n) ** 3)
    kinds = Spearman(), WithoutSpread(Spearman()), WithoutSpread(partial(Spearman(), spread=0.0))
    configs = (SmaConfig(kind, high=high, learning_rate=high / 150, steps=100) for kind in kinds)
    found, sorted_, unsorted = (optimize_targets(scores, config) for config in configs)
    np.testing.assert_allclose(found.targets, sorted_.targets, atol=1e-9)
    assert np.allclose(found.trace.agreement, unsorted.trace.agreement, rtol=0, atol=1e-3) != sorts


@pytest.mark.parametrize(("n", "sorts"), [(200, False), (199, True)])
def test_sorting_starts_where_it_makes_a_difference(n, sorts):
    scores, targets = jnp.arange(n) * 1.0, jnp.arange(n) % 2 * 100.0

    @partial(jax.jit, static_argnums=0)
    def gradient(spread):
        return jax.grad(lambda targets: Spearman()(scores, spread)(targets))(targets)

    assert ("sort" in str(jax.make_jaxpr(Spearman()(scores, 100.0))(targets))) == sorts
    np.testing.assert_allclose(gradient(100.0), gradient(np.inf), atol=1e-15)
    assert np.allclose(gradient(100.0), gradient(0.0), rtol=0, atol=1e-15) != sorts


def test_vectors_of_weights_equal_a_loop(scores):
    error = [1e-2, 0.0, 1e-4]
    base = SmaConfig(Pearson(), learning_rate=0.1, steps=250)
    for variance in ([0.0, 1e-4, 1e-2], 1e-3):
        weights = {"variance_weight": jnp.asarray(variance), "error_weight": jnp.asarray(error)}
        together = optimize_targets(scores, dataclasses.replace(base, **weights))
        assert together.targets.shape == (3, 60)
        for i, pair in enumerate(zip(np.broadcast_to(variance, 3).tolist(), error)):
            weights = dict(zip(weights, pair))
            alone = optimize_targets(scores, dataclasses.replace(base, **weights))
            np.testing.assert_allclose(together.targets[i], alone.targets, rtol=1e-9)
            for rows, row in zip(together.trace, alone.trace):
                np.testing.assert_allclose(rows[i], row, rtol=1e-9)


def test_a_run_stops_when_its_losses_do_and_records_no_more(scores):
    config = SmaConfig(Pearson(), learning_rate=0.5, steps=5000, record_every=30)
    found = optimize_targets(scores, config)
    records = int(found.steps) // 30
    assert 0 < records < 160
    np.testing.assert_array_equal(np.isnan(found.trace.error), np.arange(167) >= records)
    loose = optimize_targets(scores, dataclasses.replace(config, tolerance=1e9))
    assert loose.steps == 60  # a change needs two records
    config = dataclasses.replace(config, tolerance=0.1)
    first, last, both = (
        optimize_targets(scores, dataclasses.replace(config, error_weight=weight)).steps
        for weight in (1e-6, 1e-2, jnp.array([1e-6, 1e-2]))
    )
    assert first < last
    assert both >= last


def test_each_agreement_lowers_its_own_correlation(scores):
    settings = {"variance_weight": 0.0, "error_weight": 0.0, "learning_rate": 0.1, "steps": 3000}
    for agreement, statistic in [(Spearman(3.0), spearmanr), (Pearson(), pearsonr), (Kendall(), kendalltau)]:
        found = sma_targets(scores, SmaConfig(agreement, **settings))
        assert statistic(found, scores).statistic < -0.9, agreement


def test_differences_beyond_the_strength_count_in_full(scores):
    other = jnp.asarray(np.random.default_rng(3).uniform(0, 100, 60))
    assert Spearman(1e-6)(scores)(other) == pytest.approx(spearmanr(scores, other).statistic, abs=1e-9)
    assert Kendall(1e-6)(scores)(other) == pytest.approx(kendalltau(scores, other).statistic, abs=1e-12)
    assert Kendall(5.0)(scores[:2])(jnp.array([10.0, 12.0])) == pytest.approx(-np.tanh(2 / 5), abs=1e-12)


@pytest.mark.parametrize("by", [Spearman(3.0), Pearson(), Kendall()])
def test_a_wanted_order_is_taken(scores, by):
    wanted = jnp.asarray(np.random.default_rng(4).permutation(60) * 1.0)
    assert abs(spearmanr(scores, wanted).statistic) < 0.3
    config = SmaConfig(Order(wanted, by), 0.0, 0.0, learning_rate=0.1, steps=3000)
    assert spearmanr(sma_targets(scores, config), wanted).statistic > 0.9


@pytest.mark.parametrize("wide", [False, True])
def test_single_precision_stays_single(scores, wide):
    config = SmaConfig(learning_rate=0.1, steps=300)
    expected = sma_targets(scores, config)
    with jax.enable_x64(wide):
        found = optimize_targets(jnp.asarray(np.asarray(scores, np.float32)), config)
    assert {found.targets.dtype, found.trace.error.dtype} == {jnp.dtype("float32")}
    np.testing.assert_allclose(found.targets, expected, atol=0.05)


def test_targets_stay_in_the_range(scores):
    outside = scores.at[:2].set(jnp.array([-20.0, 130.0]))
    for low, high in [(0.0, 100.0), (20.0, 21.5)]:
        found = sma_targets(outside, SmaConfig(low=low, high=high, learning_rate=3.0, steps=100))
        assert (found.min(), found.max()) == (low, high)


@pytest.mark.parametrize(("agreement", "n"), [(Spearman(), 2), (Spearman(), 240), (Pearson(), 2), (Kendall(), 30)])
def test_equal_scores_give_finite_targets(agreement, n):
    equal = jnp.full(n, 40.0)
    for start in (None, equal):
        assert np.all(np.isfinite(sma_targets(equal, SmaConfig(agreement, steps=50), start)))


def test_nan_gradients_are_not_followed(scores):
    expected = sma_targets(scores, SmaConfig(Pearson(), steps=50))
    broken = WithoutSpread(lambda scores: lambda targets: Pearson()(scores)(targets) + jnp.sqrt(0.0 * targets[0]))
    found = sma_targets(scores, SmaConfig(broken, steps=50))
    np.testing.assert_allclose(found[1:], expected[1:], atol=0.01)
    assert abs(found[0] - scores[0]) <= 0.01


@pytest.mark.parametrize("n", [0, 1])
def test_one_score_has_no_ranking(n):
    with pytest.raises(ValueError, match=f"at least two scores, got {n}"):
        sma_targets(jnp.full(n, 50.0))


def test_sweeps_compile_once(scores):
    compiled = ranking._optimize._cache_size()
    for i in range(4):
        weights = {"variance_weight": 1e-4 * i, "error_weight": 1e-3 * i, "learning_rate": 0.01 + i}
        sma_targets(scores, SmaConfig(Kendall(0.5 + i), **weights, tolerance=0.1 * i, seed=i, steps=7))
    assert ranking._optimize._cache_size() == compiled + 1


def test_the_seed_lowers_scores_at_random(scores):
    starts = [sma_targets(scores, SmaConfig(seed=seed, learning_rate=0.0, steps=1)) for seed in (5, 5, 6)]
    np.testing.assert_array_equal(starts[0], starts[1])
    assert np.any(starts[0] != starts[2])
    lowered = np.asarray(scores - starts[0])
    assert np.all(np.isclose(lowered, 0.01) | (lowered == 0))
    assert 15 < np.sum(lowered > 0) < 45
