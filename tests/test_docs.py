"""The commands and programs in README.md and BUILD.md run as printed; `console` blocks (installation) are not run.

They compile as quickly as other tests do, and share their programs, through the variables that `conftest` sets.

The `python` blocks of a page of docs/ are one program.
"""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nriqa_jax.models.adapters import Options

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "BUILD.md")
LONGEST = "BUILD.md"  # its commands are run by make test-full


def blocks(document):
    return re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def workplace(tmp_path):
    """What the documents take for granted: a folder of photographs and a checkpoint."""
    (tmp_path / "photographs").mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        coarse.resize((72, 64), Image.Resampling.BICUBIC).save(tmp_path / "photographs" / f"{i}.png")
    torch = pytest.importorskip("torch")
    shapes = {"conv1": (50, 1, 7, 7), "fc1": (800, 100), "fc2": (800, 800), "fc3": (1, 800)}
    weights = {f"{name}.weight": 0.05 * torch.randn(shape) for name, shape in shapes.items()}
    torch.save(
        weights | {f"{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}, tmp_path / "cnniqa.pth"
    )
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    "document", [pytest.param(name, marks=[pytest.mark.full] * (name == LONGEST)) for name in DOCUMENTS]
)
def test_documented_commands_run(document, workplace):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ran = 0
    for language, text in blocks(document):
        if language in ("bash", "python"):
            command = ["bash", "-euc", text] if language == "bash" else [sys.executable, "-c", text]
            done = subprocess.run(command, cwd=workplace, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{text}\n{done.stderr}"
            ran += 1
    assert ran >= 3
    assert (workplace / "out").is_dir()


def test_the_program_of_the_page_on_outside_models(capsys):
    pytest.importorskip("torch")
    names, page = {}, "docs/outside_models.md"
    for language, text in blocks(page):
        if language == "python":
            exec(compile(text, page, "exec"), names)
    assert names["result"].images.shape == names["images"].shape
    assert float(capsys.readouterr().out.strip("[]\n").split()[0]) > 0
    for field in dataclasses.fields(Options):
        assert f"`{field.name}`" in (ROOT / page).read_text()


def test_linked_files_exist():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / document).read_text()):
            assert (ROOT / target).exists(), target


def test_every_model_attack_and_purifier_is_in_the_readme():
    from experiments.catalog import ATTACKS, MODELS, PURIFIERS

    text = (ROOT / "README.md").read_text()
    for name in {*MODELS, *ATTACKS, *PURIFIERS} - {"pgd"}:
        assert f"`{name}`" in text, name
