"""Training losses equal transcriptions of their formulas, and have finite gradients where scores are all equal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import huber
from scipy.stats import pearsonr, wasserstein_distance

from nriqa_jax.defenses import losses

SCORES, LABELS = jnp.asarray(np.random.default_rng(0).normal(50, 10, (2, 7)), jnp.float32)


def norm_in_norm(scores, labels, p, q):
    """Equation 9 of the paper, with the constant of its appendix."""
    s, y = (v - v.mean() for v in (np.asarray(scores, np.float64), np.asarray(labels, np.float64)))
    s, y = (v / (np.abs(v) ** q).sum() ** (1 / q) for v in (s, y))
    n = len(scores)
    return (np.abs(s - y) ** p).sum() / (2**p * n ** (1 - p / q) if p < q else 2**p)


def ranking(scores, labels, margin):
    pairs = [(i, j) for i in range(len(labels)) for j in range(len(labels)) if labels[i] > labels[j]]
    return np.mean([max(0, margin - (scores[i] - scores[j])) for i, j in pairs])


@pytest.mark.parametrize(
    ("loss", "settings", "expected"),
    [
        (losses.l1, {}, np.abs(SCORES - LABELS).mean()),
        (losses.l2, {}, ((SCORES - LABELS) ** 2).mean()),
        (losses.huber, {"delta": 5.0}, huber(5.0, SCORES - LABELS).mean()),
        *(
            (losses.norm_in_norm, {"p": p, "q": q}, norm_in_norm(SCORES, LABELS, p, q))
            for p, q in ((1, 2), (2, 2), (1, 1), (2, 1), (2, 3))
        ),
        (losses.norm_in_norm, {"p": 2, "q": 2}, (1 - pearsonr(SCORES, LABELS)[0]) / 2),
        (losses.pairwise_ranking, {"margin": 6.0}, ranking(SCORES, LABELS, 6.0)),
        (losses.pairwise_ranking, {}, ranking(SCORES, LABELS, 0.0)),
    ],
)
def test_losses_of_scores(loss, settings, expected):
    # Settings are arguments of the compiled program.
    np.testing.assert_allclose(jax.jit(loss)(SCORES, LABELS, **settings), expected, rtol=1e-5)


def test_earth_movers_distance_of_quality_levels():
    predicted, observed = jnp.asarray(np.random.default_rng(1).dirichlet(np.ones(10), (2, 4)), jnp.float32)
    gap = np.cumsum(predicted, 1) - np.cumsum(observed, 1)
    np.testing.assert_allclose(losses.emd(predicted, observed), np.sqrt((gap**2).mean(1)).mean(), rtol=1e-5)
    levels = np.arange(10)
    expected = [wasserstein_distance(levels, levels, p, o) / 10 for p, o in zip(predicted, observed)]
    np.testing.assert_allclose(losses.emd(predicted, observed, r=1.0), np.mean(expected), rtol=1e-5)
    assert losses.emd(predicted, predicted) == 0


def test_norm_in_norm_is_blind_to_scale_and_shift():
    loss = losses.norm_in_norm(SCORES, LABELS)
    np.testing.assert_allclose(losses.norm_in_norm(0.1 * SCORES + 3, LABELS), loss, rtol=1e-4)
    assert 0 < loss < 1


def test_gradients_are_finite_where_roots_and_norms_have_none():
    equal = jnp.full(7, 50.0)
    for loss in (losses.l1, losses.l2, losses.huber, losses.norm_in_norm, losses.pairwise_ranking):
        for scores, labels in ((equal, LABELS), (SCORES, equal), (equal, equal)):
            assert np.all(np.isfinite(jax.grad(loss)(scores, labels))), loss
    same = jnp.full((3, 5), 0.2)
    assert np.all(np.isfinite(jax.grad(losses.emd)(same, same)))
