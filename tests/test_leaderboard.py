"""Leaderboards: every claim follows from the tables that it names, and only what compares is ranked together."""

import csv
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments import leaderboard
from experiments.leaderboard import Config
from nriqa_jax.metrics.correlation import bootstrap_interval

NAMES = [f"{i}.png" for i in range(8)]
HEAD = ("image", "clear", "attacked", "defended_clear", "defended_attacked", "attacked_unaware")
RANGE = (10.0, 60.0)
CLEAN = np.linspace(20.0, 40.0, len(NAMES))
MOVED = {"ifgsm:epsilon=4/255": 15.0, "advcf": 6.0}
LEFT = {"flip": 4.0, "jpeg:preset=2": 2.0, "blur<i>": 1.0}  # of a strong attack
IFGSM, ADVCF = MOVED


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def cell(folder, attack, purifier, adaptive=False, clean=CLEAN, images=NAMES):
    """Write the table of a cell; returns its row in the table of all cells."""
    rng = np.random.default_rng(len(attack) + len(purifier) + adaptive)
    attacked = clean + MOVED[attack] * rng.uniform(0.9, 1.1, len(clean)) if adaptive else clean + MOVED[attack]
    pure = clean - LEFT[purifier] + rng.normal(0, 0.1, len(clean))
    left = LEFT[purifier] * MOVED[attack] / 15 * (2.5 if adaptive else 1.0) * rng.uniform(0.9, 1.1, len(clean))
    columns = [clean, attacked, pure, pure + left, clean + MOVED[attack]]
    rows = [[name, *(f"{column[i]:.6f}" for column in columns)] for i, name in enumerate(NAMES) if name in images]
    folders = [re.sub(r"[^\w.=+-]", "_", text) for text in (attack, purifier)]
    mode = "adaptive" if adaptive else "unaware"
    write(folder / "cells" / "tinyiqa" / folders[0] / folders[1] / f"{mode}.csv", [HEAD, *rows])
    gain = np.mean([abs(float(row[3]) - float(row[4])) for row in rows]) / (RANGE[1] - RANGE[0])
    return ["tinyiqa", attack, purifier, int(adaptive), "", len(rows), f"{gain:.6f}"]


def finish(folder, rows, **flags):
    """Write what makes a finished run of some cells."""
    head = ["model", "attack", "purifier", "adaptive", "differentiated", "images", "both_defended_abs_gain"]
    write(folder / "cells.csv", [head, *rows])
    model = {"sha256": "f00", "protocol": "whole v1", "score_range": RANGE, "higher_is_better": True}
    flags = {"objective": "raise_quality", "seed": 0, "draws": 8, "attacks": "", **flags}
    precision = {"scores": "float32, highest", "gradients": "highest"}
    (folder / "config.json").write_text(
        json.dumps({"script": "benchmark", "flags": flags, "precision": precision, "models": {"tinyiqa": model}})
    )
    return str(folder)


@pytest.fixture
def runs(tmp_path):
    """Two runs that compare, one of which lacks an attack and an image, and two that do not."""
    a, b, c, d = (tmp_path / name for name in "abcd")
    both = [cell(a, attack, purifier) for attack in MOVED for purifier in ("flip", "jpeg:preset=2")]
    both += [cell(a, IFGSM, purifier, adaptive=True) for purifier in ("flip", "jpeg:preset=2")]
    some = [cell(b, IFGSM, "blur<i>", adaptive, images=NAMES[: -adaptive or None]) for adaptive in (False, True)]
    some += [cell(b, IFGSM, "flip")]
    return [
        finish(a, both),
        finish(b, some),
        finish(c, [cell(c, ADVCF, "flip")], seed=1),
        finish(d, [cell(d, ADVCF, "flip", clean=CLEAN + 1)]),
    ]


@pytest.fixture
def made(runs, tmp_path):
    """The boards, ``claims.json`` and the page."""
    boards = leaderboard.run(Config(runs=",".join(runs), out=str(tmp_path / "out")))
    return boards, json.loads((tmp_path / "out" / "claims.json").read_text()), (tmp_path / "out" / "report.html")


