"""Update rules for training: learning rates of parts, and weight decay as in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

from nriqa_jax.defenses.optimisers import adam, by_part, clipped

PARAMS = {"conv0": {"kernel": jnp.ones((2, 3))}, "head": {"kernel": jnp.ones(3), "bias": jnp.ones(1)}}


def updated(rule):
    transformation = rule()
    return jax.jit(transformation.update)(PARAMS, transformation.init(PARAMS), PARAMS)[0]


def test_each_part_learns_at_the_rate_of_its_longest_prefix():
    rules = {"": Partial(optax.sgd, 0.1), "head/": Partial(optax.sgd, 1.0), "head/bias": Partial(optax.set_to_zero)}
    found = updated(Partial(by_part, rules))
    np.testing.assert_allclose(found["conv0"]["kernel"], -0.1)
    np.testing.assert_allclose(found["head"]["kernel"], -1.0)
    np.testing.assert_allclose(found["head"]["bias"], 0.0)


@pytest.mark.parametrize(
    ("prefixes", "message"),
    [
        (["head/"], "parameter conv0/kernel has no rule; there are rules for head/"),
        (["", "hat"], "takes the rule of hat"),
    ],
)
def test_rules_that_do_not_fit_are_refused(prefixes, message):
    with pytest.raises(ValueError, match=message):
        updated(Partial(by_part, {prefix: Partial(optax.sgd, 1.0) for prefix in prefixes}))


def test_gradients_are_clipped_by_their_global_norm():
    found = updated(Partial(clipped, Partial(optax.sgd, 1.0), 0.5))
    np.testing.assert_allclose(np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(found))), 0.5, rtol=1e-6)


def test_adam_decays_weights_as_pytorch_does():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=5).astype(np.float32), rng.normal(size=(3, 5)).astype(np.float32)
    weight = torch.nn.Parameter(torch.from_numpy(start.copy()))
    theirs, ours = torch.optim.Adam([weight], lr=0.1, weight_decay=0.5), adam(0.1, 0.5)
    params, state = jnp.asarray(start), ours.init(jnp.asarray(start))
    for gradient in gradients:
        weight.grad = torch.from_numpy(gradient)
        theirs.step()
        updates, state = ours.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, weight.detach(), rtol=1e-5)
