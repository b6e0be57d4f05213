"""The notebook is clean as committed, and runs from its first cell to its last in a kernel on the CPU."""

import json
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "experiments" / "notebooks" / "colab_quickstart.ipynb"


@pytest.fixture
def nbformat():
    return pytest.importorskip("nbformat", reason="nbformat is not installed; requirements-dev.txt has it")


def cells():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_format(nbformat):
    notebook = nbformat.read(NOTEBOOK, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


def test_no_outputs_are_stored():
    for cell in cells():
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None), cell["id"]


def test_no_host_and_no_absolute_path():
    for cell in cells():
        text = "".join(cell["source"])
        assert not re.search(r"\w+://|\bwww\.|git@|\b[\w-]+\.(com|org|net|io|dev)\b", text), cell["id"]
        assert not re.search(r"(?<![\w.)}\]<])/(?=\w)", text), cell["id"]


@pytest.fixture
def execute(nbformat, tmp_path, monkeypatch):
    """Run the notebook in an empty folder, on the CPU, with this checkout and programs compiled as users have them."""
    reason = "there is no kernel to run the notebook in; requirements-dev.txt has nbclient and ipykernel"
    pytest.importorskip("ipykernel", reason=reason)
    nbclient = pytest.importorskip("nbclient", reason=reason)
    pytest.importorskip("skimage", reason="scikit-image, which has the photographs, is not installed")
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}

    def run(**settings):
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        chosen = next(cell for cell in notebook.cells if cell.id == "settings")
        chosen.source += "".join(f"\n{name} = {value!r}" for name, value in settings.items())
        resources = {"metadata": {"path": str(tmp_path)}}
        client = nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources)
        client.execute(env=environment)
        return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}

    return run


@pytest.mark.full
def test_the_notebook_runs(execute, tmp_path):
    outputs = execute()
    assert not [name for name, found in outputs.items() if any(o.output_type == "error" for o in found)]
    pictures = [name for name, found in outputs.items() if any("image/png" in o.get("data", {}) for o in found)]
    assert pictures == ["images", "look"]
    run = tmp_path / "out" / "quickstart" / "attack"
    for name in ("config.json", "rows.csv", "summary.json", "report.html"):
        assert (run / name).stat().st_size > 0, name
    assert len(list((run / "adversarial").glob("*.png"))) == 4


@pytest.mark.slow
def test_a_command_that_fails_stops_the_notebook(execute):
    with pytest.raises(Exception, match="CalledProcessError") as failure:
        execute(CHECKPOINT="absent.pth")
    assert "--src=absent.pth is not a file" in str(failure.value)
