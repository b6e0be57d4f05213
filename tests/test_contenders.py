"""The contenders of the speed benchmark: whose turn it is, what a failure becomes, and that all compute the same."""

import contextlib
import importlib.util
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.contenders import meter, ours, race, weights, workloads
from experiments.contenders.process import Process
from experiments.contenders.workloads import EPSILON, STEP_SIZE, STEPS, Entry, Workload, levels
from nriqa_jax.attacks.objectives import raise_score
from nriqa_jax.attacks.presets import ifgsm
from nriqa_jax.parallel import run_attack

ROOT = Path(__file__).parents[1]
SMALL = Workload("cnniqa", "step", 2, (65, 65))

# Contenders for the protocol: each run appends the name to a log and takes a hundredth of a second.
FAKES = """
import os, sys, time
import numpy as np

class Fake:
    def __init__(self, device, precision, name="", log="", fault=""):
        if fault == "dies at the start":
            print("out of luck", file=sys.stderr)
            os._exit(3)
        if fault == "needs a package":
            import a_package_that_nobody_has
        self.name, self.log, self.fault, self.calls = name, log, fault, 0

    def facts(self):
        print("libraries may print")
        return {"device": "cpu", "device_name": "fake", "versions": {self.name: "1"}}

    def prepare(self, workload):
        if self.fault == "refuses":
            raise ValueError("no such thing\\nand more")
        return self.run

    def run(self):
        self.calls += 1
        if self.calls > 2:  # the first two calls warm up
            open(self.log, "a").write(self.name)
            if self.fault == "dies":
                os.kill(os.getpid(), 9)
            if self.fault == "hangs":
                time.sleep(60)
        time.sleep(0.01)
        return np.array([1.0, 3.0])

    def reset_peak_memory(self):
        pass

    def peak_memory(self):
        return 1000
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """``fake(name, fault)``: a process with a made-up contender; all of them end with the test."""
    (tmp_path / "fakes.py").write_text(FAKES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with contextlib.ExitStack() as stack:

        def start(name, fault="", timeout=20.0):
            entry = Entry("fakes:Fake", {"name": name, "log": str(tmp_path / "log"), "fault": fault})
            return stack.enter_context(contextlib.closing(Process(entry, "cpu", "highest", timeout)))

        yield start


def test_contenders_run_in_turns(fake, tmp_path):
    with race.started(["a", "b", "c"], fake, pytest.fail) as processes:
        outcomes = race.race(processes, SMALL, 3)
        assert {name: process.facts["versions"] for name, process in processes.items()} == {n: {n: "1"} for n in "abc"}
    assert (tmp_path / "log").read_text() == "abcabcabc"
    for outcome in outcomes.values():
        assert outcome.error is None
        assert outcome.others_share is None or 0 <= outcome.others_share <= 1
        assert (outcome.score, outcome.peak_memory_bytes, len(outcome.runs)) == (2.0, 1000, 3)
        assert all(0.01 <= seconds < 10 for seconds in [outcome.first_call_seconds, *outcome.runs])


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("refuses", "ValueError: no such thing"),
        ("dies", "its process was ended by signal 9; its last words: libraries may print"),
        ("hangs", "gave no answer within 5 s"),
    ],
)
def test_a_failure_is_recorded_and_the_others_go_on(fake, tmp_path, fault, reason):
    processes = {"a": fake("a"), "b": fake("b", fault, timeout=5.0)}
    for process in processes.values():
        process.wait_until_ready()
    outcomes = race.race(processes, SMALL, 2)
    assert outcomes["b"].error == reason
    assert outcomes["a"].error is None
    assert (tmp_path / "log").read_text() == ("aa" if fault == "refuses" else "aba")
    assert [outcome.error is None for outcome in race.race(processes, SMALL, 1).values()] == [True, False]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("dies at the start", "its process ended with exit code 3; its last words: out of luck"),
        ("needs a package", "the package a_package_that_nobody_has is not installed"),
    ],
)
def test_who_cannot_start_is_left_out(fake, fault, reason):
    reasons = {}
    start = {"a": partial(fake, "a"), "b": partial(fake, "b", fault)}
    with race.started(["a", "b"], lambda name: start[name](), reasons.__setitem__) as processes:
        assert list(processes) == ["a"]
    assert reasons == {"b": reason}
    assert not processes["a"].alive


def test_what_scripts_import():
    for module, absent in (("bench_speed", "torch"), ("contenders.worker", "jax"), ("contenders.torch_eager", "jax")):
        if module.endswith("eager") and not importlib.util.find_spec("torch"):
            continue
        code = f"import sys, experiments.{module}; assert '{absent}' not in sys.modules"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_images_are_8bit_and_do_not_depend_on_the_batch():
    two, three = (levels(Workload("cnniqa", "step", count, (40, 40))) for count in (2, 3))
    np.testing.assert_array_equal(two, three[:2])
    np.testing.assert_array_equal(np.round(two * 255) / np.float32(255), two)
    assert two.dtype == np.float32


def test_peak_memory():
    if meter.peak_memory() is None:
        pytest.skip("there is no /proc here")
    code = """
