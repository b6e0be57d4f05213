"""The published comparison of attacks is that of its file."""

from pathlib import Path

import pytest

from experiments import compare_attacks

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["attacks_cnniqa.csv", "attacks_cnniqa_100_steps.csv"])
def test_the_table_of_the_document_is_that_of_the_file(name):
    path = Path(compare_attacks.__file__).parent / "results" / name
    assert compare_attacks.table(path) in (ROOT / "docs" / "attacks.md").read_text()
