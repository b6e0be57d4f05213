"""The tables of defenses: attacks on models side by side, whole images and crops, resumed and refused."""

import csv
from pathlib import Path

import jax
import numpy as np
import pytest

import nriqa_jax.models
from experiments import defense_table, evaluate_defense, evaluated_set, records
from experiments.defense_table import Attacked
from experiments.pages.defense import defense_figure
from experiments.pages.style import to_svg
from nriqa_jax.image import from_uint8
from nriqa_jax.metrics import correlation, robustness
from nriqa_jax.models.tinyiqa import tinyiqa
from weights_convert.store import load_variables, save_variables

pytestmark = pytest.mark.xdist_group("defenses")  # one evaluation for all tests

EMBEDDED = Path(nriqa_jax.models.__file__).parent / "embedded" / "tinyiqa.safetensors"


@pytest.fixture(scope="module")
def setting(tmp_path_factory, photo_folder):
    """A model, a milder one (its scores moved half as far), and opinions on four of the seven images."""
    folder = tmp_path_factory.mktemp("defense")
    names = records.list_images(photo_folder)
    (folder / "mos.csv").write_text(
        "image,mos\n" + "".join(f"{name},{20 + 10 * i}\n" for i, name in enumerate(names[:4]))
    )
    variables = load_variables(EMBEDDED, tinyiqa())
    head = {name: 0.5 * value for name, value in variables["params"]["fc2"].items()}
    save_variables(folder / "mild.safetensors", {"params": {**variables["params"], "fc2": head}}, {"model": "tinyiqa"})
    return {
        "models": f"plain=tinyiqa:embedded,mild=tinyiqa:{folder / 'mild.safetensors'}",
        "images": str(photo_folder),
        "mos": str(folder / "mos.csv"),
    }


