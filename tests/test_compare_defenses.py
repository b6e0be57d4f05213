"""Defenses compared over seeds: what is shared by them, the medians, and what a second run does."""

import csv
import json

import numpy as np
import pytest
from blurred_set import QUICK, blurred_set

from experiments import compare_defenses
from experiments.defense_table import NO_ATTACK
from experiments.errors import UserError
from experiments.training import loop

pytestmark = pytest.mark.xdist_group("trainings")  # one comparison for all tests

SETTINGS = {
    **QUICK,
    "epochs": 1,
    "defenses": "plain=none,nt=nt:nt_weight=1e-3:nt_method=jvp",
    "attacks": "fgsm",
    "epsilons": "4/255",
    "seeds": "0,1",
    "attacked_images": 2,
}


def config(table, out, **settings):
    return compare_defenses.Config(**{**SETTINGS, "data": str(table), "out": str(out), **settings})


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return blurred_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def found(table, tmp_path_factory):
    """A comparison and its rows."""
    out = tmp_path_factory.mktemp("defenses")
    return config(table, out), out, compare_defenses.run(config(table, out))


def test_rows_are_medians_over_seeds(found):
    _, out, rows = found
    assert [(row["label"], row["attack"]) for row in rows] == [
        *(("plain", NO_ATTACK), ("plain", "fgsm"), ("nt", NO_ATTACK), ("nt", "fgsm"))
    ]
    for row in rows:
        each = []
        for seed in (0, 1):
            lines = csv.DictReader((out / "evaluated" / str(seed) / "defense.csv").open())
            each.append(next(x for x in lines if (x["label"], x["attack"]) == (row["label"], row["attack"])))
        name = "gradient_l1" if row["attack"] == NO_ATTACK else "rmse_clean"
        values = [float(line[name]) for line in each]
        np.testing.assert_allclose(row[name], np.median(values), atol=1e-6)
        np.testing.assert_allclose((row[f"{name}_min"], row[f"{name}_max"]), (min(values), max(values)), atol=1e-6)
    assert all(row["images"] == 2 and row["train_seconds"] > 0 for row in rows)


def test_defenses_of_a_seed_differ_in_nothing_else(found):
    _, out, _ = found
    for seed in (0, 1):
        plain, nt = (json.loads((out / f"trained/{label}_{seed}/config.json").read_text()) for label in ("plain", "nt"))
        assert plain["splits"] == nt["splits"]
        assert plain["weights_sha256"] == nt["weights_sha256"]
        differing = {name for name in plain["plan"] if plain["plan"][name] != nt["plan"][name]}
        assert differing <= {"defense", "nt_weight", "nt_method"}
        assert nt["plan"]["defense"] == "nt"


def test_a_second_run_trains_nothing(found, monkeypatch):
    settings, _, rows = found
    monkeypatch.setattr(loop, "train", None)
    assert compare_defenses.run(settings) == rows


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"defenses": "nt"}, "'nt' is not LABEL=DEFENSE"),
        ({"defenses": "a=magic"}, "with one of none, nt"),
        ({"defenses": "a=nt,a=none"}, "a label is there twice"),
        ({"defenses": "a=nt:nt_weight=much"}, "'nt_weight=much' is no setting"),
        ({"defenses": "a=nt:speed=1"}, "'speed=1' is no setting"),
        ({"seeds": "one"}, "--seeds=one must be whole numbers"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(table, tmp_path, settings, words):
    with pytest.raises(UserError, match=words):
        compare_defenses.run(config(table, tmp_path, **settings))
