"""Perceptual attacks equal plain loops over single images; distances have the published gradients; sweeps are runs."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from plain_torch import agreement, each, torch_score, torch_share

from experiments.contenders import torch_hidden, torch_steps
from nriqa_jax.attacks import objectives, perceptual, update_rules
from nriqa_jax.attacks.perturbations import starting_at
from nriqa_jax.attacks.sweep import sweep
from nriqa_jax.parallel import run_attack

J = objectives.per_range(objectives.raise_score(), 0.0, 100.0)
SIGN = {"descent": update_rules.sign_descent}


def torch_dissimilarity(x, x0):
    return torch_hidden.dissimilarity(x.double(), x0.double())


DISTANCES = {"chebyshev": torch_hidden.chebyshev, "dissimilarity": torch_dissimilarity}


def published(attack, tiny_score, **settings):
    """A peer that changes scores up or down, as a function of the image and the start."""
    score = torch_score(tiny_score)

    def run(x0, start):
        return attack(lambda x: -((score(x) - score(x0)) ** 2), x0, start=start, steps=10, **settings)

    return run


def run_and_compare(attack, loop, tiny_score, images, keys, atol=1e-6):
    start = attack.perturbation.project(attack.perturbation.init(keys, images), images) + images
    attack = dataclasses.replace(attack, perturbation=starting_at(attack.perturbation, start), steps=10)
    found = run_attack(attack, tiny_score, images, keys).images
    assert agreement(found, each(loop, images, start), atol) >= 0.999


def test_the_paper_form_with_the_largest_change_equals_a_plain_loop(tiny_score, images, keys):
    """In multiples of powers of two, sums are exact, and so are ties for the largest change."""
    images = jnp.round(images * 64) / 64
    attack = perceptual.perceptual(
        perceptual.squared_change(tiny_score(images)), perceptual.chebyshev, weight=3.0, step_size=2.0**-10, **SIGN
    )
    noise = attack.perturbation.init(keys, images) * 255 / 256
    attack = dataclasses.replace(attack, perturbation=starting_at(attack.perturbation, images + noise))
    settings = {"weight": 3.0, "step_size": 2.0**-10, "rule": torch_steps.sign_rule}
    plain = published(torch_hidden.perceptual, tiny_score, distance=torch_hidden.chebyshev, **settings)
    run_and_compare(attack, plain, tiny_score, images, keys)


def test_the_paper_form_with_similarity_equals_a_plain_loop(tiny_score, images, keys):
    objective = perceptual.squared_change(tiny_score(images))
    attack = perceptual.perceptual(objective, perceptual.dissimilarity, weight=3.0)
    plain = published(torch_hidden.perceptual, tiny_score, distance=torch_dissimilarity, weight=3.0)
    run_and_compare(attack, plain, tiny_score, images, keys)


def torch_code_with_adams(loss, x0, *, distance, weight, start, steps):
    def new_adam(slope, x):
        return torch_steps.Adam(0.005)(slope / slope.norm(), x)

    return torch_hidden.priced(loss, x0, distance, weight, start, new_adam, steps)


@pytest.mark.parametrize(("peer", "atol"), [(torch_hidden.perceptual_code, 1e-6), (torch_code_with_adams, 1e-3)])
def test_the_code_form_equals_a_plain_loop_with_new_adams(peer, atol, tiny_score, images, keys):
    """Adam that is made anew at every step moves by the sign of the gradient, but where that is as small as 1e-8."""
    objective = perceptual.squared_change(tiny_score(images))
    attack = perceptual.perceptual_code(objective, Partial(perceptual.dissimilarity), weight=3.0)
    plain = published(peer, tiny_score, distance=torch_dissimilarity, weight=3.0)
    run_and_compare(attack, plain, tiny_score, images, keys, atol)


def test_the_benchmark_form_equals_a_plain_loop(tiny_score, images, keys):
    attack = perceptual.perceptual_msu(J, perceptual.dissimilarity)

    def plain(x0, start):
        return torch_hidden.perceptual_msu(torch_share(tiny_score), x0, distance=torch_dissimilarity)

    run_and_compare(attack, plain, tiny_score, images, keys, 5e-6)


@pytest.mark.parametrize("name", DISTANCES)
def test_distances_and_gradients_are_those_of_torch(name, images):
    ours = getattr(perceptual, name)
    noise = jnp.round(jax.random.uniform(jax.random.key(0), images.shape) * 4 - 2) / 64  # many ties
    for attacked in (images + noise, images):
        values = ours(attacked, images)
        grads = jax.grad(lambda x: ours(x, images).sum())(attacked)
        expected = each(lambda x, x0: torch_steps.gradient(lambda x: DISTANCES[name](x, x0), x)[1], attacked, images)
        np.testing.assert_allclose(grads, expected, atol=1e-6)
        np.testing.assert_allclose(values, 0.0 if attacked is images else values, atol=1e-6)


def test_the_start_is_up_to_one_level_off(images, keys):
    for attack, levels in (
        (perceptual.perceptual_linf(J), [-1, 0, 1]),
        (perceptual.perceptual_code(J, perceptual.chebyshev), [-1, 0]),
    ):
        start = attack.perturbation.init(keys, images)
        found, counts = np.unique(np.round(np.asarray(start) * 255, 4), return_counts=True)
        np.testing.assert_array_equal(found, levels)
        assert np.ptp(counts) < 0.05 * start.size
        np.testing.assert_array_equal(attack.perturbation.init(keys[1:2], images[1:2]), start[1:2])


def test_the_published_schedules():
    linf, ssim = perceptual.perceptual_linf(J), perceptual.perceptual_ssim(J)
    assert (linf.steps, ssim.steps) == (200, 200)
    assert perceptual.perceptual_code(J, perceptual.chebyshev).steps == 200
    assert perceptual.perceptual_msu(J, perceptual.chebyshev).steps == 10


@pytest.mark.parametrize("make", [perceptual.perceptual_linf, perceptual.perceptual_ssim])
def test_a_higher_price_buys_less_distance(make, tiny_score, images, keys):
    results = [run_attack(make(J, weight=w, steps=40), tiny_score, images, keys) for w in (0.0, 100.0)]
    distance = perceptual.chebyshev if make is perceptual.perceptual_linf else perceptual.dissimilarity
    cheap, dear = (distance(result.images, images).mean() for result in results)
    assert dear < 0.9 * cheap
    assert np.all(results[0].scores > tiny_score(images))


def test_squared_change_goes_either_way(tiny_score, images, keys):
    clean = tiny_score(images)
    attack = perceptual.perceptual(perceptual.squared_change(clean), perceptual.chebyshev, weight=0.0, steps=30, **SIGN)
    changes = run_attack(attack, tiny_score, images, keys).scores - clean
    assert np.all(np.abs(changes) > 0.5)
    assert len(set(np.sign(changes).tolist())) == 2


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("make", [perceptual.perceptual_linf, perceptual.perceptual_ssim])
def test_a_sweep_is_separate_runs(make, fused, tiny_score, images, keys):
    make, weights = partial(make, J, steps=6), jnp.array([0.0, 1.0, 10.0])
    together = run_attack(sweep(lambda weight: make(weight=weight), weights), tiny_score, images, keys, fused=fused)
    apart = [run_attack(make(weight=weight), tiny_score, images, keys, fused=fused) for weight in weights]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *apart)
    assert together.loss_trace.shape == (3, 6, 5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), together, stacked)
    assert np.any(np.abs(together.images[0] - together.images[2]) > 1e-4)


def test_a_sweep_called_as_a_function_takes_prices_of_images(tiny_score, images, keys):
    weights = jnp.array([[0.0, 1.0, 10.0, 1e3, 1e5]] * 2).at[1].multiply(2.0)
    make = partial(perceptual.perceptual_linf, J, steps=3)
    together = sweep(lambda weight: make(weight=weight), weights)(tiny_score, images, keys)
    alone = make(weight=weights[1])(tiny_score, images, keys)
    np.testing.assert_allclose(together.images[1], alone.images, atol=1e-6)


def test_networks_enter_as_data(tiny_score, images, keys):
    """A distance with weights is an argument of the compiled attack: new weights do not trace it again."""
    traces = []

    def distance(weight, attacked, images):
        traces.append(1)
        return weight * ((attacked - images) ** 2).mean((1, 2, 3))

    counts = []
    for weight in (1.0, 2.0, 3.0):
        attack = perceptual.perceptual_msu(J, Partial(distance, jnp.float32(weight)))
        run_attack(attack, tiny_score, images, keys, fused=True)
        counts.append(len(traces))
    assert counts[0] > 0
    assert counts == counts[:1] * 3
