"""HyperIQA from its three public layouts onto the real network: every tensor placed, and the scores of PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_files import FORMATS

from experiments.contenders import weights
from nriqa_jax.models.hyperiqa import hyperiqa
from weights_convert.convert import convert_file, convert_tensors, load_torch
from weights_convert.rules import flatten, unflatten
from weights_convert.torch_file import CheckpointError

pytestmark = pytest.mark.slow
PARAMETERS, BUFFERS, ENTRIES = 27_375_369, 53_173, 355


def pyiqa_names():
    """Name of each layer behind the trunk in pyiqa, by its original name."""
    names = {f"res.lda{i + 1}_pool.0": f"lda_modules.{i}.0" for i in range(3)}
    names |= {f"res.lda{i + 1}_fc": f"lda_modules.{i}.3" for i in range(3)} | {"res.lda4_fc": "lda_modules.3.2"}
    names |= {f"fc{i + 1}w_conv": f"fc_w_modules.{i}" for i in range(4)} | {"fc5w_fc": "fc_w_modules.4.2"}
    return names | {f"fc{i + 1}b_fc": f"fc_b_modules.{i}.2" for i in range(5)}


@pytest.fixture(scope="module")
def original():
    """A state dict in the authors' layout, scaled so that the score depends on the image."""
    return weights.hyperiqa()


def to_pyiqa(tensors):
    names = pyiqa_names()

    def renamed(name):
        stem, _, leaf = name.rpartition(".")
        return f"{names[stem]}.{leaf}" if stem in names else name.replace("res.", "base_model.", 1)

    return {renamed(name): array for name, array in tensors.items()}


@pytest.fixture(scope="module")
def converted(original):
    layout, conversion = convert_tensors(original, hyperiqa())
    assert layout == "original"
    return conversion


def test_every_tensor_is_placed(original, converted):
    counters = sum(name.endswith("num_batches_tracked") for name in original)
    assert (len(original), counters) == (ENTRIES, 53)
    assert sum(array.size for array in original.values()) == PARAMETERS + BUFFERS
    assert sum(array.size for array in converted.arrays.values()) == PARAMETERS + BUFFERS - counters
    assert set(converted.sources.values()) == set(original) - set(converted.dropped)
    np.testing.assert_array_equal(converted.arrays["params/fc5w_fc/kernel"], original["fc5w_fc.weight"].T)
    var = converted.arrays["batch_stats/res/layer4_0/downsample_1/var"]
    np.testing.assert_array_equal(var, original["res.layer4.0.downsample.1.running_var"])


def test_other_layouts_give_the_same_variables(original, converted):
    pyiqa = {f"params.{name}": array for name, array in to_pyiqa(original).items()}
    layout, conversion = convert_tensors(pyiqa, hyperiqa())
    assert (layout, conversion.container) == ("pyiqa", "params.")
    norm_trained = {f"model.{name}": array for name, array in original.items()}
    norm_trained |= {f"optimizer.state.{i}.exp_avg": np.ones(3) for i in range(5)}
    for arrays in (conversion.arrays, convert_tensors(norm_trained, hyperiqa())[1].arrays):
        assert set(arrays) == set(converted.arrays)
        assert all(np.array_equal(arrays[path], array) for path, array in converted.arrays.items())


def test_problems_are_those_of_the_nearest_layout(original):
    pyiqa = to_pyiqa(original)
    del pyiqa["fc_w_modules.4.2.bias"]
    with pytest.raises(
        CheckpointError, match=r"hyperiqa \(layout pyiqa\): 1 missing\n.*\n +params/fc5w_fc/bias \(14\)$"
    ):
        convert_tensors(pyiqa, hyperiqa())


