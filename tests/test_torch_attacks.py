"""The attacks in PyTorch that speed is measured against: settings as here, and equal results for those in a ball.

The other families are held against theirs in `test_madc`, `test_korhonen`, `test_perceptual`, `test_ssah`,
`test_stadv`, `test_advcf` and `test_transfer`.
"""

import dataclasses
import inspect
from functools import partial

import numpy as np
import pytest
from plain_torch import agreement, each, torch, torch_share

from experiments import catalog
from experiments.contenders import torch_ball, torch_hidden, torch_transfer
from experiments.contenders.torch_attacks import ATTACKS
from nriqa_jax.attacks.objectives import per_range, raise_score
from nriqa_jax.attacks.perturbations import starting_at
from nriqa_jax.parallel import run_attack

J = per_range(raise_score(), 0.0, 100.0)


def defaults(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}


@pytest.mark.parametrize("name", ATTACKS)
def test_settings_have_the_same_defaults(name):
    theirs, ours = defaults(ATTACKS[name]), defaults(catalog.ATTACKS[name])
    shared = theirs.keys() & ours.keys()
    assert "steps" in shared
    assert len(shared) > 1
    assert {key: theirs[key] for key in shared} == {key: ours[key] for key in shared}
    # What else an attack can do here is off by default; what else a peer takes are random draws and how it is made up.
    assert all(ours[key] in (None, 1) for key in ours.keys() - shared - {"descent"})
    assert theirs.keys() - shared <= {"start", "draw", "noise", "tune", "normalise", "distance", "rule"}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ifgsm", {}),
        ("mifgsm", {"decay": 0.8, "step_size": 1 / 255}),
        ("mifgsm_raw", {"decay": 0.8}),
        ("amifgsm", {"epsilon": 8 / 255, "steps": 5}),
        ("pgd_linf", {"epsilon": 8 / 255}),
        ("pgd_l2", {}),
        # A large radius: where scores converge, rounding decides which step was the best.
        ("apgd", {"epsilon": 0.1}),
        ("apgd", {"epsilon": 0.1, "steps": 40}),
    ],
)
def test_attacks_in_a_ball_equal_those_of_torch(name, settings, tiny_score, images, keys):
    attack = catalog.ATTACKS[name](J, **settings)
    start = images + attack.perturbation.init(keys, images)
    attack = dataclasses.replace(attack, perturbation=starting_at(attack.perturbation, start))
    found = run_attack(attack, tiny_score, images, keys).images
    loss, peer = torch_share(tiny_score), ATTACKS[name]
    given = "start" in inspect.signature(peer).parameters
    expected = each(lambda x0, start: peer(loss, x0, **settings, **({"start": start} if given else {})), images, start)
    assert np.abs(found - images).max() > 1 / 255 or name == "pgd_l2"
    assert agreement(found, expected, 2e-6) >= 0.999


def test_sign_attacks_take_batches(tiny_score, images):
    loss, x0 = torch_share(tiny_score), torch.tensor(np.array(images)).permute(0, 3, 1, 2)
    for attack in (torch_ball.ifgsm, torch_ball.mifgsm, torch_ball.mifgsm_raw):
        together = attack(loss, x0).permute(0, 2, 3, 1).numpy()
        assert agreement(together, each(partial(attack, loss), images), 2e-6) >= 0.999


@pytest.mark.parametrize(
    ("attack", "reach"),
    [
        (partial(torch_ball.pgd_linf, step_size=0.0), 4 / 255),
        (torch_ball.apgd, 4 / 255),
        (partial(torch_ball.pgd_l2, step_size=0.0), 1.0),
        (torch_hidden.madc_linf, 6 / 255),
        (torch_hidden.perceptual, 1 / 255),
        (torch_hidden.perceptual_linf, 1 / 255),
        (torch_hidden.perceptual_code, 1 / 255),
        (torch_transfer.difgsm, 0.0),
        (torch_transfer.tifgsm, 0.0),
        (torch_transfer.vmifgsm, 0.0),
    ],
)
def test_what_is_not_given_is_drawn(attack, reach, tiny_score, images):
    """Random starts lie where they should, and random views and noise change the result."""
    torch.manual_seed(0)
    x0 = torch.tensor(np.array(images[:1])).permute(0, 3, 1, 2)
    starts = [attack(torch_share(tiny_score), x0, steps=0 if reach else 4) for _ in range(2)]
    assert not torch.equal(*starts)
    for start in starts if reach else ():
        change = (start - x0).norm() if reach == 1.0 else (start - x0).abs().max()
        assert 0 < change <= reach * (1 + 1e-5)
        assert start.min() >= 0
        assert start.max() <= 1


def test_random_placements_stay_on_the_canvas():
    torch.manual_seed(0)
    found = [torch_transfer.random_placement(100, 60) for _ in range(400)]
    whole = [placement == ((100, 60), (0, 0)) for placement in found]
    assert 0.4 < np.mean(whole) < 0.6
    for (height, width), (top, left) in found:
        assert 90 <= height <= 100
        assert 54 <= width <= 60
        assert 0 <= top <= 100 - height
        assert 0 <= left <= 60 - width