import numpy as np
from experiments.contenders import meter
meter.reset_peak_memory()
before = meter.peak_memory()
np.ones(30_000_000)
assert meter.peak_memory() - before > 200e6
meter.reset_peak_memory()
assert meter.peak_memory() - before < 100e6
"""
    # In a fresh process: in this one, scripts may have told the C library to keep freed memory.
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=True)


def test_share_of_other_programs(monkeypatch):
    texts = {
        "/proc/stat": ["cpu  100 0 50 800 50 0 0 0 9 9\ncpu0 1", "cpu  160 5 75 850 60 0 0 50 99 9\ncpu0 1"],
        f"/proc/{os.getpid()}/stat": ["1 (a) b) S 1 2 3 4 5 6 7 8 9 10 5 5 0", "1 (a) b) S 1 2 3 4 5 6 7 8 9 10 9 5 0"],
        "/proc/7/stat": ["7 (worker) R 1 2 3 4 5 6 7 8 9 10 20 0 0", "7 (worker) R 1 2 3 4 5 6 7 8 9 10 50 6 0"],
    }
    monkeypatch.setattr(meter.Path, "read_text", lambda path: texts[str(path)].pop(0))
    others = meter.OtherPrograms([7])
    # 200 ticks passed: 60 idle, 4 of this process, 36 of the other one.
    assert others.share() == (200 - 60 - 4 - 36) / 200


def test_product_rate(monkeypatch):
    clock = iter([0.0, 4.0, 10.0, 12.0, *(20.0, 24.0) * 8])
    monkeypatch.setattr(meter.time, "perf_counter", lambda: next(clock))
    assert meter.product_rate(lambda: None, lambda _: None, 10, 3) == 2 * 10**3 * 3 / 2.0


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("cnniqa", (65, 65)),
        *(
            pytest.param(name, size, marks=[pytest.mark.slow, pytest.mark.full])
            for name, size in workloads.SIZES.items()
            if name != "cnniqa"
        ),
    ],
)
def test_scores_and_gradients_equal_those_of_the_peers(name, size):
    torch = pytest.importorskip("torch")
    from experiments.contenders import torch_models

    images = levels(Workload(name, "step", 2, size))
    x = torch.from_numpy(images).permute(0, 3, 1, 2).requires_grad_()
    theirs = torch_models.build(name, weights.of_model(name))(x)
    (expected,) = torch.autograd.grad(theirs.sum(), x)
    model, variables = ours.build(name)

    def total(images, variables):
        scores = model.apply(variables, images)
        return jnp.sum(scores), scores

    (_, scores), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(jnp.asarray(images), variables)
    # Differences of 1e-6 in both are usual; a ReLU that rounding decides otherwise adds up to 1e-2 to a gradient.
    np.testing.assert_allclose(scores, theirs.detach(), rtol=0, atol=1e-5 * np.abs(scores).max())
    expected = expected.permute(0, 2, 3, 1).numpy()
    error, size = (np.sqrt(np.sum(v**2, axis=(1, 2, 3))) for v in (gradient - expected, expected))
    assert np.all(error < 2e-2 * size)
    assert np.ptp(scores) > 1e-4 * np.abs(scores).max()  # they depend on the image
    assert np.mean(expected == 0) < 0.2


def test_attacks_of_the_peers_end_at_the_same_images():
    pytest.importorskip("torch")
    from experiments.contenders.torch_eager import Eager, OneByOne

    workload = Workload("cnniqa", "ifgsm10", 2, (65, 65))
    model, variables = ours.build("cnniqa")
    clean, keys = jnp.asarray(levels(workload)), jax.random.split(jax.random.key(0), 2)
    attack = ifgsm(raise_score(), epsilon=EPSILON, step_size=STEP_SIZE, steps=STEPS)
    result = run_attack(attack, model.score_fn(variables), clean, keys)
    eager = [Eager("cpu", "highest"), Eager("cpu", "highest", channels_last=True)]
    for peer in (*eager, OneByOne("cpu", "highest"), OneByOne("cpu", "highest", frozen=True)):
        network, images = peer.model("cnniqa"), peer.images(workload)
        found, scores = (jnp.asarray(x.detach().numpy()) for x in peer.attack("ifgsm10", network, images))
        # A gradient that is zero but for rounding may have either sign.
        assert np.mean(np.abs(found.transpose(0, 2, 3, 1) - result.images) < 1e-6) > 0.999
        np.testing.assert_allclose(scores, result.scores, rtol=1e-3)
        np.testing.assert_allclose(peer.prepare(workload)(), result.scores, rtol=1e-3)
    assert np.all(result.scores > model.apply(variables, clean) + 0.1)


def test_operations_are_counted_per_image():
    pytest.importorskip("torch")
    from experiments.contenders.torch_eager import Eager

    def count(task, batch):
        return Eager("cpu", "highest").count_flops(Workload("cnniqa", task, batch, (65, 65)))

    # Four patches: the convolution and the three dense layers, forward, and backward to their inputs.
    layers = 50 * 26 * 26 * 49 + 100 * 800 + 800 * 800 + 800
    assert count("step", 1) == 2 * 2 * 4 * layers
    assert count("step", 3) == 3 * count("step", 1)
    assert count("ifgsm10", 1) == 10 * count("step", 1) + 2 * 4 * layers
    assert count("vmifgsm2", 1) == 12 * count("step", 1) + 2 * 4 * layers  # five neighbours at each step
    # PyTorch cannot count through gradients of gradients.
    assert Eager("cpu", "highest").count_flops(Workload("resnet18", "train_fd", 1, (32, 32))) is None
