"""The speed benchmark: settings, rows, the table and the file, and measurements of small cases."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import bench_speed
from experiments.contenders import race, results, workloads
from experiments.contenders.workloads import Entry, Workload

RESULTS = Path(bench_speed.__file__).parent / "results"
SMALL = Workload("cnniqa", "step", 2, (65, 65))


def outcome(*runs, **others):
    return race.Outcome(
        first_call_seconds=2.0, score=1.5, runs=list(runs), peak_memory_bytes=5_000_000, others_share=0.03, **others
    )


def test_rows():
    outcomes = {"nriqa_jax": outcome(0.2, 0.1, 0.2, 0.3), "peer": outcome(0.4), "broken": outcome(error="no luck")}
    first, peer, broken = results.rows("cnniqa_step", SMALL, outcomes, 10**9, 5e10)
    seconds = dict(seconds=0.2, seconds_min=0.1, seconds_max=0.3, spread=pytest.approx(0.25), images_per_second=10.0)
    work = dict(flops=10**9, flops_per_second=5e9, share_of_peak=pytest.approx(0.1), peak_memory_bytes=5_000_000)
    case = dict(case="cnniqa_step", batch=2)
    others = dict(ratio=1.0, others_share=0.03, first_call_seconds=2.0, score=1.5, runs=[0.2, 0.1, 0.2, 0.3])
    assert first == dict(contender="nriqa_jax", **case, **seconds, **work, **others)
    assert peer["ratio"] == 2.0  # this library is twice as fast
    assert broken == dict(contender="broken", **case, error="no luck")
    assert results.rows("folder", SMALL, {"peer": outcome(0.4)}, None, 5e10)[0]["ratio"] is None


def test_table():
    outcomes = {"nriqa_jax": outcome(0.2), "peer": outcome(0.4), "broken": outcome(error="no luck")}
    report = {
        "machine": dict(
            cpu="Abacus", cores=2, memory_bytes=8 * 10**9, devices={"jax": "cpu x1"}, versions={"jax": "1.0"}
        ),
        "settings": {"precision": "highest", "repeats": 7},
        "peak_flops": {"jax": 5e10, "torch": 4e10},
        "rows": results.rows("cnniqa_step", SMALL, outcomes, 10**9, 5e10),
        "skipped": [{"name": "torchattacks", "reason": "the package torchattacks is not installed"}],
    }
    assert results.table(report) == (
        "Abacus, 2 cores, 8 GB; jax 1.0 on cpu x1; precision highest; matrix products reach 50 GFLOP/s; medians of 7 "
        "interleaved runs; spread is their interquartile range; other programs had at most 3% of the processor "
        """meanwhile.

| case        | batch | contender | seconds | spread | images/s | ours is faster by | of peak | peak MB | first call s |
|-------------|------:|-----------|--------:|-------:|---------:|------------------:|--------:|--------:|-------------:|
| cnniqa_step |     2 | nriqa_jax |     0.2 |   0.0% |       10 |                   |     10% |       5 |          2.0 |
| cnniqa_step |     2 | peer      |     0.4 |   0.0% |        5 |              2.00 |      5% |       5 |          2.0 |
| cnniqa_step |     2 | broken    |  failed |        |          |                   |         |         |              |

