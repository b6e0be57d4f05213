"""The benchmark of target scores: settings, rows, the table and the file, and that the peer computes the same."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import bench_ranking
from nriqa_jax.attacks.agreements import Spearman
from nriqa_jax.attacks.ranking import SmaConfig, sma_targets
from nriqa_jax.metrics.soft_rank import soft_rank

STEPS = ("paper_step", "strength_0.1_step", "paper_100000_steps", "n_2015_step", "n_10073_step", "sixteen_weights")
COMMON = ("case", "contender", "images", "steps", "strength", "seconds", "spread", "first_call_seconds", "ms_per_step")
KEYS = {*COMMON, "runs", "others_share"}


def report_of(*rows):
    about = {"cpu": "Abacus", "cores": 2, "versions": {"jax": "1.0"}, "devices": {"jax": "cpu x2"}}
    skipped = [{"name": "torch", "reason": "the package torch is not installed"}]
    return {"machine": about, "settings": {"repeats": 7}, "rows": list(rows), "skipped": skipped}


def test_table():
    row = dict(case="a_step", contender="nriqa_jax", images=9, strength=0.1, steps=100, seconds=0.00123456, spread=0.25)
    row |= dict(ms_per_step=0.0123456, first_call_seconds=1.26, runs=[1.0], others_share=0.0)
    peer = {**row, "contender": "peer", "ratio": 12.345, "difference": 1.4e-14, "target": "ratio >= 5", "met": "yes"}
    assert bench_ranking.table(report_of(row, peer, {**row, "steps": None, "ms_per_step": None})) == (
        "Abacus, 2 cores; jax 1.0 on cpu x2; medians of 7 interleaved runs; spread is their interquartile range.\n"
        """
| case   | contender | images | strength | steps | seconds  | spread | ms per step | ratio | target     | met | difference | first call seconds |
| ------ | --------- | ------ | -------- | ----- | -------- | ------ | ----------- | ----- | ---------- | --- | ---------- | ------------------ |
| a_step | nriqa_jax | 9      | 0.1      | 100   | 0.001235 | 25.0%  | 0.01235     |       |            |     |            | 1.3                |
| a_step | peer      | 9      | 0.1      | 100   | 0.001235 | 25.0%  | 0.01235     | 12.35 | ratio >= 5 | yes | 1e-14      | 1.3                |
| a_step | nriqa_jax | 9      | 0.1      |       | 0.001235 | 25.0%  |             |       |            |     |            | 1.3                |

