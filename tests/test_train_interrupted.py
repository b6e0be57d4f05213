"""Training that is interrupted goes on to the same weights."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from blurred_set import QUICK, blurred_set, log, same, train, weights

from experiments.training import loop

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return blurred_set(tmp_path_factory.mktemp("set"))


class Interrupted(Exception):
    """Stands for whatever ends a process."""


def train_until(step, monkeypatch, table, out, **settings):
    """Train, but for an interruption when a number of steps were taken."""
    count = loop._count

    def stop(account, metrics):
        count(account, metrics)
        if account.step == step:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_count", stop)
        with pytest.raises(Interrupted):
            train(table, out, **settings)


# With momentum, an average of weights, and a checkpoint after each of the three steps of an epoch.
LASTING = {"ema": 0.5, "optimiser": "sgd", "learning_rate": 1e-5, "checkpoint_minutes": 0.0, "batch_size": 4}


@pytest.fixture(scope="module")
def whole(table, tmp_path_factory):
    """An undisturbed run."""
    out = tmp_path_factory.mktemp("whole")
    train(table, out, **LASTING, devices=2)
    return out


def test_an_interrupted_run_goes_on(table, whole, tmp_path, monkeypatch):
    """Interrupted within both epochs, and after the first one."""
    for step in (2, 4, 5):
        train_until(step, monkeypatch, table, tmp_path, **LASTING, devices=2)
        assert log(tmp_path) == log(whole)[: (step - 1) // 3]
    train(table, tmp_path, **LASTING, devices=2)
    same(weights(whole), weights(tmp_path))
    assert (whole / "log.jsonl").read_bytes() == (tmp_path / "log.jsonl").read_bytes()


def test_a_run_goes_on_with_other_devices(table, whole, tmp_path, monkeypatch):
    train_until(3, monkeypatch, table, tmp_path, **LASTING, devices=1)
    train(table, tmp_path, **LASTING, devices=2)
    first, second = weights(whole), weights(tmp_path)
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=1e-4, atol=1e-6)


def test_free_training_uses_each_batch_again_and_goes_on_with_its_change(table, tmp_path, monkeypatch):
    free = {**LASTING, "defense": "free", "attack_steps": 3, "devices": 2}
    train(table, tmp_path / "whole", **free)
    train_until(2, monkeypatch, table, tmp_path / "broken", **free)
    train(table, tmp_path / "broken", **free)
    same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    once = {**free, "attack_steps": 1}
    train(table, tmp_path / "once", **once)
    assert log(tmp_path / "whole")[-1]["steps"] == log(tmp_path / "once")[-1]["steps"]
    assert log(tmp_path / "whole")[0]["loss"] != log(tmp_path / "once")[0]["loss"]


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_weights(table, tmp_path):
    """kill -9 in the middle of an epoch; the weights are those of an undisturbed run to the last bit."""
    settings = {**QUICK, "epochs": 6, "devices": 1, "checkpoint_minutes": 0.0}
    command = [sys.executable, "-m", "experiments.train_model", f"--data={table}", f"--out={tmp_path / 'broken'}"]
    command += [f"--{name}={value}" for name, value in settings.items()]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / "broken" / "checkpoints" / "5").exists():
        time.sleep(0.002)
    alive = process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert alive
    assert not (tmp_path / "broken" / "result.json").exists()
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    train(table, tmp_path / "whole", **settings)
    same(weights(tmp_path / "broken"), weights(tmp_path / "whole"))