- broken failed on cnniqa_step, batch 2: no luck
- torchattacks was skipped: the package torchattacks is not installed"""
    )


@pytest.mark.parametrize(
    "setting",
    [
        *({"batch_sizes": text} for text in ("a", "0", "")),
        *({"cases": "vgg"}, {"contenders": "nriqa_jax,abacus"}, {"repeats": 0}, {"precision": "fp8"}),
        *({"cases": "folder", "images": "/nowhere"}, {"table": "/nowhere.json"}),
    ],
)
def test_bad_settings(refusal, setting):
    message = refusal(bench_speed, **setting)
    name, value = list(setting.items())[-1]
    assert f"--{name}" in message or (name == "table" and value in message)


@pytest.mark.parametrize("text", ["no JSON", "[]", "{}"])
def test_a_file_without_a_table(script, tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    code, _, message = script(bench_speed, table=tmp_path / "a.json")
    assert code == 2
    assert "is no file that --out wrote" in message


def test_small_batches_come_first():
    config = bench_speed.Config(cases="cnniqa_step", batch_sizes="8,1,8")
    plan = bench_speed._plan(config, {"skipped": []})
    assert plan == {"cnniqa_step": [Workload("cnniqa", "step", batch, (299, 299)) for batch in (1, 8)]}


def test_names_for_several_cases():
    plan = bench_speed._plan(bench_speed.Config(cases="cnniqa_madc5,attacks", batch_sizes="16"), {"skipped": []})
    assert next(iter(plan)) == "cnniqa_madc5"
    assert {plan[case][0].task for case in plan} == set(workloads.ATTACKS)
    assert all(workload.model == "cnniqa" and workload.batch == 16 for (workload,) in plan.values())
    assert set(bench_speed._plan(bench_speed.Config(), {"skipped": []})) == set(workloads.CASES) - {"folder"}


@pytest.fixture
def small(monkeypatch):
    """CNNIQA on small images."""
    monkeypatch.setitem(workloads.SIZES, "cnniqa", (65, 65))


def test_a_measurement(small, script, tmp_path):
    pytest.importorskip("torch")
    names, out = ["nriqa_jax", "torch_nchw"], tmp_path / "results" / "speed.json"
    settings = {"cases": "cnniqa_ifgsm10,folder", "batch_sizes": 2, "repeats": 2, "device": "cpu"}
    code, printed, said = script(bench_speed, contenders=",".join(names), out=out, **settings)
    assert code == 0
    assert said == "folder is skipped: --images names no folder\n"
    lines = printed.splitlines()
    report = json.loads(out.read_text())
    assert report.keys() == {"machine", "settings", "peak_flops", "rows", "skipped"}
    assert report["machine"].keys() == {"cpu", "cores", "memory_bytes", "os", "versions", "devices"}
    assert {"python", "numpy", "jax", "jaxlib", "flax", "torch"} <= report["machine"]["versions"].keys()
    assert report["settings"] == {**report["settings"], "device": "cpu", "repeats": 2, "precision": "highest"}
    assert report["peak_flops"].keys() == {"jax", "torch"}
    assert report["skipped"] == [{"name": "folder", "reason": "--images names no folder"}]
    assert report["rows"] == [json.loads(line) for line in lines[:2]]
    assert [row["contender"] for row in report["rows"]] == names
    for row in report["rows"]:
        assert row["flops"] == report["rows"][0]["flops"] > 0
        assert 0 < row["share_of_peak"] < 1
        assert row["score"] == pytest.approx(report["rows"][0]["score"], rel=1e-3)
        assert row["images_per_second"] == pytest.approx(2 / row["seconds"])
        assert row["peak_memory_bytes"] > 50e6
        assert len(row["runs"]) == 2
    assert script(bench_speed, table=out)[1].splitlines() == lines[2:]


@pytest.mark.slow
@pytest.mark.full
def test_every_contender_and_both_loops(small, photo_folder):
    pytest.importorskip("torch")
    names = "nriqa_jax,nriqa_jax_fused,nriqa_jax_host,torch_channels_last,torch_reference,torch_compile,torchattacks"
    settings = {"cases": "cnniqa_ifgsm10,folder", "batch_sizes": "2", "repeats": 1, "device": "cpu"}
    report = {}
    config = bench_speed.Config(contenders=names, images=str(photo_folder), **settings)
    rows = list(bench_speed.run(config, report))
    assert rows == report["rows"]
    assert not [row["error"] for row in rows if "error" in row]
    assert {entry["name"] for entry in report["skipped"]} <= {"torchattacks"}
    scores = {}
    for row in rows:
        scores.setdefault((row["case"], row["batch"]), {})[row["contender"]] = row["score"]
    assert scores.keys() == {("cnniqa_ifgsm10", 2), ("folder", 7)}
    assert set(names.split(",")) - scores["cnniqa_ifgsm10", 2].keys() <= {"torchattacks"}
    assert scores["folder", 7].keys() == {"nriqa_jax", "torch_reference"}
    for found in scores.values():
        np.testing.assert_allclose(list(found.values()), found["nriqa_jax"], rtol=1e-3)


@pytest.mark.full
def test_attacks_run_batched_and_one_by_one(small):
    pytest.importorskip("torch")
    settings = {"cases": "cnniqa_ssah5,cnniqa_advcf5", "batch_sizes": "2", "repeats": 1, "device": "cpu"}
    rows = list(bench_speed.run(bench_speed.Config(contenders="nriqa_jax,torch_one_by_one,torch_compile", **settings)))
    names = ["nriqa_jax", "torch_one_by_one"]  # and no others: those who take batches know I-FGSM alone
    assert [row["contender"] for row in rows] == 2 * names
    for ours, theirs in (rows[:2], rows[2:]):
        assert theirs["ratio"] > 0
        assert theirs["score"] == pytest.approx(ours["score"], abs=0.01)


def test_without_pytorch_there_is_no_count_of_operations(small, monkeypatch):
    absent = Entry("a_package_that_nobody_has:Peer")
    monkeypatch.setattr(bench_speed, "CONTENDERS", {**workloads.CONTENDERS, "torch_nchw": absent})
    settings = {"cases": "cnniqa_step", "batch_sizes": "1", "repeats": 1, "device": "cpu"}
    report = {}
    (row,) = bench_speed.run(bench_speed.Config(contenders="nriqa_jax,torch_nchw", **settings), report)
    assert row["contender"] == "nriqa_jax"
    assert row["flops"] is row["share_of_peak"] is None
    reason = "the package a_package_that_nobody_has is not installed"
    names = ("the count of operations", "torch_nchw")
    assert report["skipped"] == [{"name": name, "reason": reason} for name in names]


def test_a_device_that_is_not_there():
    config = bench_speed.Config(cases="cnniqa_step", device="gpu")
    if jax.default_backend() == "gpu":
        pytest.skip("it is there")
    with pytest.raises(bench_speed.cli.UserError, match=r"^--device=gpu: nriqa_jax cannot start: .*finds no gpu"):
        next(bench_speed.run(config))


@pytest.mark.parametrize("name", sorted(path.name for path in RESULTS.glob("*.json")))
def test_the_published_table_is_that_of_the_file(name):
    table = results.table(json.loads((RESULTS / name).read_text()))
    rows = [line for line in table.splitlines() if line.startswith("|")]
    document = (RESULTS.parents[1] / "BUILD.md").read_text()
    assert len(rows) > 5
    for row in rows:
        assert row in document
