"""LinearityIQA: files with lines from heads to scores beside the weights, the three heads, pyramids, resizing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_files import FORMATS
from PIL import Image
from random_weights import randomize, tensors_of, views
from zoo import ZOO

from nriqa_jax.grouped import BundledKernel
from nriqa_jax.models import protocols
from nriqa_jax.models.linearity import PUBLISHED, pyramid
from weights_convert.convert import convert_tensors
from weights_convert.rules import CheckpointError, unflatten
from weights_convert.torch_file import read_tensors

ENTRY = ZOO["linearity"]
K, B = [31.5, 29.25, -30.0], [48.5, 47.0, 52.0]


@pytest.fixture(scope="module")
def graph():
    return randomize(ENTRY.make_narrow_graph())


@pytest.fixture(scope="module")
def model():
    return ENTRY.narrow_model()


def save(path, graph, form="zip", **beside):
    """A file as the authors' training writes it."""
    torch = pytest.importorskip("torch")
    state = {name: tensor for name, tensor in graph.state_dict().items() if name not in ("k", "b")}
    optimizer = {"state": {0: {"step": 7, "exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    amp = {"loss_scaler0": {"loss_scale": 65536.0, "unskipped": 7}}
    whole = {"model": state, **beside, "optimizer": optimizer, "amp": amp}
    torch.save(whole, path, _use_new_zipfile_serialization=form == "zip")
    return path


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("number", [float, np.float64])
def test_a_file_of_the_authors_gives_calibrated_scores(graph, model, tmp_path, form, number):
    path = save(tmp_path / "p1q2.pth", graph, form, k=[number(k) for k in K], b=[number(b) for b in B])
    _, conversion = convert_tensors(read_tensors(path), model)
    assert conversion.container == "model."
    assert "optimizer.state.0.exp_avg" in conversion.dropped
    assert (conversion.sources["calibration/k"], conversion.sources["calibration/b"]) == ("k", "b")
    variables = jax.device_put(unflatten(conversion.arrays))
    assert set(variables) == {"params", "batch_stats", "calibration"}
    x = views(2, (49, 70))
    heads = jax.jit(lambda x: model.network.apply(variables, x, method="heads"))(x)

    torch = pytest.importorskip("torch")
    graph.load_state_dict(graph.state_dict() | {"k": torch.tensor(K), "b": torch.tensor(B)})
    expected = graph.heads(torch.from_numpy(x).permute(0, 3, 1, 2)).detach()
    assert np.ptp(expected, axis=0).min() > 0.1
    np.testing.assert_allclose(heads, expected, rtol=1e-4)
    np.testing.assert_allclose(jax.jit(model.network.apply)(variables, x), heads[:, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("beside", "missing"),
    [({}, {"k", "b"}), ({"k": K}, {"b"}), ({"k": [1, 1, 1], "b": [0, 0, 0]}, {"k", "b"})],
)
def test_a_file_without_calibration_is_refused(graph, model, tmp_path, beside, missing):
    """Placeholders of whole numbers, which files have before the lines were fitted, are none."""
    tensors = read_tensors(save(tmp_path / "without.pth", graph, **beside))
    with pytest.raises(CheckpointError, match=f"{len(missing)} missing") as caught:
        convert_tensors(tensors, model)
    assert {name for name in "kb" if f"calibration/{name} (3)" in str(caught.value)} == missing


def test_prepared_weights_keep_the_calibration_and_bundle_groups(graph, model):
    variables = jax.device_put(unflatten(convert_tensors(tensors_of(graph), model)[1].arrays))
    prepared = model.prepare(variables)
    jax.tree.map(np.testing.assert_array_equal, prepared["calibration"], variables["calibration"])
    if jax.default_backend() == "cpu":
        assert isinstance(prepared["params"]["features"]["layer1_0"]["conv2"]["kernel"], BundledKernel)
    x = views(2, (49, 70))
    ours, expected = (jax.jit(model.network.apply)(weights, x) for weights in (prepared, variables))
    np.testing.assert_allclose(ours, expected, rtol=1e-4)


def test_pyramids_equal_torch():
    """On a network whose maps they divide, and alone where they do not."""
    torch = pytest.importorskip("torch")
    graph = randomize(ENTRY.make_graph(**ENTRY.narrow_graph, levels=(2, 1)))
    model, x = ENTRY.narrow_model(), views(2, (64, 96))
    network = model.network.clone(levels=(2, 1))
    _, conversion = convert_tensors(tensors_of(graph), _with(model, network))
    ours = jax.jit(network.apply)(jax.device_put(unflatten(conversion.arrays)), x)
    theirs = graph(torch.from_numpy(x).permute(0, 3, 1, 2)).detach()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max())

    maps = torch.randn(2, 3, 7, 9)
    pooled = [torch.nn.functional.avg_pool2d(maps, (7 // p, 9 // p)).flatten(1) for p in (1, 2, 3, 4)]
    ours = jax.jit(pyramid, static_argnums=1)(jnp.asarray(maps.permute(0, 2, 3, 1).numpy()), 4)
    np.testing.assert_allclose(ours, torch.cat(pooled, 1), atol=1e-6)


def _with(model, network):
    """The model with another network, and views that its pyramids divide."""
    return dataclasses.replace(model, network=network, view_shape=(64, 96, 3))


def test_published_views_are_those_of_pillow():
    levels = np.random.default_rng(0).integers(0, 256, (37, 61, 3), dtype=np.uint8)
    theirs = np.asarray(Image.fromarray(levels).resize((664, 498), Image.Resampling.BILINEAR), np.float32) / 255
    mean, std = protocols.IMAGENET
    ours = PUBLISHED.views(jnp.asarray(levels[None], jnp.float32) / 255)
    np.testing.assert_allclose(ours[0, 0], (theirs - mean) / std, atol=1e-5)
