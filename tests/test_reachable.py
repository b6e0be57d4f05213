"""Targets within reach against all orders of few images, and against simpler ways to move many."""

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from nriqa_jax.attacks.reachable import Reach, reach, targets_within

GAP = 1e-3  # the default


def random_reach(seed, n, width=25.0, *, rounded=False):
    rng = np.random.default_rng(seed)
    scores = rng.uniform(20, 80, n)
    scores = np.round(scores, -1) if rounded else scores
    return reach(scores, scores - rng.uniform(0, width, n), scores + rng.uniform(0, width, n))


def wide_reach(scores):
    return reach(scores, np.full(len(scores), -5.0), np.full(len(scores), 105.0))


def srocc(targets, images):
    return spearmanr(targets, images.scores).statistic


def change(targets, images):
    return np.abs(targets - images.scores).mean(axis=-1)


def largest_change(images):
    return np.maximum(images.high - images.scores, images.scores - images.low).mean()


def lowest_srocc(images):
    """Of all orders that the intervals allow, with a gap between neighbours."""
    orders = np.array(list(permutations(range(len(images.scores)))))
    gaps = GAP * np.arange(len(images.scores))
    lowest_values = np.maximum.accumulate(images.low[orders] - gaps, axis=1) + gaps
    feasible = orders[np.all(lowest_values <= images.high[orders], axis=1)]
    return min(np.corrcoef(rankdata(images.scores), np.argsort(feasible, axis=1))[0, 1:])


def simple_ways(images):
    """The reversed scores as far as they are in reach, and each threshold between images that rise and fall."""
    place = rankdata(images.scores, "ordinal") - 1
    yield np.clip(np.sort(images.scores)[::-1][place], images.low, images.high)
    for cut in range(len(place) + 1):
        yield np.where(place >= cut, images.low, images.high)


def test_few_images_get_the_lowest_srocc_of_all_orders():
    reached = 0
    for seed in range(40):
        images = random_reach(seed, 6)
        found = srocc(targets_within(images)[0], images)
        best = lowest_srocc(images)
        assert found >= best - 1e-9, seed
        assert found <= min(srocc(targets, images) for targets in simple_ways(images)) + 1e-9, seed
        reached += found <= best + 1e-9
    assert reached >= 36


def test_few_images_with_equal_scores_get_the_lowest_srocc_of_nearly_all_orders():
    reached = 0
    for seed in range(40):
        images = random_reach(seed, 6, 40.0, rounded=True)
        reached += srocc(targets_within(images)[0], images) <= lowest_srocc(images) + 1e-9
    assert reached >= 36


@pytest.mark.parametrize("seed", range(3))
def test_many_images_get_a_lower_srocc_than_by_a_threshold(seed):
    images = random_reach(seed, 120, 15.0)
    found = srocc(targets_within(images)[0], images)
    assert found < min(srocc(targets, images) for targets in simple_ways(images)) - 0.02


@pytest.mark.parametrize("gap", [GAP, 0.5])
def test_targets_stay_in_reach(gap):
    for seed in range(6):
        images = random_reach(seed, [2, 7, 40][seed % 3])
        targets = targets_within(images, (0.0, 0.3, 10.0), gap=gap)
        assert targets.shape == (3, len(images.scores))
        assert np.all(targets >= images.low)
        assert np.all(targets <= images.high)


@pytest.mark.parametrize("gap", [GAP, 0.3])
@pytest.mark.parametrize("n", [5, 50])
def test_wide_intervals_give_the_exact_reversal(gap, n):
    images = wide_reach(np.random.default_rng(n).permutation(n) * 1.5 + 10)
    assert srocc(targets_within(images, gap=gap)[0], images) == pytest.approx(-1, abs=1e-12)


def test_neighbours_keep_the_gap_where_intervals_are_wide():
    images = wide_reach(np.random.default_rng(0).permutation(40) * 2.0 + 10)
    targets = targets_within(images, gap=0.5)[0]
    assert np.diff(np.sort(targets)).min() >= 0.5 - 1e-9


def test_no_reach_gives_the_scores():
    scores = np.array([3.0, 1.0, 2.0, 2.0, 9.0])
    for gap in (GAP, 0.5):
        np.testing.assert_array_equal(targets_within(reach(scores, scores, scores), (0.0, 1.0), gap=gap), [scores] * 2)