- torch was skipped: the package torch is not installed"""  # noqa: E501
    )


def bad_scores(folder):
    """Files that hold no scores."""
    yield from ((folder / f"{i}.npy", text) for i, text in enumerate((b"", b"0.1 0.2")))
    arrays = (np.array(3.0), np.array([5.0]), np.zeros((0, 2)), np.array([1.0, 101.0]), np.array([1.0, np.nan]))
    for i, array in enumerate((*arrays, np.array(["a", "b"]), np.array([{}, {}]))):
        np.save(folder / f"array {i}.npy", array)
        yield folder / f"array {i}.npy", None
    np.savez(folder / "several.npz", a=np.arange(3.0))
    yield folder / "several.npz", None


def test_files_without_scores(script, tmp_path):
    for path, content in bad_scores(tmp_path):
        if content is not None:
            path.write_bytes(content)
        message = f"error: --scores={path} is no .npy file of two or more scores in 0..100\n"
        assert script(bench_ranking, scores=path) == (2, "", message)


@pytest.mark.parametrize(
    "setting",
    [
        *({"cases": "vgg"}, {"cases": ""}, {"repeats": 0}, {"repeats": "a"}, {"share": 0}, {"share": 1.5}),
        *({"share": "nan"}, {"scores": "/nowhere.npy"}, {"table": "/nowhere.json"}),
    ],
)
def test_bad_settings(refusal, setting):
    message = refusal(bench_ranking, **setting)
    ((name, value),) = setting.items()
    assert name in message or value in message


@pytest.mark.parametrize("text", ["no JSON", "[]", "{}", '{"machine": {}}'])
def test_a_file_without_a_table(script, tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    message = f"error: --table={tmp_path / 'a.json'} is no file that --out wrote\n"
    assert script(bench_ranking, table=tmp_path / "a.json") == (2, "", message)


@pytest.fixture
def small(monkeypatch):
    """Few images in the cases that have their own, and few steps."""
    few = {"steps": 20, "peer_steps": 20}
    cases = {name: case._replace(images=case.images and 20, **few) for name, case in bench_ranking.CASES.items()}
    monkeypatch.setattr(bench_ranking, "CASES", cases)


def test_every_case(small, script, tmp_path):
    pytest.importorskip("torch")
    out = tmp_path / "results" / "ranking.json"
    code, printed, _ = script(bench_ranking, repeats=2, out=out)
    assert code == 0
    report, lines = json.loads(out.read_text()), printed.splitlines()
    assert report.keys() == {"machine", "settings", "rows", "skipped"}
    assert {"numpy", "scipy", "nriqa_jax", "jax", "jaxlib", "torch"} <= report["machine"]["versions"].keys()
    assert report["machine"]["devices"].keys() == {"jax", "torch"}
    assert not report["skipped"]
    rows = report["rows"]
    assert rows == [json.loads(line) for line in lines[: len(rows)]]
    assert list(dict.fromkeys(row["case"] for row in rows)) == [*STEPS, "reachable_250"]
    for row in rows:
        assert row.keys() - {"ratio", "target", "met", "difference"} == KEYS
        assert len(row["runs"]) == 2
        assert min(row["runs"]) <= row["seconds"] <= max(row["runs"])
        assert row["steps"] is None or row["ms_per_step"] == pytest.approx(1000 * row["seconds"] / row["steps"])
    peers = [row for row in rows if row["contender"] == "torch"]
    assert len(peers) == 4
    assert all(row["difference"] < 1e-9 for row in peers)
    assert [(row["case"], row["target"]) for row in rows if "target" in row] == [
        *(("paper_step", "ratio >= 100"), ("strength_0.1_step", "ratio >= 5")),
        *[("paper_100000_steps", "seconds <= 3")] * 2,
        *(("n_2015_step", "ms_per_step <= 5"), ("n_10073_step", "ms_per_step <= 60"), ("sixteen_weights", "ratio < 6")),
    ]
    assert script(bench_ranking, table=out)[1].splitlines() == lines[len(rows) :]


def test_ratios_and_verdicts(monkeypatch):
    """Ratios are of times per step; a target of time is for this library only."""
    seconds = {"nriqa_jax": 0.2, "torch": 3.0}
    runners = {name: lambda name=name: (np.zeros(2), {"nriqa_jax": 4, "torch": 6}[name]) for name in seconds}
    takes = {id(runner): seconds[name] for name, runner in runners.items()}
    monkeypatch.setattr(bench_ranking, "_timed", lambda runner: (takes[id(runner)], runner()))
    scores = np.array([20.0, 30.0])
    case = bench_ranking.Case(lambda _: runners, ("ratio", ">=", 10), scores=scores, start=scores)
    ours, peer = bench_ranking._measure(case, 3, {})
    assert (ours["ms_per_step"], peer["ms_per_step"]) == pytest.approx((50, 500))
    assert peer["ratio"] == pytest.approx(10)
    assert (peer["target"], peer["met"]) == ("ratio >= 10", "yes")
    assert not {"ratio", "target", "met"} & ours.keys()
    ours, peer = bench_ranking._measure(case._replace(target=("ms_per_step", "<=", 49)), 3, {})
    assert (ours["target"], ours["met"]) == ("ms_per_step <= 49", "no")
    assert not {"target", "met"} & peer.keys()


def test_other_targets_than_those_of_the_peer_are_a_failure(script, monkeypatch, tmp_path):
    np.save(tmp_path / "scores.npy", np.array([[30, 1], [50, 2], [80, 3]]))
    settings = dict(cases="paper_step", share=0.001, repeats=1, scores=tmp_path / "scores.npy")
    wrong = SimpleNamespace(facts=lambda: ("1", "cpu"), run=lambda scores, start, strength, steps: start - 9)
    monkeypatch.setitem(sys.modules, "wrong_peer", wrong)
    monkeypatch.setattr(bench_ranking, "PEER_MODULE", "wrong_peer")
    code, printed, _ = script(bench_ranking, **settings)
    assert code == 1
    row = json.loads(printed.splitlines()[1])
    assert row["images"] == 3
    assert row["difference"] > 8


def test_without_pytorch(monkeypatch):
    monkeypatch.setattr(bench_ranking, "PEER_MODULE", "a_package_that_nobody_has")
    report = {}
    config = bench_ranking.Config(cases="strength_0.1_step,sixteen_weights", share=0.001, repeats=1)
    rows = bench_ranking.run(config, report)
    assert next(rows)["contender"] == "nriqa_jax"
    assert jnp.zeros(()).dtype == jnp.float32  # float64 stays inside
    assert [row["contender"] for row in rows] == ["nriqa_jax, one", "nriqa_jax, sixteen"]
    reason = "the package a_package_that_nobody_has is not installed"
    assert report["skipped"] == [{"name": "torch", "reason": reason}]


def test_sixteen_runs_are_on_all_devices():
    case = bench_ranking._cases(bench_ranking.Config(cases="sixteen_weights", share=0.001))["sixteen_weights"]
    with jax.enable_x64(True):
        (one, _), (sixteen, steps) = (runner() for runner in case.runners(case).values())
    assert one.shape == (232,)
    assert sixteen.shape == (16, 232)
    assert one.dtype == sixteen.dtype == np.float64
    assert len(sixteen.sharding.device_set) == 2
    assert steps == 20


@pytest.fixture
def peer():
    pytest.importorskip("torch")
    from experiments.contenders import torch_ranking

    return torch_ranking


@pytest.mark.parametrize("strength", [1.0, 0.1, 10.0])
@pytest.mark.parametrize("far", [False, True])
def test_the_peer_ends_at_the_same_targets(peer, strength, far):
    rng = np.random.default_rng(3)
    scores = rng.uniform(0, 100, 40)
    start = np.clip(scores + rng.normal(0, 30, 40), 0, 100) if far else scores - 0.01 * rng.integers(0, 2, 40)
    with jax.enable_x64(True):
        config = SmaConfig(agreement=Spearman(strength), steps=400, learning_rate=0.1, tolerance=-1.0)
        ours = np.asarray(sma_targets(jnp.asarray(scores), config, jnp.asarray(start)))
    peer.LEARNING_RATE, usual = 0.1, peer.LEARNING_RATE  # so that targets turn round and reach the bounds
    try:
        theirs = peer.run(scores, start, strength, 400)
    finally:
        peer.LEARNING_RATE = usual
    assert np.any((ours == 0) | (ours == 100))
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-6)


def test_ranks_of_the_peer(peer):
    import torch

    values = np.append(np.random.default_rng(4).uniform(0, 10, 30), [3.0, 3.0, 3.0])
    cotangent = np.random.default_rng(5).normal(size=33)
    given = torch.tensor(values, requires_grad=True)
    ranks = peer.SoftRank.apply(given, 0.5)
    ranks.backward(torch.tensor(cotangent))
    with jax.enable_x64(True):
        ours, pullback = jax.vjp(lambda values: soft_rank(values, 0.5), jnp.asarray(values))
        (gradient,) = pullback(jnp.asarray(cotangent))
    np.testing.assert_allclose(ranks.detach(), ours, atol=1e-12)
    np.testing.assert_allclose(given.grad, gradient, atol=1e-12)


def test_the_peer_does_not_follow_nan(peer):
    start = np.full(6, 40.0)
    np.testing.assert_array_equal(peer.run(np.arange(6.0), start, 1.0, 5), start)


def test_the_published_table_is_that_of_the_file():
    published = Path(bench_ranking.__file__).parent / "results" / "ranking" / "stage_one_cpu.json"
    rows = [line for line in bench_ranking.table(json.loads(published.read_text())).splitlines() if "|" in line]
    document = (Path(bench_ranking.__file__).parents[1] / "BUILD.md").read_text()
    assert len(rows) == 15
    assert all(row in document for row in rows)
    assert not any("| no " in row for row in rows)
