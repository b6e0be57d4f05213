"""SSAH equals a plain loop over single images, and treats odd sizes alike."""

from functools import partial

import jax.numpy as jnp
import numpy as np
from plain_torch import agreement, each, torch_share

from experiments.contenders import torch_hidden
from nriqa_jax.attacks import objectives
from nriqa_jax.attacks.ssah import low_frequencies, ssah
from nriqa_jax.parallel import run_attack

J = objectives.per_range(objectives.raise_score(), 0.0, 100.0)


def test_ssah_equals_the_published_loop(tiny_score, images, keys):
    found = run_attack(ssah(J), tiny_score, images, keys).images
    expected = each(partial(torch_hidden.ssah, torch_share(tiny_score)), images)
    assert agreement(found, expected, 2e-6) >= 0.999


def test_low_frequencies_of_odd_sizes_repeat_the_edge(images):
    odd = images[:, :23, :19]
    repeated = jnp.concatenate([odd, odd[:, -1:]], axis=1)
    repeated = jnp.concatenate([repeated, repeated[:, :, -1:]], axis=2)
    np.testing.assert_allclose(low_frequencies(odd), low_frequencies(repeated)[:, :23, :19], rtol=1e-6)
    np.testing.assert_allclose(low_frequencies(images)[:, 3, 5], images[:, 2:4, 4:6].mean((1, 2)), rtol=1e-6)


def test_the_model_sees_odd_images_as_they_are(tiny_score, images, keys):
    shapes = []

    def score(images):
        shapes.append(images.shape[1:])
        return tiny_score(images)

    odd = images[:, :23, :19]
    result = run_attack(ssah(J), score, odd, keys)
    assert set(shapes) == {(23, 19, 3)}
    assert np.all(result.scores > tiny_score(odd))


def test_a_higher_weight_leaves_low_frequencies_alone(tiny_score, images, keys):
    def change(weight):
        result = run_attack(ssah(J, step_size=0.005, weight=weight, steps=30), tiny_score, images, keys)
        return jnp.abs(low_frequencies(result.images - images)).mean((1, 2, 3))

    together = change(jnp.array([0.0, 0.1, 1.0, 10.0, 100.0]))
    assert np.all(change(100.0) < 0.5 * change(0.0))
    np.testing.assert_allclose(together[4], change(100.0)[4], rtol=1e-3)
