"""Weights of LPIPS and DISTS: converted with nothing left over, refused when they do not fit, loaded by name."""

import json

import jax
import numpy as np
import pytest
from torch_distances import ALL, converted, convolutions, make_state, narrow

from experiments import weights
from experiments.catalog import DISTANCES
from experiments.errors import UserError
from nriqa_jax.models.cnniqa import cnniqa
from weights_convert import convert, store
from weights_convert.convert import convert_tensors
from weights_convert.rules import CheckpointError, expected_shapes
from weights_convert.tables import DISTANCE_LAYOUTS


@ALL
@pytest.mark.parametrize("prefix", ["", "module.", "params.", "state_dict."])
def test_conversion_leaves_nothing_over(name, prefix):
    distance, state = narrow(name), {prefix + key: array for key, array in make_state(name).items()}
    layout, conversion = convert_tensors(state, distance)
    assert layout == "original"
    assert set(conversion.arrays) == set(expected_shapes(distance))
    unused = {key for key in state if any(part in key for part in ("lins.", "scaling", "filter", "mean", "std"))}
    assert set(conversion.dropped) == unused
    assert set(conversion.sources.values()) == set(state) - unused


@pytest.mark.parametrize("name", ["lpips_vgg", "lpips_alex"])
def test_heads_may_be_in_a_list_alone(name):
    full = make_state(name)
    state = {key: array for key, array in full.items() if not key.startswith("lin") or "lins" in key}
    state = {key.replace("model.1", "model.0"): array for key, array in state.items()}  # without dropout
    layout, conversion = convert_tensors(state, narrow(name))
    assert layout == "lists"
    expected = convert_tensors(full, narrow(name))[1].arrays
    jax.tree.map(np.testing.assert_array_equal, conversion.arrays, expected)


def in_two(name):
    """Heads as published, and a backbone as torchvision saves it."""
    full = make_state(name)
    heads = {key: array for key, array in full.items() if key.startswith(("lin0", "lin1", "lin2", "lin3", "lin4"))}
    heads |= {key: full[key] for key in ("alpha", "beta") if key in full}
    backbone = {"classifier.1.weight": np.ones((3, 4), np.float32)}
    for prefix, _, _ in convolutions(name, 4):
        for leaf in ("weight", "bias"):
            backbone[f"features.{prefix.rpartition('.')[2]}.{leaf}"] = full[f"{prefix}.{leaf}"]
    return heads, backbone


@ALL
def test_published_heads_need_the_backbone(name):
    """Authors publish heads alone; the tensors of torchvision's network beside them make a whole."""
    full, (heads, backbone) = make_state(name), in_two(name)
    with pytest.raises(CheckpointError) as caught:
        convert_tensors(heads, narrow(name))
    assert str(caught.value) == f"it holds the heads of {name} alone; give the backbone's file, too"
    _, conversion = convert_tensors(heads | backbone, narrow(name))
    expected = convert_tensors(full, narrow(name))[1].arrays
    jax.tree.map(np.testing.assert_array_equal, conversion.arrays, expected)


def test_wrong_files_are_refused():
    with pytest.raises(CheckpointError, match=r"^the tensors do not fit lpips_vgg \(layout original\): "):
        convert_tensors(make_state("lpips_alex"), narrow("lpips_vgg"))
    with pytest.raises(CheckpointError, match=r"^the tensors do not fit dists \(layout original\): "):
        convert_tensors(make_state("lpips_vgg"), narrow("dists"))
    damaged = make_state("dists")
    damaged["alpha"] = damaged["alpha"][:, 1:]
    damaged["beta"] = damaged["beta"] * np.nan
    with pytest.raises(CheckpointError, match="1 wrong shape, 1 not finite"):
        convert_tensors(damaged, narrow("dists"))


