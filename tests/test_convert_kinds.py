"""The kinds of files that PyTorch writes, all onto the same variables, and those that are none of them."""

import json

import numpy as np
import pytest
from checkpoint_files import FORMATS
from random_weights import randomize, tensors_of
from zoo import ZOO

from experiments.catalog import MODELS
from nriqa_jax.models.cnniqa import cnniqa
from weights_convert import convert, torch_graphs, verify
from weights_convert.convert import convert_checkpoint
from weights_convert.torch_file import CheckpointError

MODEL = ZOO["dbcnn"].narrow_model()


@pytest.fixture(scope="module")
def graph():
    return randomize(ZOO["dbcnn"].make_narrow_graph())


@pytest.fixture(scope="module")
def expected(graph):
    _, conversion = convert.convert_tensors(tensors_of(graph), MODEL)
    return conversion.arrays


def kinds(torch, graph):
    state, parallel = graph.state_dict(), torch.nn.DataParallel(graph)
    yield "state dict", state
    yield "data parallel", parallel.state_dict()
    yield "container", {"state_dict": parallel.state_dict(), "epoch": 3, "optimizer": {"state": {0: torch.ones(2)}}}
    yield "nested container", {"params": {"model": state}}
    yield "module", graph
    yield "data parallel module", parallel
    yield "container of a module", {"model": graph, "note": "x"}
    yield (
        "half precision",
        {name: value.half() if value.is_floating_point() else value for name, value in state.items()},
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMATS)
def test_every_kind_gives_the_same_variables(graph, expected, tmp_path, form):
    torch = pytest.importorskip("torch")
    for kind, value in kinds(torch, graph):
        path = tmp_path / "a.pth"
        torch.save(value, path, _use_new_zipfile_serialization=form == "zip")
        _, conversion = convert_checkpoint(path, MODEL)
        assert set(conversion.arrays) == set(expected), kind
        tolerance = {"rtol": 1e-3, "atol": 1e-4} if kind == "half precision" else {"rtol": 0}
        for name, array in conversion.arrays.items():
            np.testing.assert_allclose(array, expected[name], err_msg=f"{kind}: {name}", **tolerance)


@pytest.mark.filterwarnings("ignore")
def test_torchscript_archives(graph, expected, tmp_path):
    torch = pytest.importorskip("torch")
    torch.jit.save(torch.jit.trace(graph, torch.zeros(1, 3, 64, 64)), tmp_path / "a.pt")
    _, conversion = convert_checkpoint(tmp_path / "a.pt", MODEL)
    assert all(np.array_equal(array, expected[name]) for name, array in conversion.arrays.items())
    assert set(conversion.arrays) == set(expected)


def test_bare_tensors_are_refused_in_one_sentence(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.ones(16, 512), tmp_path / "ctx.pth")
    with pytest.raises(CheckpointError) as caught:
        convert_checkpoint(tmp_path / "ctx.pth", MODEL)
    assert str(caught.value).endswith("it holds one bare tensor (16, 512), not the weights of dbcnn")
    assert "\n" not in str(caught.value)


def test_conversions_are_compared_with_torch(graph):
    pytest.importorskip("torch")
    tensors = tensors_of(randomize(torch_graphs.build("cnniqa")))
    _, conversion = convert.convert_tensors(tensors, cnniqa())
    found = verify.against_torch(cnniqa(), tensors, conversion)
    assert found.holds()
    assert found.outputs < 1e-5
    conversion.arrays["params/conv1/kernel"] = conversion.arrays["params/conv1/kernel"][::-1]
    assert not verify.against_torch(cnniqa(), tensors, conversion).holds()


def test_every_layout_has_a_graph_or_says_so(tmp_path):
    assert set(torch_graphs.GRAPHS) <= {*MODELS, "resnet18", "resnet50"}
    assert {"cnniqa", "hyperiqa", "dbcnn"} <= set(torch_graphs.GRAPHS)


def test_the_command_verifies_and_scores_a_photograph(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    pytest.importorskip("skimage")
    path, target = tmp_path / "cnniqa.pth", tmp_path / "cnniqa.safetensors"
    torch.save(randomize(torch_graphs.build("cnniqa")).state_dict(), path)
    config = type(
        "Config", (), {"model": "cnniqa", "src": path, "dst": target, "layout": None, "backbone": None, "verify": True}
    )
    assert convert.main(config) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("cnniqa, layout original, 8 tensors, 724,901 numbers")
    assert lines[1].startswith("as in PyTorch: outputs differ by ")
    assert lines[2].startswith("scores (0 to 100, lower is better): a photograph ")
    assert json.loads(target.with_suffix(".conversion.json").read_text())["score_range"] == [0.0, 100.0]


def test_a_conversion_unlike_torch_is_not_written(tmp_path, capsys, monkeypatch):
    torch = pytest.importorskip("torch")
    path, target = tmp_path / "cnniqa.pth", tmp_path / "cnniqa.safetensors"
    torch.save(randomize(torch_graphs.build("cnniqa")).state_dict(), path)
    monkeypatch.setattr(verify, "against_torch", lambda *arguments: verify.Agreement(0.5, 0.1))
    config = type(
        "Config", (), {"model": "cnniqa", "src": path, "dst": target, "layout": None, "backbone": None, "verify": True}
    )
    assert convert.main(config) == 1
    message = capsys.readouterr().err
    assert "the converted network is not that of PyTorch: outputs differ by 5.0e-01" in message
    assert not target.exists()
