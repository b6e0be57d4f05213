"""Converted files: equal bytes for equal weights, checked when read, never half written."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import cnniqa_tensors

from nriqa_jax.models.cnniqa import cnniqa
from nriqa_jax.models.tinyiqa import tinyiqa
from weights_convert import store
from weights_convert.convert import convert_tensors
from weights_convert.rules import expected_shapes, flatten, unflatten
from weights_convert.torch_file import CheckpointError

ROOT = Path(__file__).parents[1]


def test_equal_weights_give_equal_bytes(tmp_path):
    metadata = {letter: letter for letter in "abcdefgh"}
    arrays = unflatten(convert_tensors(cnniqa_tensors(), cnniqa())[1].arrays)
    backwards = {"params": dict(reversed(arrays["params"].items()))}
    assert store.serialize(arrays, metadata) == store.serialize(backwards, dict(reversed(metadata.items())))
    code = "from weights_convert.store import serialize; import hashlib, numpy as np; "
    code += "data = serialize({'a': {'b': np.ones(3), 'c': np.ones(2)}}, dict(x='1', y='2', z='3')); "
    code += "print(hashlib.sha256(data).hexdigest())"
    runs = {subprocess.check_output([sys.executable, "-c", code], cwd=ROOT) for _ in range(2)}
    assert len(runs) == 1


def test_load_variables_checks_the_file(tmp_path):
    variables = unflatten(convert_tensors(cnniqa_tensors(), cnniqa())[1].arrays)
    path, model = tmp_path / "a.safetensors", cnniqa()
    store.save_variables(path, variables, store.describe(model))
    assert set(flatten(store.load_variables(path, model))) == set(expected_shapes(model))
    with pytest.raises(CheckpointError, match=r"a.safetensors: these are weights of cnniqa, not of tinyiqa"):
        store.load_variables(path, tinyiqa())
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:7], b"", b"<html>", whole[:100]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="not a sound safetensors file"):
            store.load_variables(path, model)
    broken = {
        "params": variables["params"]
        | {"fc1": {"kernel": np.full((100, 800), np.nan, np.float32)}, "x": {"y": np.ones(1)}}
    }
    store.save_variables(path, broken, store.describe(model))
    with pytest.raises(CheckpointError, match="1 missing, 1 unexpected, 1 not finite"):
        store.load_variables(path, model)
    store.save_variables(path, variables, {})
    with pytest.raises(CheckpointError, match="weights of no named model"):
        store.load_variables(path, model)
    with pytest.raises(CheckpointError, match="cannot be read"):
        store.load_variables(tmp_path / "absent.safetensors", model)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        store.write_atomic(path, b"new")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a.safetensors", b"old")]
