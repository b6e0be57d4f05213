"""Published tables of rank attacks are those of the files that runs left."""

import csv
from pathlib import Path

import pytest

from experiments import rank_attack
from experiments.ranking import tables

ROOT = Path(__file__).parents[1]
RUNS = sorted((Path(rank_attack.__file__).parent / "results" / "ranking").glob("*/methods.csv"))


def test_there_are_two_models_at_two_budgets():
    assert len(RUNS) == 4


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.parent.name)
def test_the_table_of_the_document_is_that_of_the_file(path):
    table = tables.describe(path.parent)
    assert table.count("\n") == 12
    assert table in (ROOT / "docs" / "rank_attack.md").read_text()


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.parent.name)
def test_the_readme_gives_the_best_baseline(path):
    with path.open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    best = min((row for row in rows.values() if row["role"] == "baseline"), key=lambda row: float(row["srocc"]))
    found = [rows["sma"], best, rows["reach"], rows["reach_wide"]]
    cells = " | ".join(f"{float(row['srocc']):.3f} ({float(row['mae']):.1f})" for row in found)
    assert cells in (ROOT / "README.md").read_text()
    assert all(float(rows["reach"]["srocc"]) < float(row["srocc"]) for name, row in rows.items() if name != "reach")
    assert float(rows["reach_wide"]["srocc"]) < float(rows["sma"]["srocc"])
    assert float(rows["reach_wide"]["mae"]) >= float(rows["sma"]["mae"])
