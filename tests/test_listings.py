"""The listings of models and of published checkpoints: complete, consistent with the tables, and in the README."""

import hashlib
import re
from pathlib import Path

import pytest

from experiments import list_models, text_table
from experiments.catalog import MODELS
from weights_convert import list as list_checkpoints
from weights_convert.published import PUBLISHED
from weights_convert.tables import LAYOUTS

README = Path(__file__).parents[1] / "README.md"
FILES = [(model, file) for model, files in PUBLISHED.items() for file in files]


def test_plain_tables_are_aligned_and_fold_long_cells():
    rows = [("name", "n"), ("a", "1"), ("words that are long", "10"), ("unbreakable/and/long", "")]
    assert text_table.plain(rows, right=(1,), width=10).splitlines() == [
        "name                   n",
        "--------------------  --",
        "a                      1",
        "words that            10",
        "are long",
        "unbreakable/and/long",
    ]


def test_markdown_tables():
    assert text_table.markdown([("a|b", "n"), ("x", "1")], right=(1,)) == "| a\\|b | n |\n|---|---:|\n| x | 1 |"


def test_every_model_is_listed(script):
    code, printed, _ = script(list_models)
    assert code == 0
    assert [line.split()[0] for line in printed.splitlines()[2:] if not line.startswith(" ")] == list(MODELS)
    cnniqa = next(row for row in list_models.rows() if row[0] == "cnniqa")
    assert cnniqa[:6] == ("cnniqa", "2014", "724,901", "0..100", "lower", "32x32")
    assert cnniqa[6:8] == ("published, grid", "LIVE (DMOS)")


def test_the_readme_has_the_table_of_models():
    """Refresh it by python -m experiments.list_models --update=README.md."""
    assert f"{list_models.BEGIN}\n{list_models.markdown()}\n{list_models.END}\n" in README.read_text()


def test_a_file_is_updated_between_its_markers_alone(script, refusal, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{list_models.BEGIN}\nold\n{list_models.END}\nafter\n")
    for _ in range(2):
        code, printed, _ = script(list_models, update=page, format="markdown")
        assert code == 0
        assert page.read_text() == f"before\n{list_models.BEGIN}\n{printed}{list_models.END}\nafter\n"
    page.write_text(list_models.BEGIN)
    assert list_models.END in refusal(list_models, update=page)
    assert page.read_text() == list_models.BEGIN
    assert "absent.md" in refusal(list_models, update=tmp_path / "absent.md")


def test_every_convertible_model_is_listed(script):
    code, printed, _ = script(list_checkpoints)
    assert code == 0
    assert {line.split()[0] for line in printed.splitlines()[2:] if not line.startswith(" ")} == set(LAYOUTS)
    assert all(file.name in printed and file.page in printed for _, file in FILES)


@pytest.mark.parametrize("model", LAYOUTS)
def test_details_of_a_model(script, model):
    code, printed, _ = script(list_checkpoints, model=model)
    assert code == 0
    assert all(f"{layout} (scores " in printed for layout in LAYOUTS[model])
    assert printed.count("licence: ") == len(PUBLISHED.get(model, ()))
    assert printed.endswith(f"--model={model} --src=FILE --dst={model}.safetensors\n")


def test_an_unknown_model_is_refused(refusal):
    assert "cnniqa" in refusal(list_checkpoints, model="nonesuch")


@pytest.mark.parametrize(("model", "file"), FILES, ids=lambda value: getattr(value, "name", value))
def test_published_files_are_consistent(model, file):
    assert file.layout is None or file.layout in LAYOUTS[model]
    assert re.fullmatch("|[0-9a-f]{8}|[0-9a-f]{64}", file.sha256)
    assert re.fullmatch(r"https://(github\.com|huggingface\.co)/[\w./-]+", file.page)
    assert file.trained_on
    assert file.licence


@pytest.mark.parametrize(("model", "local"), [("cnniqa", "cnniqa_live.pth"), ("dbcnn", "dbcnn_scnn.pkl")])
def test_digests_are_those_of_real_files(model, local, shared):
    digest = hashlib.sha256((shared / "weights" / local).read_bytes()).hexdigest()
    assert digest in {file.sha256 for file in PUBLISHED[model]}
