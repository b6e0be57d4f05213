"""The benchmark of defenses: tables say what the library says, nothing is computed twice, a kill costs little."""

import csv
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from experiments import attacking, benchmark, pipeline, records
from experiments.benchmark import Config
from experiments.catalog import ATTACKS, PURIFIERS
from experiments.listed import load_models
from experiments.matrix import plan, spelled
from nriqa_jax.attacks import objectives, worst_case
from nriqa_jax.attacks.composite import Matched
from nriqa_jax.image import from_uint8
from nriqa_jax.metrics import fidelity
from nriqa_jax.parallel import call

pytestmark = pytest.mark.xdist_group("matrix")  # one run for all tests

SETTINGS = {"models": "tinyiqa:embedded", "attacks": "fgsm,ifgsm:steps=2:epsilon=8/255", "draws": 2}
SETTINGS |= {"adaptive": "ifgsm:steps=2:epsilon=8/255"}
SETTINGS |= {"purifiers": "flip,color_quantization:levels=8,random_noise:sigma=0.05", "format": "msu"}
IFGSM = "ifgsm_steps=2_epsilon=8_255"


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def photographs(photo_folder, tmp_path_factory):
    """Four small photographs of one size, and MOS of them."""
    folder = tmp_path_factory.mktemp("four")
    names = ["p0.png", "p1.png", "p2.bmp", "p4.png"]
    for name in names:
        shutil.copy(photo_folder / name, folder / name)
    mos = tmp_path_factory.mktemp("mos") / "mos.csv"
    mos.write_text("image,mos\n" + "".join(f"{name},{i % 3}\n" for i, name in enumerate(names)))
    return folder, mos


@pytest.fixture(scope="module")
def whole(photographs, tmp_path_factory):
    """A whole run."""
    folder, mos = photographs
    out = tmp_path_factory.mktemp("run") / "whole"
    benchmark.run(Config(images=str(folder), mos=str(mos), out=str(out), **SETTINGS))
    return out


def test_there_is_a_cell_for_each_combination(whole):
    found = rows(whole / "cells.csv")
    names = [(row["attack"], row["purifier"], row["adaptive"], row["differentiated"]) for row in found]
    fgsm, own = "fgsm", "ifgsm:steps=2:epsilon=8/255"
    noise, quantised = "random_noise:sigma=0.05", "color_quantization:levels=8"
    assert names == [
        *((fgsm, purifier, "0", "") for purifier in ("flip", quantised, noise)),
        *((own, "flip", "0", ""), (own, "flip", "1", "end to end")),
        *((own, quantised, "0", ""), (own, quantised, "1", "bpda")),
        *((own, noise, "0", ""), (own, noise, "1", "end to end + eot")),
    ]
    assert {row["images"] for row in found} == {"4"}
    assert [row["purifier"] for row in rows(whole / "times.csv")] == ["flip", quantised, noise]


def test_a_page_shows_what_each_purifier_is_worth(whole, photographs):
    """It is made of what the run left; its pictures are what the purifier makes of attacked images."""
    html = (whole / "report.html").read_text(encoding="utf-8")
    assert "What attacks that know the purifier leave of the defense" in html
    assert len(list((whole / "figures").glob("*.svg"))) == len(list((whole / "figures").glob("*.png"))) == 6
    strips = {(row["purifier"], row["adaptive"]): row for row in rows(whole / "strips.csv")}
    assert list(strips)[:2] == [("flip", "0"), ("flip", "1")]
    assert len(strips) == 6
    for row in (strips["flip", "0"], strips["flip", "1"]):
        attacked, purified = (records.load_image(whole / row[name]) for name in ("adversarial", "purified"))
        np.testing.assert_array_equal(purified, attacked[::-1, ::-1])
        assert not np.array_equal(attacked, records.load_image(photographs[0] / row["image"]))
    noisy = strips["random_noise:sigma=0.05", "1"]
    table = rows(whole / "cells" / "tinyiqa" / IFGSM / "random_noise_sigma=0.05" / "adaptive.csv")
    expected = next(float(row["psnr_defended_attacked"]) for row in table if row["image"] == noisy["image"])
    clean, purified = (
        from_uint8(jnp.asarray(records.load_image(path)[None]))
        for path in (photographs[0] / noisy["image"], whole / noisy["purified"])
    )
    assert float(fidelity.psnr(clean, purified)[0]) == pytest.approx(expected, abs=0.1)  # up to rounding to 8 bits


