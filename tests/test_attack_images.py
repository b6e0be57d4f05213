"""The attack script: its table, its files, and that batches, seeds and interruptions leave no trace."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import attack_images, ledger, records

ROOT = Path(__file__).parents[1]
COLUMNS = (
    "image,status,error,height,width,score_clean,score_adversarial,score_adversarial_float,"
    "linf_255,l2,psnr,ssim,queries"
)


def config(folder, out, **settings):
    defaults = {"model": "tinyiqa", "weights": "random", "attack": "ifgsm", "steps": 4}
    return attack_images.Config(**{**defaults, "images": str(folder), "out": str(out), **settings})


def read(out):
    with (out / "rows.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_ledger(photo_folder, tmp_path, script):
    code, printed, _ = script(
        attack_images,
        model="tinyiqa",
        weights="random",
        images=photo_folder,
        out=tmp_path,
        batch_size=2,
    )
    assert code == 0
    assert "7 of 7 images attacked at epsilon 4/255" in printed
    rows = read(tmp_path)
    assert (tmp_path / "rows.csv").read_text().splitlines()[0] == COLUMNS
    assert [row["image"] for row in rows] == [
        "more/p3.png",
        *(f"p{i}.{'bmp' if i == 2 else 'png'}" for i in (0, 1, 2, 4, 5, 6)),
    ]
    for row in rows:
        clean = records.load_image(photo_folder / row["image"]).astype(int)
        saved = np.asarray(Image.open((tmp_path / "adversarial" / row["image"]).with_suffix(".png"))).astype(int)
        assert (int(row["height"]), int(row["width"])) == clean.shape[:2]
        assert int(row["linf_255"]) == np.abs(saved - clean).max() <= 4
        assert float(row["l2"]) == pytest.approx(np.linalg.norm((saved - clean) / 255), rel=1e-4)
        assert float(row["psnr"]) == pytest.approx(-10 * np.log10(np.mean(((saved - clean) / 255) ** 2)), rel=1e-4)
        assert int(row["queries"]) == 11
    description = json.loads((tmp_path / "config.json").read_text())
    assert description["flags"]["epsilon"] == "4/255"
    assert description["model"]["higher_is_better"] is True
    assert len(description["weights_sha256"]) == 64
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["images"] == {"total": 7, "ok": 7, "failed": 0}
    assert found["statistics"]["srocc"]["low"] <= found["statistics"]["srocc"]["value"] <= 1
    assert set(found["diagnostics"]) >= {"zero_gradient", "nonfinite", "unmoved", "at_budget", "gain_over_noise"}


def test_scores_are_those_of_the_saved_files(photo_folder, tmp_path):
    from experiments import score_images

    attack_images.run(config(photo_folder, tmp_path / "attack"))
    rows = {Path(row["image"]).with_suffix(".png").as_posix(): row for row in read(tmp_path / "attack")}
    again = score_images.run(
        score_images.Config(
            model="tinyiqa", weights="random", images=str(tmp_path / "attack" / "adversarial"), out=str(tmp_path / "s")
        )
    )
    assert len(again.rows) == 7
    for name, row in again.rows.items():
        assert float(row["score"]) == pytest.approx(float(rows[name]["score_adversarial"]), abs=1e-4)


@pytest.mark.parametrize(
    ("objective", "sign"),
    [("raise_score", 1), ("lower_score", -1), ("raise_quality", -1), ("lower_quality", 1)],
)
def test_directions_of_a_lower_is_better_model(two_pictures, tmp_path, objective, sign):
    table = attack_images.run(config(two_pictures, tmp_path, model="cnniqa", protocol="grid", objective=objective))
    assert np.all(sign * (table.numbers("score_adversarial") - table.numbers("score_clean")) > 0)


def test_away_goes_to_the_far_end_of_each_image(photo_folder, tmp_path):
    table = attack_images.run(config(photo_folder, tmp_path))
    clean, adversarial = table.numbers("score_clean"), table.numbers("score_adversarial")
    np.testing.assert_array_equal(np.sign(adversarial - clean), np.where(clean < 50, 1, -1))


@pytest.mark.parametrize("attack", ["apgd", *(pytest.param(name, marks=pytest.mark.full) for name in ("ifgsm", "pgd"))])
def test_rows_do_not_depend_on_the_batch(photo_folder, tmp_path, attack):
    settings = {"model": "cnniqa", "protocol": "grid", "attack": attack}
    tables = [
        attack_images.run(config(photo_folder, tmp_path / str(size), batch_size=size, **settings)) for size in (1, 16)
    ]
    assert tables[0].rows.keys() == tables[1].rows.keys()
    for column in ledger.ATTACK_COLUMNS[5:]:
        np.testing.assert_allclose(tables[0].numbers(column), tables[1].numbers(column), rtol=1e-4, atol=1e-4)


def test_a_finished_run_is_left_alone_and_a_larger_folder_continued(photo_folder, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("p0.png", "p1.png"):
        (folder / name).write_bytes((photo_folder / name).read_bytes())
    out = tmp_path / "out"
    attack_images.run(config(folder, out))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*.png")}
    summary = (out / "summary.json").stat().st_mtime_ns
    attack_images.run(config(folder, out))
    assert (out / "summary.json").stat().st_mtime_ns == summary
    (folder / "p5.png").write_bytes((photo_folder / "p5.png").read_bytes())
    assert len(attack_images.run(config(folder, out)).rows) == 3
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    assert json.loads((out / "summary.json").read_text())["images"]["total"] == 3


def snapshot(out):
    """Everything of a run that must be reproducible."""
    times = {"timings.csv", "performance.json"}
    kept = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name not in times]
    content = {path.relative_to(out).as_posix(): path.read_bytes() for path in kept}
    flags = json.loads(content.pop("config.json"))
    return content, {key: value for key, value in flags.items() if key != "flags"}


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.full)])
def test_killed_runs_continue_to_the_same_bytes(kills, photo_folder, tmp_path):
    """A run is killed several times at random moments; timings aside, its folder ends as that of an undisturbed run."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(30):
        (folder / f"{i:02}.png").write_bytes((photo_folder / f"p{i % 2}.png").read_bytes())
    command = [sys.executable, "-m", "experiments.attack_images", "--model=tinyiqa", "--weights=random"]
    command += [f"--images={folder}", "--attack=pgd", "--batch_size=2", "--steps=40"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run([*command, f"--out={whole}"], check=True, cwd=ROOT, capture_output=True)
    rng, alive = random.Random(0), 0
    for _ in range(kills):
        process = subprocess.Popen([*command, f"--out={broken}"], cwd=ROOT, stderr=subprocess.DEVNULL)
        files = set(broken.rglob("*"))
        while process.poll() is None and set(broken.rglob("*")) == files:
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.25))
        alive += process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert alive >= kills / 2, "most kills came too late to mean anything"
    subprocess.run([*command, f"--out={broken}"], check=True, cwd=ROOT, capture_output=True)
    assert snapshot(broken) == snapshot(whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "passes"), [("raise_score", lambda m: m > 100), ("lower_score", lambda m: m < 0)]
)
def test_the_trained_model_falls_on_real_photographs(shared, tmp_path, objective, passes):
    """Epsilon 4/255, ten steps, both directions, on four of the photographs."""
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted((shared / "data" / "nips2017" / "images").glob("*.png"))[::64]:
        (folder / path.name).symlink_to(path)
    weights = shared / "weights" / "cnniqa_live.pth"
    table = attack_images.run(
        config(folder, tmp_path / "out", model="cnniqa", weights=str(weights), objective=objective, steps=10)
    )
    assert 15 < np.mean(table.numbers("score_clean")) < 35
    assert passes(np.mean(table.numbers("score_adversarial")))
    assert np.max(table.numbers("linf_255")) <= 4
