"""Functions of a model in programs without the model: the same results, and each compiles once for all of the other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments import compilation
from nriqa_jax import asking
from nriqa_jax.attacks import black_box, objectives, presets
from nriqa_jax.defenses import purifiers
from nriqa_jax.defenses.adaptive import defended
from nriqa_jax.parallel import run_attack

GOAL = objectives.raise_score()


def twice(score_fn, images, shift):
    """Asks for scores, and then for a gradient at a place that depends on them."""
    scores = score_fn(images)
    moved = images + shift * scores[:, None, None, None]
    return {"scores": scores, "slopes": jax.grad(lambda x: jnp.sum(score_fn(x) ** 2))(moved)}


def in_a_loop(score_fn, images):
    return jax.lax.map(lambda shift: score_fn(images + shift), jnp.array([0.0, 0.1]))


def curvature(score_fn, images):
    def slope(x):
        return jnp.sum(jax.grad(lambda x: jnp.sum(score_fn(x)))(x) ** 2)

    return jax.grad(slope)(images)


def vectorised(score_fn, images, shifts):
    def shifted(shift):
        return jax.value_and_grad(lambda x: jnp.sum(score_fn(x)))(images + shift)

    return jax.vmap(shifted)(shifts)


def forward(score_fn, images):
    return jax.jvp(score_fn, (images,), (jnp.ones_like(images),))


def silent(score_fn, images):
    del score_fn
    return 2 * images


@pytest.mark.parametrize(
    ("fn", "arguments"),
    [
        (twice, (0.1,)),
        (in_a_loop, ()),
        (curvature, ()),
        (vectorised, (np.float32([0.0, 0.1, 0.2]),)),
        (forward, ()),
        (silent, ()),
    ],
)
def test_functions_return_what_they_do_in_one_program(fn, arguments, tiny_score, images):
    apart, whole = asking.run(fn, tiny_score, images, *arguments), jax.jit(fn)(tiny_score, images, *arguments)
    assert jax.tree.structure(apart) == jax.tree.structure(whole)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), apart, whole)


@pytest.mark.parametrize("restarts", [1, 2])
def test_draws_are_those_of_one_program(restarts, tiny_score, images, keys):
    score_fn = defended(tiny_score, purifiers.RandomNoise(0.1), jax.random.key(1))
    attack = presets.pgd_l2(GOAL, epsilon=0.5, steps=2, restarts=restarts)
    apart, whole = (run_attack(attack, score_fn, images, keys, fused=fused) for fused in (False, True))
    np.testing.assert_allclose(apart.loss_trace, whole.loss_trace, rtol=1e-5)
    np.testing.assert_allclose(apart.scores, whole.scores, rtol=1e-5)


def test_a_model_compiles_once_for_all_attacks_and_an_attack_for_all_models(tiny_score, images, keys):
    images, keys = images[:3], keys[:3]  # a size that no other test has compiled
    blurred = defended(tiny_score, purifiers.GaussianBlur())
    attacks = [presets.ifgsm(GOAL), presets.mifgsm(GOAL), presets.pgd_l2(GOAL), black_box.square(GOAL, queries=4)]
    counts = []
    for score_fn in (tiny_score, blurred):
        for attack in attacks:
            with compilation.watch() as found:
                run_attack(attack, score_fn, images, keys, fused=False)
            counts.append((found.programs["jit(_answer)"], found.programs["jit(_advance)"] > 0))
    assert counts[:4] == [(2, True), (0, True), (0, True), (0, True)]
    assert counts[4:] == [(2, False), (0, False), (0, False), (0, False)]


def test_images_on_several_devices(tiny_score, images, keys):
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("images",)), PartitionSpec("images"))
    spread = jax.device_put(images[:4], sharding)
    found = asking.run(twice, tiny_score, spread, 0.1)["slopes"]
    assert found.sharding.is_equivalent_to(sharding, found.ndim)
    np.testing.assert_allclose(found, asking.run(twice, tiny_score, images[:4], 0.1)["slopes"], atol=1e-6)


def test_scores_of_another_kind_become_those_of_the_images(images):
    found = asking.run(twice, jax.tree_util.Partial(lambda x: x.mean((1, 2, 3)).astype(jnp.bfloat16)), images, 0.1)
    assert found["scores"].dtype == jnp.float32