@ALL
def test_weights_from_files(name, tmp_path):
    torch = pytest.importorskip("torch")
    distance, state = narrow(name), make_state(name)
    torch.save({key: torch.tensor(array) for key, array in state.items()}, tmp_path / "a.pth")
    convert.convert_file(tmp_path / "a.pth", tmp_path / "a.safetensors", distance)
    loaded = [weights.load_distance(str(tmp_path / file), distance, 0) for file in ("a.pth", "a.safetensors")]
    expected = converted(name, state)
    for found in loaded:
        jax.tree.map(np.testing.assert_array_equal, found.variables, expected)
    assert loaded[0].sha256 != loaded[1].sha256
    metadata = store.read_metadata(tmp_path / "a.safetensors")
    assert (metadata["model"], metadata["layout"]) == (name, "original")
    assert "score_range" not in metadata
    drawn = [weights.load_distance("random", distance, seed).sha256 for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    other = narrow("lpips_alex" if name == "lpips_vgg" else "lpips_vgg")
    for source, words in (
        ("a.safetensors", f"these are weights of {name}, not of {other.name}"),
        ("absent.pth", "is not a file"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            weights.load_distance(str(tmp_path / source), other, 0)
        assert str(caught.value).startswith("--distance_weights=")
        assert "\n" not in str(caught.value)


@ALL
def test_heads_and_backbone_may_be_two_files(name, tmp_path):
    torch = pytest.importorskip("torch")
    distance, expected = narrow(name), converted(name, make_state(name))
    for file, state in zip(("heads.pt", "net.pth"), in_two(name)):
        torch.save({key: torch.tensor(array) for key, array in state.items()}, tmp_path / file)
    heads, backbone = str(tmp_path / "heads.pt"), str(tmp_path / "net.pth")
    found = weights.load_distance(heads, distance, 0, backbone)
    jax.tree.map(np.testing.assert_array_equal, found.variables, expected)
    report = convert.convert_file(heads, tmp_path / "a.safetensors", distance, backbone=backbone)
    assert (report["source_file"], report["backbone_file"]) == ("heads.pt", "net.pth")
    assert report["source_sha256"] != report["backbone_sha256"]
    loaded = weights.load_distance(str(tmp_path / "a.safetensors"), distance, 0)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, expected)
    for given, beside, words in (
        (heads, "", "heads.pt: it holds the heads of .* alone; give the backbone's file, too$"),
        (heads, heads, "heads.pt: the file of the heads holds '.*', too$"),
        (heads, "absent.pth", "^--distance_backbone=absent.pth is not a file"),
        (
            "random",
            backbone,
            "^--distance_backbone goes with a PyTorch file of heads, not with --distance_weights=random",
        ),
        (str(tmp_path / "a.safetensors"), backbone, "a.safetensors$"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            weights.load_distance(given, distance, 0, beside)
        assert "\n" not in str(caught.value)


def test_the_backbone_of_another_distance_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    for file, state in (("heads.pt", in_two("lpips_vgg")[0]), ("net.pth", in_two("lpips_alex")[1])):
        torch.save({key: torch.tensor(array) for key, array in state.items()}, tmp_path / file)
    with pytest.raises(UserError, match="the tensors do not fit lpips_vgg"):
        weights.load_distance(str(tmp_path / "heads.pt"), narrow("lpips_vgg"), 0, str(tmp_path / "net.pth"))
    with pytest.raises(CheckpointError, match="cnniqa has no backbone in a file of its own"):
        convert.load_torch(tmp_path / "heads.pt", cnniqa(), backbone=tmp_path / "net.pth")


def test_the_command_converts_and_measures_a_photograph(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    pytest.importorskip("skimage")
    source, target = tmp_path / "alex.pth", tmp_path / "alex.safetensors"
    torch.save({key: torch.tensor(array) for key, array in make_state("lpips_alex", 64).items()}, source)
    settings = {"model": "lpips_alex", "src": source, "dst": target, "layout": None, "backbone": None, "verify": False}
    assert convert.main(type("Config", (), settings)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("lpips_alex, layout original, 15 tensors, 2,470,848 numbers")
    assert lines[1].startswith("distance (0 for equal images): of a photograph to a noisy copy ")
    assert float(lines[1].split()[-1]) > 0
    assert json.loads(target.with_suffix(".conversion.json").read_text())["model"] == "lpips_alex"
    with pytest.raises(UserError, match="no PyTorch network of lpips_alex, only of cnniqa") as caught:
        convert.main(type("Config", (), settings | {"verify": True}))
    assert "\n" not in str(caught.value)


def test_every_distance_has_a_table():
    assert {build().name for build in DISTANCES.values()} == set(DISTANCE_LAYOUTS)