def test_tables_say_what_the_library_says(whole, photographs):
    """A cell of a purifier that draws, from the files alone."""
    subject = load_models("tinyiqa:embedded", 0)["tinyiqa"]
    purifier = spelled.purifier(spelled.read("purifiers", "random_noise:sigma=0.05", PURIFIERS)[0])
    found = rows(whole / "cells" / "tinyiqa" / IFGSM / "random_noise_sigma=0.05" / "unaware.csv")
    names = [row["image"] for row in found]
    clean = np.stack([records.load_image(photographs[0] / name) for name in names])
    files = [(whole / "attacked" / "tinyiqa" / IFGSM / "adversarial" / name).with_suffix(".png") for name in names]
    attacked = np.stack([records.load_image(file) for file in files])
    key = jax.random.fold_in(jax.random.key(0), 1)
    keys = pipeline.image_keys(key, jnp.asarray(pipeline.image_numbers(names)))
    images = {"clear": from_uint8(jnp.asarray(clean)), "attacked": from_uint8(jnp.asarray(attacked))}
    images |= {f"defended_{name}": call(purifier, batch, keys) for name, batch in list(images.items())}
    images["defended_clear"] = images.pop("defended_clear")
    expected = {name: np.asarray(call(subject.score_fn, batch)) for name, batch in images.items()}
    columns = {name: np.array([float(row[name]) for row in found]) for name in expected}
    for name, values in expected.items():
        np.testing.assert_allclose(columns[name], values, atol=2e-4, err_msg=name)
    assert not np.allclose(columns["defended_clear"], columns["clear"], atol=0.1)
    for name in ("defended_clear", "defended_attacked"):
        similar = call(fidelity.ssim_uniform, images[name], images["clear"])
        np.testing.assert_allclose([float(row[f"ssim_uniform_{name}"]) for row in found], similar, atol=1e-5)
    cell = rows(whole / "cells.csv")[-2]
    gain = np.mean(np.abs(columns["defended_clear"] - columns["defended_attacked"])) / 100
    assert float(cell["both_defended_abs_gain"]) == pytest.approx(gain, abs=1e-6)
    assert float(cell["both_defended_abs_gain_low"]) <= gain <= float(cell["both_defended_abs_gain_high"])
    ranks = stats.spearmanr([float(row["mos"]) for row in found], columns["defended_attacked"]).statistic
    assert float(cell["robust_attacked_srocc_mos"]) == pytest.approx(ranks, abs=1e-6)


def test_attacks_that_know_the_purifier_get_further(whole):
    unaware, aware = rows(whole / "cells.csv")[3:5]  # I-FGSM and a flip
    assert float(aware["both_defended_abs_gain"]) > float(unaware["both_defended_abs_gain"])
    assert float(aware["gain_removed"]) < float(unaware["gain_removed"])
    assert unaware["as_strong_as_unaware"] == "1.000000"
    table = rows(whole / "cells" / "tinyiqa" / IFGSM / "flip" / "adaptive.csv")
    before = rows(whole / "cells" / "tinyiqa" / IFGSM / "flip" / "unaware.csv")
    assert [row["attacked_unaware"] for row in table] == [row["attacked"] for row in before]
    assert [row["attacked"] for row in table] != [row["attacked"] for row in before]
    assert [row["clear"] for row in table] == [row["clear"] for row in before]


