"""From flags to attacks: strengths, matched strengths, distances, patterns, surrogates, and what does not fit."""

import csv
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from experiments import attack_flags, attack_images, compare_attacks, natural, transfer_matrix
from experiments.catalog import ATTACKS
from experiments.errors import UserError
from experiments.pages import style, transfer
from nriqa_jax.attacks.composite import run_any
from nriqa_jax.attacks.objectives import raise_score
from nriqa_jax.metrics.niqe import FEATURES, pristine_of


def config(folder, out, **settings):
    defaults = {"model": "tinyiqa", "weights": "embedded", "attack": "ifgsm", "objective": "lower_quality", "steps": 3}
    return attack_images.Config(**{**defaults, "images": str(folder), "out": str(out), **settings})


def attacked(folder, out, **settings):
    """The columns of a run as numbers."""
    table = attack_images.run(config(folder, out, **settings))
    assert all(row["status"] == "ok" for row in table.rows.values())
    return {name: table.numbers(name) for name in ("score_clean", "score_adversarial", "linf_255", "psnr", "queries")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two photographs."""
    from experiments import photographs

    path = tmp_path_factory.mktemp("two")
    for name, pixels in list(photographs.load().items())[:2]:
        Image.fromarray(np.asarray(pixels)[80:144, 60:132]).save(path / f"{name}.png")
    return path


@pytest.mark.parametrize(("attack", "epsilon"), [("ifgsm", "4/255"), ("nifgsm", "8/255"), ("korhonen", "")])
def test_the_radius_is_the_attacks_own_where_none_is_given(attack, epsilon, tmp_path):
    assert attack_flags.resolve(config(tmp_path, tmp_path, attack=attack)).epsilon == epsilon
    assert attack_flags.resolve(config(tmp_path, tmp_path, attack=attack, epsilon="2/255")).epsilon == "2/255"


def test_strength_is_the_knob_of_the_attack(folder, tmp_path):
    weak, strong = (
        attacked(folder, tmp_path / f"{strength}", attack="korhonen_msu", strength=strength)
        for strength in (0.002, 0.01)
    )
    assert np.all(strong["psnr"] < weak["psnr"])
    assert np.all(strong["score_adversarial"] < weak["score_adversarial"])


@pytest.mark.parametrize(
    ("settings", "column", "low", "high"),
    [({"match_linf": "6/255"}, "linf_255", 5, 6), ({"match_psnr": 40.0}, "psnr", 40, 41.5)],
    ids=["linf", "psnr"],
)
def test_strength_can_be_matched(settings, column, low, high, folder, tmp_path):
    found = attacked(folder, tmp_path, attack="korhonen_msu", **settings)[column]
    assert np.all((found >= low) & (found <= high))


def test_perceptual_attacks_take_a_distance(folder, tmp_path):
    settings = {"attack": "perceptual_msu", "steps": 2, "distance": "dists", "distance_weights": "random"}
    found = attacked(folder, tmp_path, **settings)
    assert np.all(found["score_adversarial"] != found["score_clean"])


def test_a_pattern_is_applied(folder, tmp_path):
    np.save(tmp_path / "pattern.npy", np.full((1, 3, 7, 9), 0.1, np.float32))
    found = attacked(
        folder, tmp_path / "out", attack="universal", steps=None, pattern=str(tmp_path / "pattern.npy"), strength=0.2
    )
    assert np.all(found["linf_255"] == 5)
    assert np.all(found["queries"] == 1)


def test_attacks_on_surrogates_ask_the_model_nothing(folder, tmp_path):
    own = attacked(folder, tmp_path / "own")
    assert np.all(own["queries"] == 4)
    others = {"surrogate": "tinyiqa,cnniqa", "surrogate_weights": "random,random", "attack": "fgsm", "steps": None}
    others |= {"surrogate_noise": "4/255", "surrogate_share": 0.25}
    far = attacked(folder, tmp_path / "far", **others)
    assert np.all(far["queries"] == 0)
    assert np.all(far["score_adversarial"] > own["score_adversarial"])
    assert np.all(far["psnr"] > 20 * np.log10(255 / 4) + 5)  # 6 dB where three pixels in four stay as they are


def test_the_worst_case_is_an_attack_like_others(folder, tmp_path):
    settings = {"attack": "worst_case", "objective": "change", "steps": 2, "epsilon": "4/255"}
    found = attacked(folder, tmp_path, **settings)
    assert np.all(np.abs(found["score_adversarial"] - found["score_clean"]) > 0)
    assert np.all(found["linf_255"] <= 4)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"attack": "universal", "steps": None}, "--attack=universal needs --pattern=FILE"),
        ({"attack": "facpa", "steps": None}, "--attack=facpa needs --network=FILE"),
        ({"network": "absent.safetensors"}, "--network=absent.safetensors is not a file"),
        ({"attack": "amifgsm_niqe"}, "--attack=amifgsm_niqe needs --natural=FILE"),
        ({"strength": 0.1}, "--strength: the strength of --attack=ifgsm is --epsilon"),
        ({"attack": "korhonen", "strength": -1.0}, "--strength=-1 must be above 0"),
        ({"match_linf": "4/255", "match_psnr": 40.0}, "give one of --match_linf, --match_psnr"),
        ({"match_linf": "huge"}, "--match_linf=huge is not a number"),
        ({"match_ssim": -0.5}, "--match_ssim=-0.5 must be above 0"),
        ({"attack": "perceptual", "distance": "dists"}, "--distance=dists needs --distance_weights"),
        ({"attack": "universal", "pattern": "absent.npy", "steps": None}, "absent.npy"),
        ({"surrogate": "cnniqa"}, "--surrogate names 1 models, and --surrogate_weights 0 weights"),
        ({"surrogate_share": 0.5}, "--surrogate_share needs --surrogate"),
        (
            {"surrogate": "tinyiqa", "surrogate_weights": "random", "surrogate_share": 2.0},
            "--surrogate_share=2 must be above 0, and at most 1",
        ),
        ({"surrogate": "nobody", "surrogate_weights": "random"}, "--surrogate: there is no 'nobody'"),
        ({"attack": "square", "restarts": 2, "steps": None}, "--restarts does not apply to --attack=square"),
    ],
)
def test_what_does_not_fit_is_said(settings, sentence, folder, tmp_path, script):
    given = {"model": "tinyiqa", "weights": "embedded", "images": folder, "out": tmp_path, **settings}
    code, _, message = script(attack_images, **{name: value for name, value in given.items() if value is not None})
    assert code == 2
    assert sentence in message
    assert message.count("\n") == 1


def test_help_describes_every_attack():
    text = attack_images.Config.__dataclass_fields__["attack"].metadata["help"]
    for name in ATTACKS:
        line = next(line for line in text.splitlines() if line.startswith(f"{name}: "))
        assert any(character.isdigit() for character in line), line  # the year of the paper


def test_the_transfer_matrix(folder, tmp_path):
    settings = {"models": "tinyiqa,cnniqa", "weights": "embedded,random", "epsilon": "8/255", "steps": 3}
    rows = transfer_matrix.run(transfer_matrix.Config(images=str(folder), out=str(tmp_path), **settings))
    assert [(row["attacked"], row["scored"]) for row in rows] == [
        (a, b) for a in ("tinyiqa", "cnniqa") for b in ("tinyiqa", "cnniqa")
    ]
    changes = {(row["attacked"], row["scored"]): row["change"] for row in rows}
    assert changes["tinyiqa", "tinyiqa"] < changes["cnniqa", "tinyiqa"]
    assert changes["tinyiqa", "tinyiqa"] < 0
    with (tmp_path / "transfer.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 4
    assert Image.open(tmp_path / "transfer.png").size[0] > 600
    assert ElementTree.parse(tmp_path / "transfer.svg").getroot().tag.endswith("svg")


def test_the_figure_of_a_transfer_matrix_is_legible():
    """One panel per quantity, a number in every cell that stands out, and the same bytes for the same numbers."""
    values = [(-0.5, -0.9), (0.01, 0.99), (np.nan, np.nan), (-0.02, 1.0)]
    rows = [{"change": change, "srocc": srocc} for change, srocc in values]
    figure = transfer.transfer_figure(["a", "b"], rows)
    change, srocc = figure.axes
    assert [text.get_text() for text in change.texts] == ["-0.500", "+0.010", "none", "-0.020"]
    assert [text.get_text() for text in srocc.texts] == ["-0.900", "0.990", "none", "1.000"]
    for ax in figure.axes:
        for text, value in zip(ax.texts, ax.images[0].get_array().ravel().filled(0.0)):
            ground, ink = (luminance(to_rgb(colour)) for colour in (ax.images[0].to_rgba(value), text.get_color()))
            assert (max(ground, ink) + 0.05) / (min(ground, ink) + 0.05) > 4.5
    again = transfer.transfer_figure(["a", "b"], rows)
    assert style.to_svg(figure) == style.to_svg(again)
    assert style.to_png(figure) == style.to_png(again)


def luminance(rgb):
    """Relative luminance of a colour (WCAG 2)."""
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in rgb]
    return np.dot((0.2126, 0.7152, 0.0722), linear)


def test_attacks_are_compared_at_one_budget(folder, tmp_path):
    rows = compare_attacks.run(
        compare_attacks.Config(
            model="tinyiqa",
            weights="embedded",
            images=str(folder),
            out=str(tmp_path),
            attacks="ifgsm:steps=3",
            epsilon="6/255",
        )
    )
    assert [row["objective"] for row in rows] == ["raise_score", "lower_score"]
    assert all(row["linf_255"] <= 6 for row in rows)
    up, down = rows
    assert up["change_mean"] > 0 > down["change_mean"]
    assert (up["forward_passes"], up["backward_passes"]) == (4, 3)
    assert compare_attacks.table(tmp_path / "attacks.csv").count("\n") == 3
    for attacks, sentence in (("nothing", "there is no 'nothing'"), ("ifgsm:speed=2", "'speed=2' is not steps=N")):
        with pytest.raises(UserError, match=sentence):
            compare_attacks.run(
                compare_attacks.Config(
                    model="tinyiqa", weights="embedded", images=str(folder), out=str(tmp_path), attacks=attacks
                )
            )


def test_a_comparison_gives_each_direction_its_file(folder, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(attack_images, "run", lambda config: asked.append(config) or 1 / 0)
    given = {"model": "tinyiqa", "weights": "embedded", "images": str(folder), "out": str(tmp_path)}
    with pytest.raises(ZeroDivisionError):
        compare_attacks.run(compare_attacks.Config(**given, attacks="universal", pattern="made/{objective}.npy"))
    assert asked[0].pattern == "made/raise_score.npy"
    assert asked[0].match_linf == "4/255"


def test_images_too_small_for_an_attack_are_refused(folder, tmp_path):
    natural.save(tmp_path / "natural.mat", pristine_of(np.zeros(FEATURES), np.eye(FEATURES)))
    given = {"attack": "amifgsm_niqe", "natural": str(tmp_path / "natural.mat")}
    with pytest.raises(UserError, match="--attack=amifgsm_niqe: niqe needs images of at least 96 pixels a side"):
        attack_images.run(config(folder, tmp_path / "out", **given))
    assert not (tmp_path / "out").exists()


def test_a_comparison_needs_no_search_for_a_known_strength():
    assert compare_attacks._budget("facpa", "4/255") == {"strength": pytest.approx(0.04)}
    assert compare_attacks._budget("ifgsm", "4/255") == {"epsilon": "4/255"}
    assert compare_attacks._budget("ssah", "4/255") == {"match_linf": "4/255"}


@pytest.mark.parametrize(
    ("attack", "settings", "passes"),
    [
        ("pgd", {"steps": 2, "restarts": 3}, (9, 6)),
        ("vmifgsm", {"steps": 2}, (13, 12)),
        ("nes", {"steps": 2}, (81, 0)),
        ("square", {"queries": 20}, (21, 0)),
    ],
)
def test_passes_are_counted(attack, settings, passes):
    made = ATTACKS[attack](raise_score(), **settings)
    assert compare_attacks.passes(made) == passes
    image, keys = jnp.full((1, 32, 32, 3), 0.5), jax.random.split(jax.random.key(0), 1)
    assert run_any(made, lambda images: jnp.mean(images, axis=(1, 2, 3)), image, keys).queries == passes[0]
