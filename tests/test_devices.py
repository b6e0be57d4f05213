"""Several devices and several processes: the same rows to the byte, and no traffic between devices."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
ATTACK = [sys.executable, "-m", "experiments.attack_images", "--model=cnniqa", "--weights=random", "--attack=pgd"]
ATTACK += ["--steps=3", "--batch_size=2", "--protocol=grid"]
COLLECTIVES = r"all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all"

STEP_HLO = f"""
import re, sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
sys.path.append("tests")
from experiments.catalog import ATTACKS, MODELS
from experiments import compilation
from programs import recorded
from nriqa_jax import parallel
from nriqa_jax.attacks.objectives import raise_score

model = MODELS[sys.argv[1]]()
variables = model.prepare(jax.jit(model.init)(jax.random.key(0)))
replicas = parallel.Replicas(model.score_fn(variables))
images = replicas.rows(8, np.random.default_rng(0).random((16, 60, 70, 3), np.float32))
keys = replicas.rows(8, jax.random.split(jax.random.key(1), 16))
for name in ("ifgsm", "apgd", "pgd"):
    attack = ATTACKS[name](raise_score())
    state = parallel.start(attack, replicas.on(8), images, keys)
    with recorded() as programs:
        state, losses = parallel.step(attack, replicas.on(8), images, state)
    assert len(programs) == 3, "a question, its answer and the rest of the step"
    for program in programs:
        assert "num_partitions=8" in program
        assert not re.findall(r"{COLLECTIVES}", program), name
    if sys.argv[1] == "tinyiqa":
        parallel.step(attack, replicas.on(8), images, state)
        with compilation.watch() as compiled:
            for _ in range(2):
                state, losses = parallel.step(attack, replicas.on(8), images, state)
        assert not compiled.programs, "the state changes its layout"
        total = jax.jit(lambda losses: losses.sum()).lower(losses).compile().as_text()
        assert re.findall(r"{COLLECTIVES}", total), "this test would not notice a collective"
"""

WHOLE_SET = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
from experiments import processes
processes.join(sys.argv[1], 2, int(sys.argv[2]))
import numpy as np
from scipy.stats import spearmanr
from nriqa_jax.metrics.correlation import srocc
from nriqa_jax.parallel import gather

rng = np.random.default_rng(0)
scores, mos = rng.random(11), rng.random(11)
names = list(range(11))
mine = np.array(processes.share(names))
everything = gather(np.stack([scores[mine], mos[mine], mine], axis=1))
assert sorted(everything[:, 2]) == names
np.testing.assert_allclose(srocc(everything[:, 0], everything[:, 1]), spearmanr(scores, mos).statistic, rtol=1e-6)
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Nineteen pictures of two sizes, and one file that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(3)
    for i in range(19):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8))
        coarse.resize((48, 40) if i % 4 else (40, 56), Image.Resampling.BICUBIC).save(folder / f"{i:02}.png")
    (folder / "20.png").write_bytes(b"no picture")
    return folder


def run(command, **options):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def files(out):
    names = [path for path in out.rglob("*") if path.suffix in (".csv", ".png") and path.name != "timings.csv"]
    content = {path.relative_to(out).as_posix(): path.read_bytes() for path in names}
    return content | {"summary": json.loads((out / "summary.json").read_text())}


@pytest.fixture(scope="module")
def one_device(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("one")
    run([*ATTACK, f"--images={pictures}", f"--out={out}", "--devices=1"])
    return files(out)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [pytest.param(2, marks=pytest.mark.full), 8])
def test_rows_do_not_depend_on_the_number_of_devices(pictures, one_device, tmp_path, devices):
    printed = run([*ATTACK, f"--images={pictures}", f"--out={tmp_path}", f"--devices={devices}"])
    assert f"on {devices} devices" in printed
    assert files(tmp_path) == one_device


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tinyiqa", "cnniqa", pytest.param("hyperiqa", marks=pytest.mark.full)])
def test_an_attack_step_holds_no_collective(model):
    run([sys.executable, "-c", STEP_HLO, model], check=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def together(commands):
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    outcomes = [process.communicate(timeout=300) for process in processes]
    for process, (_, errors) in zip(processes, outcomes):
        assert process.returncode in (0, 1), errors
    return [printed for printed, _ in outcomes]


@pytest.mark.slow
def test_two_processes_write_the_ledger_of_one(pictures, one_device, tmp_path):
    shared = [*ATTACK, f"--images={pictures}", f"--out={tmp_path}", "--devices=1"]
    shared += [f"--coordinator=localhost:{free_port()}", "--num_processes=2"]
    printed = together([[*shared, f"--process_id={i}"] for i in range(2)])
    assert "19 of 20 images attacked" in printed[0]
    assert "images" not in printed[1], "only the first process speaks"
    assert files(tmp_path) == one_device
    assert not list(tmp_path.glob("*.part-*"))


@pytest.mark.slow
def test_quantities_of_the_whole_set_are_gathered():
    address = f"localhost:{free_port()}"
    together([[sys.executable, "-c", WHOLE_SET, address, str(i)] for i in range(2)])


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
    ],
)
def test_launchers_are_recognised(environment, expected):
    from experiments.processes import launched_together

    assert launched_together(environment) is expected
