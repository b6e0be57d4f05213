"""Run folders as rank_attack and rank_targets leave them, small and synthetic."""

import csv
import json

import numpy as np
from PIL import Image

from experiments.ledger import ATTACK_COLUMNS
from nriqa_jax.metrics import correlation

HOSTILE = "sub/<b>&\"quoted\" 'ünï' $x^2$ {{ 7*7 }}.png"
CORRELATIONS = ("srocc", "krocc", "plcc", "mae", "rmse", "r_log10", "mos_srocc", "mos_krocc", "mos_plcc")
METHODS = {
    "sma": ("SMA as published", "attack"),
    "reach": ("SMA within reach, lowest SROCC", "attack"),
    "reach_wide": ("SMA within reach, change of SMA or more", "attack"),
    "reversal": ("Reversed <i>ranks</i> $x", "baseline"),
    "away": ("Away from the clean score", "baseline"),
}


def write(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def cell(value):
    return "" if value is None or np.isnan(value) else f"{value:.6f}"


def scores_of(count):
    """Clean scores, subjective ones, and a reachable interval for each."""
    rng = np.random.default_rng(0)
    scores = rng.uniform(10, 90, count)
    return (
        scores,
        scores + rng.normal(0, 5, count),
        scores - rng.uniform(5, 30, count),
        scores + rng.uniform(5, 30, count),
    )


def measure(scores, mos, reached, with_mos):
    """The cells of the nine measures with their intervals."""
    found = [getattr(correlation, name)(scores, reached) for name in ("srocc", "krocc", "plcc", "mae", "rmse")]
    subjective = [getattr(correlation, name)(mos, reached) if with_mos else None for name in ("srocc", "krocc", "plcc")]
    ends = (
        [value, value - 0.1, value + 0.1] if value is not None else [None] * 3 for value in [*found, 0.5, *subjective]
    )
    return [cell(value) for triple in ends for value in triple]


def stage_one(folder, families):
    steps = np.arange(100, 1001, 100)
    trace = [[step, cell(1 - step / 500), cell(step), cell(2 * step), cell(1 - step / 400)] for step in steps]
    write(folder / "trace.csv", [["step", "agreement", "variance", "error", "loss"], *trace])
    header = ["family", "label", "variance_weight", "error_weight", "change_weight", "srocc", "mae"]
    points = [[f, f"{k}", "", "", "", cell(-1 + 0.1 * k), cell(15.0 + 5 * k)] for f in families for k in range(6)]
    write(folder / "frontier.csv", [header, *points])


def rank_attack_run(folder, count=12, methods=tuple(METHODS), shown="sma", with_mos=True, with_reach=True):
    """A folder of rank_attack, with a picture for each image."""
    run = folder / "run"
    scores, mos, low, high = scores_of(count)
    names = [HOSTILE, *(f"{k:04d}.png" for k in range(1, count))]
    wanted = {name: 100 - scores + k for k, name in enumerate(methods)} | {"away": np.full(count, np.nan)}
    reached = {name: np.where(np.isnan(wanted[name]), low, np.clip(wanted[name], low, high)) for name in methods}
    header = ["method", "label", "role", "gradients", "forwards", "images"]
    header += [name + end for name in CORRELATIONS for end in ("", "_low", "_high")] + ["linf_255"]
    lines = [["clean", "Clean images", "clean", 0, 1.0, count, *measure(scores, mos, scores, with_mos), 0.0]]
    for name in methods:
        lines.append([name, *METHODS[name], 10, 11.5, count, *measure(scores, mos, reached[name], with_mos), 1.0])
    run.mkdir(parents=True, exist_ok=True)
    write(run / "methods.csv", [header, *lines])
    header = [
        "image",
        "score",
        "mos",
        "low",
        "high",
        *(f"{kind}_{name}" for name in methods for kind in ("target", "reached")),
    ]
    optional = [
        values if given else np.full(count, np.nan)
        for values, given in ((mos, with_mos), (low, with_reach), (high, with_reach))
    ]
    numbers = [scores, *optional, *(vectors[name] for name in methods for vectors in (wanted, reached))]
    write(run / "targets.csv", [header, *([name, *map(cell, row)] for name, row in zip(names, zip(*numbers)))])
    stage_one(run, ("sma", "reach"))
    ledger_of(folder, names, scores, reached[shown])
    flags = {"model": "tinyiqa", "attack": "ifgsm", "epsilon": "0.005", "method": shown, "images": "my photos"}
    model = {"name": "TinyIQA", "score_range": [0, 100], "higher_is_better": True}
    config = {"script": "rank_attack", "flags": flags, "images_root": str(folder / "images"), "model": model}
    (run / "config.json").write_text(json.dumps(config))
    statistic = {"label": "Mean change", "value": 12.0, "low": 10.0, "high": 14.0, "note": ""}
    counts = {"total": count, "ok": count, "failed": 0}
    (run / "summary.json").write_text(json.dumps({"images": counts, "statistics": {"mean": statistic}, "warnings": []}))
    return run


def ledger_of(folder, names, scores, reached):
    """The ledger and the pictures, as of any attack."""
    rows = []
    for k, name in enumerate(names):
        for root, level in ((folder / "images", 100), (folder / "run" / "adversarial", 101)):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 6), (level, level, level)).save(root / name)
        rows.append(
            [name, "ok", "", 6, 8, cell(scores[k]), cell(reached[k]), cell(reached[k]), 1.0, 0.1, 48.1, 0.99, 11]
        )
    write(folder / "run" / "rows.csv", [ATTACK_COLUMNS, *sorted(rows)])


def rank_targets_run(folder, count=12, with_mos=True):
    """A folder of rank_targets."""
    run = folder / "targets"
    run.mkdir(parents=True, exist_ok=True)
    scores, mos, _, _ = scores_of(count)
    names = [HOSTILE, *(str(k) for k in range(1, count))]
    rows = ([n, cell(s), cell(m) if with_mos else "", cell(100 - s)] for n, s, m in zip(names, scores, mos))
    write(run / "targets.csv", [["image", "score", "mos", "target"], *rows])
    stage_one(run, ("sma",))
    flags = {"scores": "my scores.csv", "agreement": "srocc", "variance_weight": 1e-4, "error_weight": 1e-4}
    (run / "config.json").write_text(json.dumps({"script": "rank_targets", "flags": flags}))
    numbers = {"srocc": -1.0, "krocc": -1.0, "plcc": -1.0, "rmse": 45.678, "mae": 34.567}
    summary = {"images": count, "steps": 1000, "targets_and_scores": numbers}
    summary |= {"scores_and_mos": numbers | {"srocc": 0.987}} if with_mos else {}
    (run / "summary.json").write_text(json.dumps(summary))
    return run
