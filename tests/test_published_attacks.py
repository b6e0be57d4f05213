"""The published comparison of attacks is that of its file."""

from pathlib import Path

from experiments import compare_attacks

ROOT = Path(__file__).parents[1]


def test_the_table_of_the_document_is_that_of_the_file():
    path = Path(compare_attacks.__file__).parent / "results" / "attacks_cnniqa.csv"
    assert compare_attacks.table(path) in (ROOT / "docs" / "attacks.md").read_text()
