"""Whole attacks as tasks of the speed benchmark: which there are, and that contenders agree on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import catalog
from experiments.contenders import ours
from experiments.contenders.workloads import ATTACKS, Workload, levels
from nriqa_jax.parallel import run_attack

MORE = ("madc5", "stadv_adam5", "advcf_adam5")


@pytest.mark.parametrize(
    "task", ["ifgsm10", "perceptual_msu5", *(pytest.param(name, marks=pytest.mark.full) for name in MORE)]
)
def test_tasks_are_the_same_attack_for_all(task):
    """What each family is weighed against has the same unit; which images come out is tested with the attacks."""
    pytest.importorskip("torch")
    from experiments.contenders.torch_eager import OneByOne

    workload = Workload("cnniqa", task, 2, (66, 66))
    peer = OneByOne("cpu", "highest", frozen=True)
    model, variables = ours.build("cnniqa")
    clean, keys = jnp.asarray(levels(workload)), jax.random.split(jax.random.key(0), 2)
    result = run_attack(ours.attack_of(workload), model.score_fn(variables), clean, keys)
    change = np.abs(result.scores - model.apply(variables, clean))  # few long steps can also miss the goal
    assert np.all(change > 0.01)
    np.testing.assert_allclose(peer.prepare(workload)(), result.scores, atol=0.02 * np.min(change))


def test_every_attack_by_iterated_gradients_is_a_task():
    tasks = {name for name, _ in ATTACKS.values()}
    # One step; no gradients; an alias; radii that need a model of natural images; attacks made of others.
    others = {"fgsm", "universal", "facpa", "nes", "square", "square_msu", "pgd", "amifgsm_niqe", "worst_case"}
    assert tasks | others == set(catalog.ATTACKS)
    assert not tasks & others
    for task, (name, steps) in ATTACKS.items():
        attack = ours.attack_of(Workload("cnniqa", task, 2))
        assert (attack.steps, task) == (steps, f"{name}{steps}")
    assert "ifgsm10" in ATTACKS


def test_every_attack_has_a_peer():
    pytest.importorskip("torch")
    from experiments.contenders import torch_attacks

    assert {name for name, _ in ATTACKS.values()} == torch_attacks.ATTACKS.keys()