@pytest.fixture(scope="module")
def found(setting, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    asked = {"attacks": "fgsm,ifgsm:steps=2", "epsilons": "4/255", "out": str(out)}
    config = evaluate_defense.Config(**setting, **asked)
    return config, evaluate_defense.run(config), out


def test_every_model_meets_every_attack(found):
    _, rows, out = found
    kinds = ["none", "fgsm", "ifgsm", "strongest"]
    assert [(row["label"], row["attack"]) for row in rows] == [(label, k) for label in ("plain", "mild") for k in kinds]
    assert {row["images"] for row in rows} == {4}
    written = list(csv.DictReader((out / "defense.csv").open()))
    assert [row["attack"] for row in written] == 2 * kinds
    assert all(
        float(row["r_ln_low"]) <= float(row["r_ln"]) <= float(row["r_ln_high"]) for row in written if row["r_ln"]
    )


def test_half_the_scores_have_half_the_gradient_and_move_half_as_far(found):
    _, rows, _ = found
    plain, mild = rows[0], rows[4]
    assert mild["gradient_l1"] == pytest.approx(0.5 * plain["gradient_l1"], rel=1e-4)
    assert rows[5]["mae_clean"] == pytest.approx(0.5 * rows[1]["mae_clean"], rel=1e-3)
    assert rows[5]["r_ln"] > rows[1]["r_ln"]


def test_the_gradient_norm_is_that_of_the_score(found):
    _, rows, out = found
    model = tinyiqa()
    variables = jax.device_put(load_variables(EMBEDDED, model))
    names = records.list_images(out / "images")

    def norm(name):
        image = from_uint8(jax.numpy.asarray(records.load_image(out / "images" / name)))
        return jax.numpy.abs(jax.grad(lambda x: model.apply(variables, x[None])[0])(image)).sum()

    assert rows[0]["gradient_l1"] == pytest.approx(np.mean([norm(name) for name in names]), rel=1e-3)


def test_a_second_run_attacks_nothing_and_finds_the_same(found, capsys):
    config, _, out = found
    before = (out / "defense.csv").read_bytes(), (out / "defense.svg").read_bytes()
    evaluate_defense.run(config)
    assert ((out / "defense.csv").read_bytes(), (out / "defense.svg").read_bytes()) == before
    assert "per second" not in capsys.readouterr().out


def test_crops_are_averaged_by_image(setting, tmp_path):
    asked = {"attacks": "fgsm", "epsilons": "4/255", "crops": 2, "crop_size": 36, "models": "plain=tinyiqa:embedded"}
    rows = evaluate_defense.run(evaluate_defense.Config(**(setting | asked), out=str(tmp_path / "out")))
    assert [row["images"] for row in rows] == [4, 4]
    crops = records.list_images(tmp_path / "out" / "images")
    assert len(crops) == 8
    assert records.read_size(tmp_path / "out" / "images" / crops[0]) == (36, 36)


def test_means_of_crops():
    values = {"a.png/00.png": 1.0, "a.png/01.png": 3.0, "b/c.png/00.png": 5.0}
    assert evaluated_set.mean_by_image(values, cropped=True) == {"a.png": 2.0, "b/c.png": 5.0}
    assert evaluated_set.mean_by_image({"b/c.png": 5.0}, cropped=False) == {"b/c.png": 5.0}


def test_the_strongest_attack_is_chosen_per_image():
    clean = {"a": 50.0, "b": 50.0, "c": 50.0}
    one, two = Attacked(clean, {"a": 60.0, "b": 49.0, "c": 1.0}), Attacked(clean, {"a": 45.0, "b": 40.0})
    assert defense_table.strongest({"one": one, "two": two}) == Attacked({"a": 50.0, "b": 50.0}, {"a": 60.0, "b": 40.0})


def test_rows_are_the_metrics_of_their_scores():
    rng = np.random.default_rng(0)
    names = [f"{i}.png" for i in range(9)]
    mos, clean, adversarial = (dict(zip(names, rng.normal(50, 10, 9))) for _ in range(3))
    row = defense_table.attacked_row(mos, Attacked(clean, adversarial), 0.0, 100.0)
    a, b, c = (np.array(list(x.values())) for x in (mos, clean, adversarial))
    assert row["srocc_mos"] == correlation.srocc(a, c)
    assert row["rmse_clean"] == pytest.approx(np.sqrt(np.mean((b - c) ** 2)))
    assert row["r_ln"] == robustness.r_score(b, c, low=0, high=100)
    assert row["r_log10"] == pytest.approx(row["r_ln"] / np.log(10))


def test_the_figure_has_a_line_for_each_attack_and_radius(found):
    _, rows, _ = found
    figure = defense_figure(rows)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        f"{n} 4/255" for n in ("fgsm", "ifgsm", "strongest")
    ]
    assert to_svg(figure).startswith(b"<?xml")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"models": "tinyiqa:embedded"}, "is not LABEL=MODEL:WEIGHTS"),
        ({"models": "a=nothing:embedded"}, "there is no 'nothing'"),
        ({"models": "a=tinyiqa:embedded,a=tinyiqa:random"}, "is there twice"),
        ({"attacks": "nothing"}, "--attacks: there is no 'nothing'"),
        ({"attacks": "ifgsm:size=3"}, "'size=3' is not steps=N"),
        ({"transferred": "korhonen", "surrogate": "tinyiqa:embedded"}, "is not one of --attacks"),
        ({"transferred": "fgsm"}, "belong together"),
        ({"epsilons": "2"}, "outside"),
        ({"crops": 2}, "smaller than --crop_size=224"),
        ({"crops": -1}, "must not be below"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(setting, tmp_path, refusal, settings, words):
    assert words in refusal(evaluate_defense, **{**setting, "out": str(tmp_path / "out"), **settings})


def test_opinions_of_images_that_are_not_there(setting, tmp_path, refusal):
    (tmp_path / "mos.csv").write_text("image,mos\nnowhere.png,3\n")
    asked = {**setting, "mos": str(tmp_path / "mos.csv"), "out": str(tmp_path / "out")}
    assert "not exactly one image nowhere.png" in refusal(evaluate_defense, **asked)