def test_the_export_has_the_columns_of_the_benchmark(whole):
    found = rows(whole / "msu" / "tinyiqa" / IFGSM / "flip" / "adaptive.csv")
    pairs = ("clear_defended-clear", "clear_attacked", "clear_defended-attacked", "attacked_defended-attacked")
    pairs += ("defended-clear_defended-attacked",)
    measures = ("ssim", "mse", "psnr", "l_inf", "mae")
    head = ["", "image_name", "clear", "attacked", "defended-clear", "defended-attacked", "mos"]
    assert list(found[0]) == head + [f"{measure}_{pair}" for pair in pairs for measure in measures]
    assert [row[""] for row in found] == ["0", "1", "2", "3"]
    row = found[1]
    assert 0 < float(row["l_inf_clear_attacked"]) <= 8 / 255 + 1e-6
    assert float(row["psnr_clear_attacked"]) == pytest.approx(
        -10 * np.log10(float(row["mse_clear_attacked"])), abs=1e-4
    )
    # A flip changes no distance.
    for measure in ("mse", "l_inf", "mae"):
        turned = float(row[f"{measure}_defended-clear_defended-attacked"])
        assert turned == pytest.approx(float(row[f"{measure}_clear_attacked"]), rel=1e-4)


def test_a_killed_run_goes_on_and_ends_with_the_same_tables(whole, photographs, tmp_path, monkeypatch):
    folder, mos = photographs
    out = tmp_path / "again"
    config = Config(images=str(folder), mos=str(mos), out=str(out), **SETTINGS)
    calls, attack = [], attacking._attack
    monkeypatch.setattr(benchmark, "_draw", lambda out: None)  # the page follows from the tables

    def counted(last):
        def run(*arguments):
            calls.append(arguments)
            if len(calls) == last:
                raise KeyboardInterrupt
            return attack(*arguments)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(attacking, "_attack", counted(4))
        with pytest.raises(KeyboardInterrupt):
            benchmark.run(config)
    assert not (out / "cells.csv").exists()
    calls.clear()
    monkeypatch.setattr(attacking, "_attack", counted(99))
    benchmark.run(config)
    assert len(calls) == 2  # of five sets, three were there
    for path in sorted(whole.rglob("*.csv")):
        if path.name not in ("times.csv", "timings.csv"):
            assert (out / path.relative_to(whole)).read_bytes() == path.read_bytes(), path
    benchmark.run(config)
    assert len(calls) == 2


def test_the_plan_counts_every_set_once(script, photographs, tmp_path):
    settings = {**SETTINGS, "images": photographs[0], "out": tmp_path / "none", "plan_only": True}
    code, printed, _ = script(benchmark, **settings)
    assert code == 0
    assert not (tmp_path / "none").exists()
    assert "1 models x 2 attacks (1 of them also through each purifier) x 3 purifiers on 4 images: 9 cells" in printed
    lines = {line[:30].strip(): line[30:].split() for line in printed.splitlines()[3:]}
    assert lines["attack"] == ["2", "12", "32", "0"]  # 1 and 2 steps
    assert lines["purify the clean images"] == ["3", "0", "12", "12"]
    assert lines["attack through each purifier"] == ["3", "32", "48", "48"]  # 1 + 1 + 2 draws, of 2 steps
    assert lines["in all"][0] == "44"


def test_a_file_of_flags_describes_a_run(script, photographs, tmp_path):
    study = tmp_path / "study.cfg"
    lines = [f"--{name}={value}" for name, value in SETTINGS.items()]
    study.write_text("\n".join(["# a study", *lines, "--plan_only"]))
    place = {"images": photographs[0], "out": tmp_path / "none"}
    code, printed, _ = script(benchmark, flagfile=study, **place)
    assert code == 0
    assert printed == script(benchmark, **SETTINGS, **place, plan_only=True)[1]


def test_steps_of_attacks_that_consist_of_others():
    objective = objectives.raise_score()
    assert plan.steps_of(worst_case.worst_case(objective, steps=3, queries=7)) == 4 * 3 + plan.steps_of(
        worst_case.square(objective, queries=7)
    )
    matched = Matched(
        objective, lambda k: ATTACKS["ifgsm"](objective, epsilon=k, steps=5), fidelity.linf, 0.1, 0.01, 1.0, 3
    )
    assert plan.steps_of(matched) == 4 * 5