def evaluate(claim, side, board, functions):
    """The formula of a claim on each table of one of its sides, from the files alone."""
    found = []
    for place in claim[side]:
        path = Path(place["run"]) / place["table"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == place["sha256"]
        with path.open(newline="") as file:
            rows = {row["image"]: row for row in csv.DictReader(file)}
        chosen = list(rows) if place["rows"] == "all" else place["rows"]
        columns = {name: np.array([float(rows[image][name]) for image in chosen]) for name in HEAD[1:]}
        low, high = board["score_range"]
        found.append(eval(claim["formula"], {"__builtins__": {}}, {**columns, **functions, "low": low, "high": high}))
    return np.mean(found, axis=0) if found else 0.0


def test_every_claim_follows_from_its_tables(made):
    _, content, _ = made
    of_image = {"mean": lambda values: values, "abs": np.abs}
    functions = {"mean": np.mean, "abs": np.abs, "srocc": lambda x, y: stats.spearmanr(x, y).statistic}
    for claim in content["claims"]:
        board = content["boards"][claim["board"]]
        value = evaluate(claim, "tables", board, functions) - evaluate(claim, "minus", board, functions)
        assert claim["value"] == pytest.approx(value, abs=1e-12), claim["name"]
        assert f"{value:.3f}" in claim["claim"] or f"{value:.4f}" in claim["claim"]
        if "srocc" not in claim["formula"]:
            each = evaluate(claim, "tables", board, of_image) - evaluate(claim, "minus", board, of_image)
            assert claim["interval"] == pytest.approx(bootstrap_interval(np.mean, each))
    for name, digests in content["runs"].items():
        for file, digest in digests.items():
            assert hashlib.sha256((Path(name) / file).read_bytes()).hexdigest() == digest
    ranks = {claim["name"]: claim for claim in content["claims"] if "/gain/" in claim["name"]}
    for kind in ("unaware", "adaptive"):
        own = [claim for name, claim in ranks.items() if name.startswith(f"tinyiqa-1/{kind}/")]
        assert [claim["value"] for claim in own] == sorted(claim["value"] for claim in own)
        assert [re.search(r"ranks (\d) of 3", claim["claim"])[1] for claim in own] == ["1", "2", "3"]
    assert len({claim["name"] for claim in content["claims"]}) == len(content["claims"])


def test_purifiers_are_ranked_under_the_attacks_and_images_that_all_have(made, runs):
    boards, content, _ = made
    unaware, adaptive = boards[0].rankings
    assert [one.purifier for one in unaware.standings] == ["blur<i>", "jpeg:preset=2", "flip"]
    assert (unaware.attacks, adaptive.attacks) == ([IFGSM], [IFGSM])  # the second run has no other
    assert unaware.undefended.value == pytest.approx(15 / 50)
    assert adaptive.standings[0].gain.value > unaware.standings[0].gain.value
    places = {claim["name"]: claim["tables"][0] for claim in content["claims"]}
    assert places["tinyiqa-1/unaware/gain/flip"]["rows"] == "all"
    assert places["tinyiqa-1/adaptive/gain/flip"]["rows"] == NAMES[:-1]  # an image failed in the second run
    assert places["tinyiqa-1/adaptive/gain/blur<i>"] | {"sha256": 0} == {
        "run": runs[1],
        "table": "cells/tinyiqa/ifgsm_epsilon=4_255/blur_i_/adaptive.csv",
        "sha256": 0,
        "rows": "all",
    }
    assert "blur<i> and jpeg:preset=2 are told apart" in "".join(claim["claim"] for claim in content["claims"])


def test_what_does_not_compare_has_boards_of_its_own(made, runs):
    boards, content, _ = made
    assert [[part.run for part in board.parts] for board in boards] == [runs[:2], [runs[2]], [runs[3]]]
    assert list(content["boards"]) == ["tinyiqa-1", "tinyiqa-2", "tinyiqa-3"]
    assert boards[0].notes == [
        f"{runs[1]} repeats 1 cells of runs before it, which count; gains differ by 0.0000 at most."
    ]
    assert boards[1].notes == [f"Not ranked with {runs[0]}: seed is 1 instead of 0."]
    assert boards[2].notes == [
        f"Not ranked with {runs[0]}: other clean scores, so other images.",
        f"Not ranked with {runs[2]}: seed is 0 instead of 1.",
    ]
    assert [len(ranking.standings) for ranking in boards[1].rankings] == [1]


def test_the_page_says_it_and_loads_nothing(made):
    boards, _, path = made
    page = path.read_text()
    for standing in boards[0].rankings[1].standings:
        assert f"{standing.gain.value:.4f}" in page
    assert "blur&lt;i&gt;" in page
    assert "<i>" not in page
    assert "seed is 1 instead of 0" in page
    assert "experiments.leaderboard" in page
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert page.count("data:image/svg+xml") == len(boards)


def test_runs_that_contradict_themselves_are_refused(runs, tmp_path, refusal, script):
    code, printed, _ = script(leaderboard, runs=runs[0], out=tmp_path / "out")
    assert code == 0
    assert "tinyiqa-1, adaptive attacks: jpeg:preset=2 is first of 2, " in printed
    table = Path(runs[0]) / "cells" / "tinyiqa" / "advcf" / "flip" / "unaware.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:-1]))
    assert "cells.csv says 8 images and both_defended_abs_gain=" in refusal(leaderboard, runs=runs[0], out=tmp_path)
    table.write_text("".join([*lines[:-1], "7.png,,,,,\n"]))
    assert "unaware.csv, line 9, lacks a score" in refusal(leaderboard, runs=runs[0], out=tmp_path / "out")
    table.unlink()
    assert "unaware.csv is missing" in refusal(leaderboard, runs=runs[0], out=tmp_path / "out")
    assert "is the folder of a run" in refusal(leaderboard, runs=runs[1], out=runs[1])
    assert f"{runs[1]} is there twice" in refusal(leaderboard, runs=f"{runs[1]},{runs[1]}", out=tmp_path / "out")
    assert "has no cells.csv" in refusal(leaderboard, runs=tmp_path, out=tmp_path / "out")
