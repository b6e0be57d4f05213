"""Backbones that a training starts from: which part of a network they are, and their files."""

import re

import jax
import numpy as np
import pytest
from zoo import ZOO

from experiments import catalog
from experiments.catalog import BACKBONES
from experiments.errors import UserError
from experiments.training.backbones import with_backbone
from weights_convert import convert
from weights_convert.rules import flatten


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_are_parts_of_their_networks(name):
    """Every prefix fits some parameters, and all of them leave a head."""
    model = ZOO[name].narrow_model() if name in ZOO and ZOO[name].narrow else catalog.MODELS[name]()
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree.leaves_with_path(jax.eval_shape(model.init, jax.random.key(0))["params"])
    ]
    for prefix in BACKBONES[name].parts:
        assert any(path.startswith(prefix) for path in paths), prefix
    assert not all(path.startswith(BACKBONES[name].parts) for path in paths)


def in_sequence(key):
    """torchvision's name of a tensor of LinearityIQA, which numbers the children of its ResNet."""
    children = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    return re.sub(r"^(\d)", lambda number: children[int(number[1])], key)


# What the names of a backbone start with in a checkpoint of the model, what else does so, and torchvision's names.
RELEASED = {
    "hyperiqa": ("res.", "res.lda", str),
    "dbcnn": ("features1.", "-", "features.{}".format),
    "linearity_resnet18": ("features.", "-", in_sequence),
    "maniqa": ("vit.", "-", str),
    "metaiqa": ("resnet_layer.", "-", str),
    "spaq_bl": ("backbone.", "backbone.fc", str),
}


@pytest.mark.parametrize("name", RELEASED)
def test_backbones_are_filled_from_their_own_files(name, tmp_path):
    """A backbone alone, under the names of torchvision and timm, is read as that in a checkpoint of the model is."""
    torch = pytest.importorskip("torch")
    prefix, apart, rename = RELEASED[name]
    state = ZOO[name].make_narrow_graph().state_dict()
    own = {key.removeprefix(prefix): key for key in state if key.startswith(prefix) and not key.startswith(apart)}
    classifier = {} if name in ("metaiqa", "maniqa") else {"fc.weight": torch.zeros(7, 3)}
    alone = {rename(short): state[key] for short, key in own.items()} | classifier
    torch.save({"state_dict": alone}, tmp_path / "backbone.pth")
    torch.save(state, tmp_path / "all.pth")
    model = ZOO[name].narrow_model()
    other = jax.tree.map(lambda x: np.full(x.shape, 7, x.dtype), jax.eval_shape(model.init, jax.random.key(0)))
    filled = flatten(with_backbone(model, other, tmp_path / "backbone.pth", BACKBONES[name]).variables)
    expected, before = flatten(convert.load_torch(tmp_path / "all.pth", model)), flatten(other)
    for path, array in filled.items():
        inside = path.partition("/")[2].startswith(BACKBONES[name].filled)
        np.testing.assert_array_equal(array, (expected if inside else before)[path], err_msg=path)
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "wrong.pth")
    with pytest.raises(UserError, match="do not fit the backbone") as caught:
        with_backbone(model, other, tmp_path / "wrong.pth", BACKBONES[name])
    assert "\n" not in str(caught.value)
