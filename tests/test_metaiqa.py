"""MetaIQA: the pickled modules that its authors publish, and the names of pyiqa."""

import sys
import types

import numpy as np
import pytest
from checkpoint_files import FORMATS
from derivatives import check_network
from random_weights import randomize, tensors_of, views
from zoo import ZOO

from weights_convert.convert import convert_checkpoint, convert_tensors
from weights_convert.rules import unflatten


@pytest.fixture(scope="module")
def graph():
    return randomize(ZOO["metaiqa"].make_narrow_graph())


def as_in_a_script(torch, graph, script):
    """The network from classes of a training script, with the layers without weights that the published one has."""

    class Module(torch.nn.Module):
        pass

    def instance(name, **children):
        setattr(script, name, type(name, (Module,), {"__module__": script.__name__}))
        module = getattr(script, name)()
        for child, value in children.items():
            module.add_module(child, value)
        return module

    script.Module, Module.__module__, Module.__qualname__ = Module, script.__name__, "Module"
    head = dict(graph.net.named_children())
    head |= {"drop1": torch.nn.Dropout(0.5), "drop2": torch.nn.Dropout(0.5), "sig": torch.nn.Sigmoid()}
    trunk = instance("ResNet", **dict(graph.resnet_layer.named_children()))
    return instance("Net", resnet_layer=trunk, net=instance("BaselineModel1", **head))


@pytest.mark.filterwarnings("ignore")  # that the classes have no source code to store
@pytest.mark.parametrize("form", FORMATS)
def test_a_pickled_module_converts_without_its_classes(graph, tmp_path, monkeypatch, form):
    torch = pytest.importorskip("torch")
    path, script = tmp_path / "TID2013_IQA_Meta_resnet18.pt", types.ModuleType("training_script")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, script.__name__, script)
        module = as_in_a_script(torch, graph, script)
        torch.save(module, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ModuleNotFoundError, match="training_script"):
        torch.load(path, weights_only=False)

    model, names = ZOO["metaiqa"].narrow_model(), tensors_of(graph)
    layout, conversion = convert_checkpoint(path, model)
    _, expected = convert_tensors(names, model)
    assert (layout, conversion.container) == ("original", "")
    assert set(conversion.sources.values()) | set(conversion.dropped) == set(names)
    assert all(name.endswith("num_batches_tracked") for name in conversion.dropped)
    assert set(conversion.arrays) == set(expected.arrays)
    assert all(np.array_equal(array, expected.arrays[path]) for path, array in conversion.arrays.items())


def test_the_names_of_pyiqa_give_the_same_variables(graph):
    names, model = tensors_of(graph), ZOO["metaiqa"].narrow_model()
    renamed = {"head." + name[4:] if name.startswith("net.") else name: array for name, array in names.items()}
    renamed |= {name: np.ones((1, 3, 1, 1), np.float32) for name in ("mean", "std")}
    layout, conversion = convert_tensors({f"params.{name}": array for name, array in renamed.items()}, model)
    _, expected = convert_tensors(names, model)
    assert (layout, conversion.container) == ("pyiqa", "params.")
    assert {"params.mean", "params.std"} < set(conversion.dropped)
    assert all(np.array_equal(array, expected.arrays[path]) for path, array in conversion.arrays.items())


def test_derivatives_equal_torch(graph):
    model = ZOO["metaiqa"].narrow_model()
    variables = unflatten(convert_tensors(tensors_of(graph), model)[1].arrays)
    check_network(model, variables, graph, views(2, (33, 50)))
