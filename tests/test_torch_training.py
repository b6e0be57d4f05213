"""Steps of training by the peers: the same losses, penalties and gradients as ours, with their rules for statistics.

In float64: in float32 a ReLU whose input is 0 but for rounding may change the gradient by some percent.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cli import double_precision
from experiments.contenders import ours_training, weights
from experiments.contenders.ours import ResNetScore
from experiments.contenders.workloads import TRAINING
from nriqa_jax.defenses import statistics
from nriqa_jax.defenses.training import Batch, init_state, train_step
from nriqa_jax.models import protocols
from nriqa_jax.models.hyperiqa import hyperiqa
from nriqa_jax.models.resnet import BasicBlock, ResNet
from weights_convert import pieces
from weights_convert.rules import apply_rules, expected_shapes, unflatten

torch = pytest.importorskip("torch")
DEPTHS, WIDTH = (1, 1, 1, 1), 8


@pytest.fixture(scope="module")
def twins():
    """The same narrow ResNet here and in PyTorch, and a batch for it."""
    from experiments.contenders.torch_models import OnImages
    from weights_convert.torch_graphs import resnet

    trunk = partial(resnet.ResNet, resnet.BasicBlock, DEPTHS, WIDTH, expansion=1)
    network = resnet.ResNetScore(trunk)
    drawn = {name: value for name, value in network.state_dict().items() if value.is_floating_point()}
    tensors = weights.draw_all({name: value.shape for name, value in drawn.items()})
    network.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()}, strict=False)
    theirs = OnImages(network, protocols.IMAGENET, lambda outputs: outputs).train().double()
    preprocess = protocols.native("native", protocols.IMAGENET, "")
    ours = ResNetScore(partial(ResNet, BasicBlock, DEPTHS, WIDTH))
    model = dataclasses.replace(hyperiqa(), network=ours, preprocess=preprocess, view_shape=(64, 64, 3))
    rules = (*pieces.resnet("res", "res"), *pieces.layer("fc", "fc"))
    variables = unflatten(apply_rules(rules, tensors, expected_shapes(model)).arrays)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
    return theirs, model, variables, rng.random((4, 64, 64, 3)), rng.normal(0, 1, 4)


@pytest.mark.parametrize("task", TRAINING)
def test_steps_are_those_of_the_peers(twins, task):
    from experiments.contenders import torch_training

    theirs, model, variables, images, labels = twins
    recipe = ours_training.recipe_of(task)
    recipe = dataclasses.replace(recipe, statistics=statistics.published_three_passes)
    with double_precision():
        batch = Batch(jnp.asarray(images), jnp.asarray(labels))
        keys = jax.random.split(jax.random.key(0), 4)
        state = init_state(recipe, jax.tree.map(jnp.asarray, variables))
        _, metrics = jax.jit(partial(train_step, model))(recipe, state, batch, keys)

    theirs.zero_grad()
    method = torch_training.METHODS[TRAINING[task]]
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2)
    loss, total = torch_training.losses(theirs, inputs, torch.from_numpy(labels), method)
    total.backward()
    size = sum((weight.grad**2).sum() for weight in theirs.parameters()).sqrt()
    np.testing.assert_allclose(metrics["loss"], loss.item(), rtol=1e-6)
    np.testing.assert_allclose(metrics["total"], total.item(), rtol=1e-6)
    if task != "train_jvp":  # PyTorch does not differentiate forward mode through the statistics of a batch rightly
        np.testing.assert_allclose(metrics["gradient"], size.item(), rtol=1e-6)
    if task == "train_fd":
        literal = torch_training.losses(theirs, inputs, torch.from_numpy(labels), torch_training.published)[1]
        np.testing.assert_allclose(literal.item(), total.item(), rtol=1e-5)
