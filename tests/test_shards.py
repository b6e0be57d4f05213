"""Images of a batch that is spread over devices stay where they are: no program moves data between devices.

On CPUs such an exchange can wait for ever for a thread that another program holds; so can a call of LAPACK.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attack_table import ATTACKS
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial
from programs import recorded
from test_contract import briefly

from experiments.catalog import PURIFIERS
from nriqa_jax import parallel
from nriqa_jax.attacks.objectives import raise_score
from nriqa_jax.metrics.niqe import FEATURES, niqe, pristine_of
from nriqa_jax.types import CompositeAttack

HEIGHT, WIDTH = 97, 99  # odd, and enough for NIQE
STEPWISE = [name for name, entry in ATTACKS.items() if entry.gradients and "restarts" not in entry.settings]
IN_THE_HOST = {"jpeg_codec"}  # called back, with all images


@pytest.fixture(scope="module")
def spread():
    """Two images and their keys, one on each device."""
    mesh = Mesh(np.array(jax.local_devices()[:2]), ("images",))
    images = jnp.asarray(np.random.default_rng(0).random((2, HEIGHT, WIDTH, 3)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.device_put((images, keys), NamedSharding(mesh, PartitionSpec("images")))


def score(images):
    return 50.0 + 100.0 * (images[:, 1:] * images[:, :-1]).mean((1, 2, 3))


def exchanges(program):
    return set(re.findall(r"all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|lapack", program))


@pytest.mark.parametrize("name", STEPWISE)
def test_a_step_of_an_attack(name, spread):
    images, keys = spread
    attack = briefly(name, raise_score())
    if isinstance(attack, CompositeAttack):
        pytest.skip("it consists of others")
    score_fn = Partial(score)
    with recorded() as programs:
        state = parallel.start(attack, score_fn, images, keys)
        losses = jnp.zeros((0, 2))
        if attack.steps:
            state, loss = parallel.step(attack, score_fn, images, state)
            losses = jnp.stack([loss])
        parallel.finish(attack, score_fn, images, state, losses)
    assert len(programs) >= 3
    assert not any(map(exchanges, programs))


@pytest.mark.parametrize("name", [name for name in PURIFIERS if name not in IN_THE_HOST])
def test_the_gradient_through_a_purifier(name, spread):
    images, keys = spread
    purifier = PURIFIERS[name](**({"size": 64} if name == "random_crop" else {}))

    def gradient(images, keys):
        return jax.vjp(lambda x: score(purifier(x, keys)), images)[1](jnp.ones(2))

    assert not exchanges(jax.jit(gradient).lower(images, keys).compile().as_text())


def test_the_radius_by_niqe(spread):
    images, _ = spread
    pristine = pristine_of(np.zeros(FEATURES), np.eye(FEATURES))
    assert not exchanges(jax.jit(niqe).lower(images, pristine).compile().as_text())
