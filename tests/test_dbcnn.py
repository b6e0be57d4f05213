"""DBCNN: its published branch for synthetic distortions, the range of scores that a file implies, clamped scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives import check_network
from PIL import Image
from random_weights import randomize, tensors_of, views
from zoo import ZOO

from nriqa_jax.models import protocols
from nriqa_jax.models.dbcnn import SCNN, SMA, dbcnn
from weights_convert import tables
from weights_convert.convert import convert_tensors, in_unit_of
from weights_convert.rules import CheckpointError, apply_rules, expected_shapes, unflatten
from weights_convert.torch_file import read_tensors


@pytest.fixture(scope="module")
def graph():
    return randomize(ZOO["dbcnn"].make_narrow_graph())


@pytest.fixture(scope="module")
def tensors(graph):
    return tensors_of(graph)


def test_the_published_branch_gives_the_features_of_torch(shared):
    """The real file of the authors, onto the place of the branch in DBCNN; tolerance 1e-4."""
    torch = pytest.importorskip("torch")
    from weights_convert.torch_graphs.dbcnn import scnn

    path = shared / "weights" / "dbcnn_scnn.pkl"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    published = read_tensors(path)
    expected = {name: shape for name, shape in expected_shapes(dbcnn()).items() if "/features2/" in name}
    conversion = apply_rules(tables.SCNN, published, expected)
    assert len(published) == 68
    assert all(name.startswith(("module.projection.", "module.classifier.")) for name in conversion.dropped)
    branch = {kind: part["features2"] for kind, part in unflatten(conversion.arrays).items()}

    x = views(2, (97, 130))
    theirs = scnn().eval()
    state = {name.removeprefix("module.features."): torch.tensor(array) for name, array in published.items()}
    assert not theirs.load_state_dict(state, strict=False).missing_keys
    features = theirs(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).detach().numpy()
    assert features.shape == (2, 7, 9, 128)
    assert np.ptp(features, axis=0).max() > 0.1 * features.max()
    ours = jax.jit(SCNN().apply)(branch, jnp.asarray(x))
    np.testing.assert_allclose(ours, features, rtol=1e-4, atol=1e-4 * features.max())


@pytest.mark.parametrize(("prefix", "layout", "high"), [("module.", "original", 100), ("params.", "pyiqa", 1)])
def test_the_container_tells_the_range_of_scores(tensors, prefix, layout, high):
    model = ZOO["dbcnn"].narrow_model()
    renamed = {prefix + name: array for name, array in tensors.items()}
    found, conversion = convert_tensors(renamed, model)
    assert found == layout
    assert in_unit_of(found, model).score_range == (0, high)
    _, same = convert_tensors(renamed, model, "original")
    assert all(np.array_equal(array, same.arrays[path]) for path, array in conversion.arrays.items())
    assert set(conversion.sources.values()) | set(conversion.dropped) == set(renamed)
    del renamed[f"{prefix}fc.bias"]
    with pytest.raises(CheckpointError, match=rf"\(layout {layout}\): 1 missing\n.*\n +params/fc/bias \(1\)$"):
        convert_tensors(renamed, model)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`")  # of forward mode in torch
def test_derivatives_equal_torch(graph, tensors):
    """Also the second, through roots whose slope is up to 5000, and where the two branches differ in size."""
    model = ZOO["dbcnn"].narrow_model()
    variables = unflatten(convert_tensors(tensors, model)[1].arrays)
    check_network(model, variables, graph, views(2, (33, 50)))


def test_clamped_scores_have_the_gradient_of_torch():
    """One at the limits, too, where ``jnp.clip`` has a half; random weights score between them."""
    torch = pytest.importorskip("torch")
    model = ZOO["dbcnn_sma"].narrow_model()
    x = jnp.asarray(views(1, (16, 16)))
    variables = jax.jit(model.init)(jax.random.key(0))
    fc = variables["params"]["fc"]
    assert fc["bias"] == 50

    def score(bias):
        constant = {"kernel": jnp.zeros_like(fc["kernel"]), "bias": bias[None]}
        return model.network.apply({**variables, "params": {**variables["params"], "fc": constant}}, x)[0]

    biases = torch.tensor([-1e-3, 0, 1e-3, 50, 100, 100.1], requires_grad=True)
    clamped = biases.clamp(0, 100)
    clamped.sum().backward()
    scores, slopes = jax.jit(jax.vmap(jax.value_and_grad(score)))(jnp.asarray(biases.detach()))
    np.testing.assert_array_equal(scores, clamped.detach())
    np.testing.assert_array_equal(slopes, biases.grad)


def test_the_views_of_sma_are_those_of_pillow():
    levels = np.random.default_rng(0).integers(0, 256, (37, 61, 3), dtype=np.uint8)
    theirs = np.asarray(Image.fromarray(levels).resize((384, 512), Image.Resampling.BILINEAR), np.float32) / 255
    mean, std = protocols.IMAGENET
    ours = SMA.views(jnp.asarray(levels[None], jnp.float32) / 255)
    np.testing.assert_allclose(ours[0, 0], (theirs - mean) / std, atol=1e-5)