@pytest.mark.parametrize("seed", range(4))
def test_a_larger_weight_gives_a_larger_change(seed):
    images = random_reach(seed, 40, [5.0, 15.0][seed % 2])
    weights = (0.0, 0.05, 0.2, 1.0, 5.0, 1000.0)
    targets = targets_within(images, weights)
    shares = change(targets, images) / largest_change(images)
    assert np.all(np.diff(shares) > -0.01)
    assert shares[0] < 0.95
    assert shares[-1] == pytest.approx(1, abs=1e-3)
    sroccs = np.array([srocc(row, images) for row in targets])
    assert sroccs[0] < sroccs[-1] - 1e-3
    for weight, own, share in zip(weights, sroccs, shares):  # none suits another weight better
        assert own - weight * share <= np.min(sroccs - weight * shares) + 0.003 * (1 + weight)


def test_a_large_weight_moves_each_score_to_its_farther_end():
    images = random_reach(5, 40)
    farther = np.where(images.high - images.scores > images.scores - images.low, images.high, images.low)
    np.testing.assert_allclose(targets_within(images, (1e6,))[0], farther, atol=5 * GAP)


def test_an_order_leaves_scores_as_far_as_it_allows():
    images = Reach(np.array([40.0, 60.0]), np.array([30.0, 45.0]), np.array([50.0, 65.0]))
    np.testing.assert_allclose(targets_within(images, gap=1.0)[0], [50.0, 45.0])
    apart = Reach(np.array([40.0, 60.0]), np.array([38.0, 57.0]), np.array([43.0, 61.0]))
    np.testing.assert_allclose(targets_within(apart, gap=1.0)[0], [43.0, 57.0])


def test_an_image_that_keeps_its_place_moves_too():
    images = wide_reach(np.array([10.0, 50.0, 90.0]))
    np.testing.assert_allclose(targets_within(images, gap=1.0)[0], [105.0, -4.0, -5.0])


def test_weights_keep_their_order_and_a_seed_its_targets():
    images = random_reach(0, 40, 10.0)
    rising, falling = targets_within(images, (0.0, 0.5, 5.0)), targets_within(images, (5.0, 0.5, 0.0))
    np.testing.assert_array_equal(rising, falling[::-1])
    np.testing.assert_array_equal(rising, targets_within(images, (0.0, 0.5, 5.0)))
    assert any(np.any(rising != targets_within(images, (0.0, 0.5, 5.0), seed=seed)) for seed in (1, 2, 3))


def test_ties_of_scores_change_places_with_others():
    scores = np.array([20.0, 30.0, 30.0, 30.0, 40.0, 40.0, 50.0])
    targets = targets_within(wide_reach(scores), gap=0.1)[0]
    for one, other in permutations(range(7), 2):
        assert scores[one] <= scores[other] or targets[one] < targets[other]
    equal = reach(np.full(5, 50.0), np.full(5, 45.0), np.full(5, 55.0))
    assert np.all(np.isfinite(targets_within(equal, (0.0, 1.0), gap=0.1)))


def test_reach_holds_both_attacks_and_the_clean_score():
    found = reach([50, 50, 50], [40, 55, 50], [60, 52, 49])
    np.testing.assert_array_equal(found.scores, [50, 50, 50])
    np.testing.assert_array_equal(found.low, [40, 50, 49])
    np.testing.assert_array_equal(found.high, [60, 55, 50])


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (([1, 2], [1, 2], [1, 2, 3]), "one length"),
        (([[1, 2]], [[1, 2]], [[1, 2]]), "one length"),
        (([1, 2], [1, np.nan], [1, 2]), "NaN or infinite"),
        (([1, 2], [1, 2], [1, np.inf]), "NaN or infinite"),
    ],
)
def test_bad_scores_are_refused(vectors, message):
    with pytest.raises(ValueError, match=message):
        reach(*vectors)


@pytest.mark.parametrize(
    ("n", "settings", "message"),
    [
        (1, {}, "at least two scores, got 1"),
        (0, {}, "at least two scores, got 0"),
        (5, {"change_weights": (0.0, -1.0)}, "weights >= 0"),
        (5, {"gap": 0.0}, "a gap > 0"),
        (5, {"gap": np.nan}, "a gap > 0"),
    ],
)
def test_bad_settings_are_refused(n, settings, message):
    with pytest.raises(ValueError, match=message):
        targets_within(random_reach(0, n), **settings)
