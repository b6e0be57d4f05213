"""Shared fixtures. Types in signatures, array shapes included, are checked in every test by beartype."""

import dataclasses
import gc
import os
import sys
from importlib import metadata
from pathlib import Path

# Tests compile much and run little. Without optimisation compilation takes a third less time, and with the older
# emitters of loops, which only this JAX has, less than half of what is left.
OLDER_EMITTERS = " --xla_cpu_use_fusion_emitters=false" if metadata.version("jaxlib").startswith("0.10.") else ""
os.environ.setdefault("XLA_FLAGS", f"--xla_backend_optimization_level=0{OLDER_EMITTERS}")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

from jaxtyping import install_import_hook

install_import_hook(["nriqa_jax", "experiments", "weights_convert"], "beartype.beartype")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from PIL import Image

from experiments import cli, heap, summary

jax.config.update("jax_num_cpu_devices", 2)  # scripts in this process use both
gc.freeze()
gc.set_threshold(100_000, 20, 50)  # traces make many objects and few cycles: looking for these took a tenth of the time

_MAPS = 15_000
_MOST_MAPS = 30_000
_QUICK = 0.3  # seconds; a test that took less compiled little
SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared():
    """Real photographs and trained weights; tests that use them skip where they are absent."""
    if not SHARED.is_dir():
        pytest.skip("the folder of real photographs and weights is not here")
    return SHARED


@pytest.fixture(scope="session")
def outside_environment():
    """Variables of a process that compiles as users' processes do, and not as tests do."""
    return {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}


@pytest.fixture(scope="session", autouse=True)
def quick_intervals():
    """Few resamples in the summaries of runs: with checked types, those of all runs would take a tenth of the suite."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "_RESAMPLES", 50)
        yield


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Forget compiled programs before their memory maps reach the 65,530 that Linux gives a process by default."""
    yield
    forget_programs_above(_MAPS)


@pytest.fixture(autouse=True)
def released(request):
    """Give the memory of a full-width network back before the next one."""
    yield
    if request.node.get_closest_marker("full"):
        jax.clear_caches()
        gc.collect()
        heap.give_back()


def pytest_runtest_logreport(report):
    """The same within a module of many programs."""
    if report.duration > _QUICK:
        forget_programs_above(_MOST_MAPS)


def forget_programs_above(most):
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > most:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def tiny_score():
    """A smooth, cheap score function on images of any size."""
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 3, 4))

    def score(kernel, images):
        x = jax.lax.conv_general_dilated(images, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return 50.0 + 10.0 * jnp.tanh(x).mean((1, 2)) @ jnp.array([1.0, -2.0, 3.0, -1.0])

    return jax.tree_util.Partial(score, kernel)


@pytest.fixture
def images():
    """Five 8-bit images with saturated pixels, as floats."""
    rng = np.random.default_rng(0)
    levels = np.clip(rng.normal(128, 90, (5, 24, 20, 3)), 0, 255).astype(np.uint8)
    return jnp.asarray(levels, jnp.float32) / 255.0


@pytest.fixture
def keys():
    """One key per image of `images`."""
    return jax.random.split(jax.random.key(7), 5)


@pytest.fixture
def script(capsys, monkeypatch):
    """Run a script in this process as the shell would: ``script(module, **flags) -> (exit code, stdout, stderr)``."""

    def run(module, *arguments, **settings):
        argv = [module.__file__, *arguments, *(f"--{name}={value}" for name, value in settings.items())]
        monkeypatch.setattr(sys, "argv", argv)
        try:
            with pytest.raises(SystemExit) as ended:
                cli.run(module.Config, module.main)
        finally:
            for field in dataclasses.fields(module.Config):
                delattr(flags.FLAGS, field.name)
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


@pytest.fixture
def refusal(script):
    """The one sentence with which a script refuses settings: ``refusal(module, **flags) -> message``."""

    def refuse(module, **settings):
        code, printed, message = script(module, **settings)
        assert (code, printed, message.count("\n")) == (2, "", 1)
        return message

    return refuse


@pytest.fixture(scope="session")
def two_pictures(photo_folder, tmp_path_factory):
    """Two of the pictures of `photo_folder`, of one size."""
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("p0.png", "p1.png"):
        (folder / name).symlink_to(photo_folder / name)
    return folder


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory):
    """Seven small smooth pictures of two sizes, one in a sub-folder."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(5)
    for i, size in enumerate([(48, 40)] * 5 + [(40, 56)] * 2):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8))
        path = folder / ("more" if i == 3 else "") / f"p{i}.{'bmp' if i == 2 else 'png'}"
        path.parent.mkdir(exist_ok=True)
        coarse.resize(size, Image.Resampling.BICUBIC).save(path)
    return folder
