"""Conversion: complete or refused with the whole list, equal bytes for equal weights, and equal scores to PyTorch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_files import cnniqa_tensors, state_dict, tensor, write_legacy, write_zip

from nriqa_jax.models.cnniqa import cnniqa
from nriqa_jax.models.tinyiqa import tinyiqa
from weights_convert import store
from weights_convert.convert import convert_file, convert_tensors, load_torch, report_path
from weights_convert.pieces import layer, norm, to_kernel
from weights_convert.rules import Rule, apply_rules, flatten, unflatten
from weights_convert.torch_file import CheckpointError, read_tensors

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT.parent / "shared" / "weights"
TABLE = (*layer(r"net\.(conv\d)", r"\1"), *norm(r"net\.(bn\d)", r"\1"))


def spec(*shape):
    return jax.ShapeDtypeStruct(shape, np.float32)


EXPECTED = {
    "params/conv1/kernel": spec(3, 3, 2, 4),
    "params/conv1/bias": spec(4),
    "params/bn1/scale": spec(4),
    "params/bn1/bias": spec(4),
    "batch_stats/bn1/mean": spec(4),
    "batch_stats/bn1/var": spec(4),
}


def toy():
    draw = np.random.default_rng(0)
    shapes = {"conv1.weight": (4, 2, 3, 3), "conv1.bias": (4,)}
    shapes |= {f"bn1.{leaf}": (4,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    return {f"net.{name}": draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def real_checkpoint(name="cnniqa_live.pth"):
    if not (WEIGHTS / name).exists():
        pytest.skip(f"{WEIGHTS / name} is absent")
    return WEIGHTS / name


def test_layouts_and_names():
    tensors = toy()
    arrays = apply_rules(TABLE, tensors, EXPECTED).arrays
    kernel = arrays["params/conv1/kernel"]
    for o, i, y, x in np.ndindex(4, 2, 3, 3):
        assert kernel[y, x, i, o] == tensors["net.conv1.weight"][o, i, y, x]
    np.testing.assert_array_equal(arrays["batch_stats/bn1/var"], tensors["net.bn1.running_var"])
    np.testing.assert_array_equal(to_kernel(np.arange(6).reshape(2, 3)), [[0, 3], [1, 4], [2, 5]])
    assert all(array.flags.c_contiguous for array in arrays.values())


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "state_dict.module.", "params.", "model.state_dict."])
def test_containers_and_counters(prefix):
    tensors = {prefix + name: array for name, array in toy().items()}
    tensors[f"{prefix}net.bn1.num_batches_tracked"] = np.array(7)
    if prefix.strip("module."):
        tensors |= {"optimizer.state.0.exp_avg": np.ones(4), "epoch": np.array(3)}
    conversion = apply_rules(TABLE, tensors, EXPECTED)
    assert set(conversion.arrays) == set(EXPECTED)
    assert set(conversion.dropped) == set(tensors) - {prefix + name for name in toy()}
    assert conversion.sources["params/conv1/bias"] == f"{prefix}net.conv1.bias"


def test_data_parallel_inside_a_network():
    tensors = {name.replace("net.", "net.module."): array for name, array in toy().items()}
    assert set(apply_rules(TABLE, tensors, EXPECTED).arrays) == set(EXPECTED)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions_become_the_models(dtype):
    import ml_dtypes

    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    tensors = {name: array.astype(kind) for name, array in toy().items()}
    arrays = apply_rules(TABLE, tensors, EXPECTED).arrays
    np.testing.assert_array_equal(arrays["params/bn1/scale"], tensors["net.bn1.weight"].astype(np.float32))
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}


def test_one_message_lists_every_kind_of_problem():
    tensors = toy()
    del tensors["net.bn1.bias"]
    tensors["net.fc.weight"] = np.ones((2, 3), np.float32)
    tensors["net.conv9.bias"] = np.ones(5, np.float32)
    tensors["net.conv1.weight"] = np.ones((4, 2, 5, 5), np.float32)
    tensors["net.bn1.weight"] = np.array([1, np.nan, np.inf, 1], np.float32)
    tensors["net.module.bn1.running_var"] = tensors["net.bn1.running_var"]
    tensors["net.bn1.running_mean"] = np.arange(4)
    table = (*TABLE, Rule(r"net\.conv1\.bias", "params/other"))
    with pytest.raises(CheckpointError) as caught:
        apply_rules(table, tensors, EXPECTED)
    message = str(caught.value)
    assert message.splitlines()[0] == (
        "the tensors do not fit the model: 1 missing, 3 unexpected, 2 wrong shape, 2 ambiguous, 1 not finite"
    )
    for line in (
        "params/bn1/bias (4)",
        "net.fc.weight (2, 3)",
        "net.conv9.bias -> params/conv9/bias (5)",
        "net.conv1.weight -> params/conv1/kernel (5, 5, 2, 4) float32, the model has (3, 3, 2, 4) float32",
        "net.bn1.running_mean -> batch_stats/bn1/mean (4) int64, the model has (4) float32",
        "net.conv1.bias (4) fits several rules: params/conv1/bias, params/other",
        "batch_stats/bn1/var is given by net.bn1.running_var (4) and net.module.bn1.running_var (4)",
        "net.bn1.weight -> params/bn1/scale (4) has 2 NaN or infinite numbers",
    ):
        assert f"    {line}" in message.splitlines()


def test_overflow_is_reported():
    tensors = toy() | {"net.bn1.weight": np.full(4, 1e300)}
    with pytest.raises(CheckpointError, match="4 NaN or infinite"):
        apply_rules(TABLE, tensors, EXPECTED)


def test_long_lists_are_cut():
    with pytest.raises(CheckpointError) as caught:
        apply_rules(TABLE, toy() | {f"extra{i}": np.ones(1) for i in range(50)}, EXPECTED)
    assert "50 unexpected" in str(caught.value)
    assert "    ... and 30 more" in str(caught.value).splitlines()
    assert len(str(caught.value).splitlines()) == 23


def test_flatten_round_trip():
    nested = {"params": {"a": {"kernel": 1}}, "batch_stats": {"a": {"mean": 2}}}
    assert flatten(nested) == {"params/a/kernel": 1, "batch_stats/a/mean": 2}
    assert unflatten(flatten(nested)) == nested


def test_real_cnniqa_scores_as_in_torch():
    torch = pytest.importorskip("torch")
    weights = torch.load(real_checkpoint(), map_location="cpu", weights_only=True)
    patches = np.random.default_rng(0).normal(0, 0.1, (5, 32, 32, 1)).astype(np.float32)
    functional, x = torch.nn.functional, torch.from_numpy(patches).permute(0, 3, 1, 2)
    x = functional.conv2d(x, weights["conv1.weight"], weights["conv1.bias"])
    x = torch.cat([x.amax((2, 3)), x.amin((2, 3))], 1)
    for name in ("fc1", "fc2"):
        x = functional.relu(functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"]))
    theirs = functional.linear(x, weights["fc3.weight"], weights["fc3.bias"])[:, 0].numpy()
    ours = cnniqa().network.apply(jax.device_put(load_torch(real_checkpoint(), cnniqa())), jnp.asarray(patches))
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-4)


def test_file_and_report(tmp_path):
    source, target = real_checkpoint(), tmp_path / "new" / "a.safetensors"
    report = convert_file(source, target, cnniqa())
    assert report == json.loads((tmp_path / "new" / "a.conversion.json").read_text())
    assert (report["model"], report["layout"], report["total_elements"]) == ("cnniqa", "original", 724_901)
    assert len(report["tensors"]) == 8
    assert report["weights_licence"]
    metadata = store.read_metadata(target)
    assert metadata["source_sha256"] == report["source_sha256"]
    assert metadata["protocol"] == cnniqa().preprocess.name
    ours, tensors = flatten(store.load_variables(target, cnniqa())), read_tensors(source)
    for row in report["tensors"]:
        np.testing.assert_array_equal(ours[row["variable"]], to_kernel(tensors[row["source"]]))
    assert sorted(path.name for path in target.parent.iterdir()) == ["a.conversion.json", "a.safetensors"]


def test_mistakes_of_the_caller(tmp_path):
    with pytest.raises(ValueError, match="has no layout 'pyiqa'; it has: original"):
        convert_tensors(cnniqa_tensors(), cnniqa(), "pyiqa")
    with pytest.raises(CheckpointError, match="no PyTorch layout of 'tinyiqa' is known; there are tables for: cnniqa"):
        convert_tensors(cnniqa_tensors(), tinyiqa())
    with pytest.raises(ValueError, match=r"ends in \.safetensors"):
        report_path(tmp_path / "a.npz")
    assert report_path("x/a.b.safetensors") == Path("x/a.b.conversion.json")


def run(*flags):
    command = [sys.executable, "-m", "weights_convert.convert", *flags]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_command_on_bad_checkpoints(tmp_path):
    """Exit code 1, one message, nothing written and the old result kept."""
    target = tmp_path / "out.safetensors"
    target.write_bytes(b"old")
    bomb = write_legacy(tmp_path / "bomb.pth", state_dict(b"cos\nsystem\nX\x04\0\0\0true\x85R"))
    other = write_zip(tmp_path / "other.pth", state_dict(tensor()))
    for source, words in ((bomb, "os.system"), (other, "the tensors do not fit cnniqa (layout original): 8 missing")):
        result = run("--model=cnniqa", f"--src={source}", f"--dst={target}")
        assert result.returncode == 1
        assert result.stderr.startswith(f"error: {source}: ")
        assert words in result.stderr
        assert "Traceback" not in result.stderr
    assert target.read_bytes() == b"old"
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model=nope", "--src={src}", "--dst=a.safetensors"], "cnniqa|dbcnn"),
        (["--model=tinyiqa", "--src={src}", "--dst=a.safetensors"], "cnniqa|dbcnn"),
        (["--model=cnniqa", "--src=absent.pth", "--dst=a.safetensors"], "--src=absent.pth is not a file"),
        (["--model=cnniqa", "--src={src}", "--dst=a.npz"], "must be a file name that ends in .safetensors"),
        (["--model=cnniqa", "--dst=a.safetensors"], "--src"),
        (["--model=cnniqa", "--src={src}", "--dst={src}/a.safetensors"], "--dst"),
    ],
)
def test_command_on_wrong_flags(tmp_path, flags, words):
    source = write_zip(tmp_path / "a.pth", state_dict(tensor()))
    if "{src}/a" in flags[-1]:
        source = real_checkpoint()
    result = run(*(flag.format(src=source) for flag in flags))
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert words in result.stderr