def torch_score(torch, t, x):
    """HyperIQA written with torch functions only, from the paper and the shapes of the checkpoint."""
    f = torch.nn.functional

    def unit(x, conv, norm, stride=1):
        x = f.conv2d(x, t[f"{conv}.weight"], stride=stride, padding=t[f"{conv}.weight"].shape[-1] // 2)
        stats = (t[f"{norm}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
        return f.batch_norm(x, *stats)

    def linear(x, name):
        return f.linear(x.flatten(1), t[f"{name}.weight"], t[f"{name}.bias"])

    x, parts = f.max_pool2d(unit(x, "res.conv1", "res.bn1", 2).relu(), 3, 2, 1), []
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            name, stride = f"res.layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = unit(x, f"{name}.conv1", f"{name}.bn1").relu()
            y = unit(y, f"{name}.conv2", f"{name}.bn2", stride).relu()
            skip = unit(x, f"{name}.downsample.0", f"{name}.downsample.1", stride) if block == 0 else x
            x = (unit(y, f"{name}.conv3", f"{name}.bn3") + skip).relu()
        pooled = f.avg_pool2d(f.conv2d(x, t[f"res.lda{stage}_pool.0.weight"]), 7) if stage < 4 else f.avg_pool2d(x, 7)
        parts.append(linear(pooled, f"res.lda{stage}_fc"))
    v = torch.cat(parts, 1)
    for index in (0, 2, 4):
        x = f.conv2d(x, t[f"conv1.{index}.weight"], t[f"conv1.{index}.bias"]).relu()
    for index in range(1, 6):
        bias = linear(x.mean((2, 3)), f"fc{index}b_fc")
        if index < 5:
            weight = f.conv2d(x, t[f"fc{index}w_conv.weight"], t[f"fc{index}w_conv.bias"], padding=1)
        else:
            weight = linear(x.mean((2, 3)), "fc5w_fc")
        v = (weight.reshape(len(v), bias.shape[1], -1) @ v[..., None])[..., 0] + bias
        v = v.sigmoid() if index < 5 else v
    return v[:, 0]


@pytest.mark.parametrize("form", FORMATS)
def test_scores_equal_torch(original, converted, tmp_path, form):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(array) for name, array in original.items()}
    path, target = tmp_path / "hyperiqa.pth", tmp_path / "hyperiqa.safetensors"
    torch.save(tensors, path, _use_new_zipfile_serialization=form == "zip")
    variables = load_torch(path, hyperiqa())
    assert all(np.array_equal(array, converted.arrays[name]) for name, array in flatten(variables).items())
    if form == "legacy":
        return
    assert convert_file(path, target, hyperiqa())["total_elements"] == PARAMETERS + BUFFERS - 53


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize(
    ("dtype", "score_tolerance", "gradient_tolerance"),
    # In float32 a ReLU or a maximum that is decided otherwise by rounding changes the gradient behind it; float64 shows
    # that nothing else does.
    [("float64", 1e-9, 1e-7), ("float32", 1e-4, 1e-2)],
)
def test_scores_and_gradients_equal_torch(original, converted, batch, dtype, score_tolerance, gradient_tolerance):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(x.astype(dtype)) for name, x in original.items()}
    images = np.random.default_rng(batch).normal(0, 1, (batch, 224, 224, 3)).astype(dtype)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).requires_grad_()
    theirs = torch_score(torch, tensors, x)
    theirs.sum().backward()
    with jax.enable_x64(dtype == "float64"):
        variables = jax.tree.map(lambda x: jnp.asarray(x, dtype), unflatten(converted.arrays))
        total = jax.jit(lambda v, x: (lambda scores: (scores.sum(), scores))(hyperiqa().network.apply(v, x)))
        (_, ours), gradient = jax.value_and_grad(total, argnums=1, has_aux=True)(variables, jnp.asarray(images))
    np.testing.assert_allclose(ours, theirs.detach(), rtol=score_tolerance)
    expected = x.grad.permute(0, 2, 3, 1).numpy()
    error, size = (np.sqrt(np.sum(v**2, axis=(1, 2, 3))) for v in (np.asarray(gradient) - expected, expected))
    assert np.all(error < gradient_tolerance * size)
    assert batch == 1 or np.ptp(ours) > 1e-3
