"""HyperIQA from its three public layouts onto a narrow network: every tensor placed, and the unit of the scores."""

import numpy as np
import pytest
from checkpoint_files import FORMATS
from random_weights import randomize, tensors_of
from zoo import ZOO

from experiments.weights import load
from weights_convert.convert import convert_file, convert_tensors, load_torch
from weights_convert.rules import flatten
from weights_convert.torch_file import CheckpointError

MODEL = ZOO["hyperiqa"].narrow_model()


def pyiqa_names():
    """Name of each layer behind the trunk in pyiqa, by its original name."""
    names = {f"res.lda{i + 1}_pool.0": f"lda_modules.{i}.0" for i in range(3)}
    names |= {f"res.lda{i + 1}_fc": f"lda_modules.{i}.3" for i in range(3)} | {"res.lda4_fc": "lda_modules.3.2"}
    names |= {f"fc{i + 1}w_conv": f"fc_w_modules.{i}" for i in range(4)} | {"fc5w_fc": "fc_w_modules.4.2"}
    return names | {f"fc{i + 1}b_fc": f"fc_b_modules.{i}.2" for i in range(5)}


@pytest.fixture(scope="module")
def original():
    """A state dict in the authors' layout."""
    pytest.importorskip("torch")
    return tensors_of(randomize(ZOO["hyperiqa"].make_narrow_graph()))


def to_pyiqa(tensors):
    names = pyiqa_names()

    def renamed(name):
        stem, _, leaf = name.rpartition(".")
        return f"{names[stem]}.{leaf}" if stem in names else name.replace("res.", "base_model.", 1)

    return {renamed(name): array for name, array in tensors.items()}


@pytest.fixture(scope="module")
def converted(original):
    layout, conversion = convert_tensors(original, MODEL)
    assert layout == "original"
    return conversion


def test_every_tensor_is_placed(original, converted):
    counters = sum(name.endswith("num_batches_tracked") for name in original)
    assert (len(original), counters) == (355, 53)
    assert set(converted.sources.values()) == set(original) - set(converted.dropped)
    np.testing.assert_array_equal(converted.arrays["params/fc5w_fc/kernel"], original["fc5w_fc.weight"].T)
    var = converted.arrays["batch_stats/res/layer4_0/downsample_1/var"]
    np.testing.assert_array_equal(var, original["res.layer4.0.downsample.1.running_var"])


def test_other_layouts_give_the_same_variables(original, converted):
    pyiqa = {f"params.{name}": array for name, array in to_pyiqa(original).items()}
    layout, conversion = convert_tensors(pyiqa, MODEL)
    assert (layout, conversion.container) == ("pyiqa", "params.")
    norm_trained = {f"model.{name}": array for name, array in original.items()}
    norm_trained |= {f"optimizer.state.{i}.exp_avg": np.ones(3) for i in range(5)}
    for arrays in (conversion.arrays, convert_tensors(norm_trained, MODEL)[1].arrays):
        assert set(arrays) == set(converted.arrays)
        assert all(np.array_equal(arrays[path], array) for path, array in converted.arrays.items())


def test_problems_are_those_of_the_nearest_layout(original):
    pyiqa = to_pyiqa(original)
    del pyiqa["fc_w_modules.4.2.bias"]
    with pytest.raises(
        CheckpointError, match=r"hyperiqa \(layout pyiqa\): 1 missing\n.*\n +params/fc5w_fc/bias \(7\)$"
    ):
        convert_tensors(pyiqa, MODEL)


@pytest.mark.parametrize("form", FORMATS)
def test_files_of_torch(original, converted, tmp_path, form):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(array) for name, array in original.items()}
    path, target = tmp_path / "hyperiqa.pth", tmp_path / "hyperiqa.safetensors"
    torch.save(tensors, path, _use_new_zipfile_serialization=form == "zip")
    variables = load_torch(path, MODEL)
    assert all(np.array_equal(array, converted.arrays[name]) for name, array in flatten(variables).items())
    assert convert_file(path, target, MODEL)["total_elements"] == sum(x.size for x in converted.arrays.values())


def test_the_score_range_follows_the_layout(original, tmp_path):
    torch = pytest.importorskip("torch")
    for layout, tensors, score_range in (("original", original, 100.0), ("pyiqa", to_pyiqa(original), 1.0)):
        path, target = tmp_path / f"{layout}.pth", tmp_path / f"{layout}.safetensors"
        torch.save({"params": {name: torch.from_numpy(array) for name, array in tensors.items()}}, path)
        assert convert_file(path, target, MODEL)["score_range"] == [0.0, score_range]
        for file in (path, target):
            assert load(str(file), MODEL, 0).model.score_range == (0.0, score_range)
