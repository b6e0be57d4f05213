"""Sets of attacked images: manifests list what is there, changes are named, a benchmark reads what it would make."""

import csv
import hashlib
import json
import shutil
from functools import partial

import numpy as np
import pytest
from PIL import Image

from experiments import attack_images, attacking, benchmark, build_attack_set, records
from experiments.build_attack_set import Config
from experiments.errors import UserError
from nriqa_jax.metrics import correlation

SETTINGS = {
    "models": "tinyiqa:embedded",
    "attacks": "fgsm,ifgsm:steps=2:epsilon=8/255",
    "epsilons": "2/255, 4/255",
    "batch_size": 2,
}
pytestmark = pytest.mark.xdist_group("attack sets")  # one set for all tests
PARTS = ("fgsm_epsilon=2_255", "fgsm_epsilon=4_255", "ifgsm_steps=2_epsilon=8_255")
NAMES = ("a.png", "b.bmp", "more/c.png")


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    """Intervals of summaries, which take most of the time of a small run, are not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(correlation, "bootstrap_interval", partial(correlation.bootstrap_interval, resamples=10))
        yield


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("clean"), np.random.default_rng(3)
    for name in NAMES:
        (folder / name).parent.mkdir(exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((32, 32), Image.Resampling.BICUBIC).save(folder / name)
    (folder / "broken.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def whole(photographs, tmp_path_factory):
    """A whole set."""
    out = tmp_path_factory.mktemp("set") / "whole"
    built = build_attack_set.run(Config(images=str(photographs), out=str(out), **SETTINGS))
    assert built.failed == len(PARTS)  # the broken image
    assert len(built.rows) == len(PARTS) * len(NAMES)
    return out


@pytest.fixture
def copied(whole, tmp_path):
    """A set that may be damaged."""
    return shutil.copytree(whole, tmp_path / "copied")


def test_the_manifest_lists_every_file(whole, photographs):
    listed = rows(whole / "manifest.csv")
    assert [(row["path"].split("/")[2], row["source"]) for row in listed] == [(p, n) for p in PARTS for n in NAMES]
    assert {row["path"] for row in listed} == {path.relative_to(whole).as_posix() for path in whole.rglob("*.png")}
    radii = {"fgsm": ["epsilon=2/255", "epsilon=4/255"], "ifgsm": ["steps=2:epsilon=8/255"]}
    for row in listed:
        assert row["settings"] in radii[row["attack"]]
        assert row["settings"].endswith(f"epsilon={row['epsilon']}")
        for file, name in ((whole / row["path"], "sha256"), (photographs / row["source"], "source_sha256")):
            assert row[name] == hashlib.sha256(file.read_bytes()).hexdigest()
        moved = records.load_image(whole / row["path"]) - records.load_image(photographs / row["source"]).astype(int)
        assert 0 < np.abs(moved).max() <= int(row["epsilon"].split("/")[0])
        own = next(r for r in rows(whole / row["path"].split("/adv")[0] / "rows.csv") if r["image"] == row["source"])
        assert [row[name] for name in ("score_clean", "score_adversarial")] == [
            own["score_clean"],
            own["score_adversarial"],
        ]
        assert float(row["score_adversarial"]) > float(row["score_clean"])


def test_a_killed_run_goes_on_and_ends_with_the_same_manifest(whole, photographs, tmp_path, monkeypatch):
    config = Config(images=str(photographs), out=str(tmp_path / "again"), **SETTINGS)
    calls, attack, whole_run = [], attacking._attack, attack_images.run

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return attack(*arguments)

    def counted(own):
        calls.append(own.out)
        return whole_run(own)

    with monkeypatch.context() as patch:
        patch.setattr(attacking, "_attack", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build_attack_set.run(config)
    assert len(rows(tmp_path / "again" / "manifest.csv")) == len(NAMES)
    calls.clear()
    monkeypatch.setattr(attack_images, "run", counted)
    build_attack_set.run(config)
    assert [out.rpartition("/")[2] for out in calls] == list(PARTS[1:])
    assert (tmp_path / "again" / "manifest.csv").read_bytes() == (whole / "manifest.csv").read_bytes()
    shutil.rmtree(tmp_path / "again" / "attacked" / "tinyiqa" / PARTS[0])
    build_attack_set.run(config)
    assert [out.rpartition("/")[2] for out in calls] == [*PARTS[1:], PARTS[0]]
    assert (tmp_path / "again" / "manifest.csv").read_bytes() == (whole / "manifest.csv").read_bytes()


def test_changes_are_named(copied, photographs, tmp_path):
    def refused(run, *arguments):
        with pytest.raises(UserError) as found:
            run(*arguments)
        return str(found.value)

    assert build_attack_set.check(copied).startswith("9 attacked images and their sources are as ")
    file = copied / "attacked" / "tinyiqa" / PARTS[1] / "adversarial" / "b.png"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    message = refused(build_attack_set.check, copied)
    assert f"manifest.csv lists: {file} changed or is missing; restore" in message
    config = Config(**SETTINGS, images=str(photographs), out=str(copied))
    assert refused(build_attack_set.run, config) == message
    file.unlink()
    assert refused(build_attack_set.run, config) == message
    manifest = (copied / "manifest.csv").rename(tmp_path / "manifest.csv")
    assert refused(build_attack_set.run, config).startswith(f"{file} is missing although it was written;")
    manifest.rename(copied / "manifest.csv")
    file.write_bytes(content)
    table = copied / "attacked" / "tinyiqa" / PARTS[0] / "rows.csv"
    original = table.read_text()
    table.write_text(original.replace("b.bmp,ok,,32,32,", "b.bmp,ok,,32,32,9"))
    assert f"lists: {table} changed" in refused(build_attack_set.check, copied)
    table.write_text(original)
    other = shutil.copytree(photographs, tmp_path / "other")
    shutil.copy(other / "a.png", other / "more" / "c.png")
    assert f"lists: {other}/more/c.png changed" in refused(build_attack_set.check, copied, str(other))
    moved = json.loads((copied / "config.json").read_text()) | {"images_root": str(tmp_path / "gone")}
    (copied / "config.json").write_text(json.dumps(moved))
    assert "9 attacked images and their scores (the sources are not at" in build_attack_set.check(copied)


def test_a_benchmark_reads_a_set_as_it_would_make_it(whole, copied, photographs, tmp_path, refusal, capsys):
    settings = {
        "batch_size": 2,
        "models": "tinyiqa:embedded",
        "images": str(photographs),
        "purifiers": "flip",
        "adaptive": "none",
    }
    settings |= {"attacks": "fgsm:epsilon=4/255"}
    tables = []
    for name, given in (("made", ""), ("read", str(whole))):
        out = tmp_path / name
        benchmark.run(benchmark.Config(out=str(out), attack_set=given, **settings))
        tables.append((out / "cells.csv").read_bytes())
    assert tables[0] == tables[1]
    assert (tmp_path / "made" / "attacked" / "tinyiqa" / "fgsm_epsilon=4_255" / "adversarial").exists()
    assert not list((tmp_path / "read" / "attacked").rglob("adversarial"))
    capsys.readouterr()

    def refused(**others):
        return refusal(benchmark, **{**settings, "out": tmp_path / "no", "attack_set": copied, **others})

    assert "no images of fgsm:epsilon=3/255 on tinyiqa; its attacks: fgsm:epsilon=2/255," in refused(
        attacks="fgsm:epsilon=3/255"
    )
    assert "was made with --objective=raise_quality, not lower_quality" in refused(objective="lower_quality")
    assert "was made with other weights of tinyiqa" in refused(models="tinyiqa:random")
    assert "was made from other images" in refused(images=photographs / "more")
    config = (copied / "config.json").read_text()
    (copied / "config.json").write_text(config.replace("grid v1", "grid v0"))
    assert "was made under the protocol grid v0 of tinyiqa" in refused()
    (copied / "config.json").write_text(config)
    (copied / "attacked" / "tinyiqa" / PARTS[1] / "adversarial" / "a.png").write_bytes(b"")
    assert "adversarial/a.png changed" in refused()


def test_settings_that_do_not_fit_are_named(copied, photographs, tmp_path, refusal, script):
    code, printed, _ = script(build_attack_set, out=copied, verify=True)
    assert (code, printed.startswith("9 attacked images and their sources are as ")) == (0, True)

    def refused(**others):
        return refusal(build_attack_set, **{**SETTINGS, "images": photographs, "out": tmp_path / "out", **others})

    assert "missing --models, --images" in refusal(build_attack_set, attacks="fgsm", out=tmp_path / "out")
    assert "--epsilons is empty, and --attacks: fgsm has no epsilon of its own" in refused(epsilons="")
    assert "--epsilons=2 is outside (0, 1]" in refused(epsilons="2")
    assert "fgsm:epsilon=2/255 is there twice" in refused(epsilons="2/255,2/255")
    assert "--steps does not apply to --attack=fgsm" in refused(attacks="fgsm:steps=3")
    assert "config.json is missing" in refusal(build_attack_set, out=tmp_path / "out", verify=True)
