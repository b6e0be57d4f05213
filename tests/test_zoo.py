"""Every converted model at parity with PyTorch: counts, conversion, outputs and input gradients."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_weights import randomize, tensors_of, views
from zoo import NARROW, ZOO

from experiments.contenders.weights import draw_all
from nriqa_jax.layers import adaptive_avg_pool
from nriqa_jax.models.model import Model
from weights_convert.convert import convert_tensors
from weights_convert.rules import unflatten
from weights_convert.tables import LAYOUTS

GOLDEN = Path(__file__).parent / "golden"
FULL = pytest.mark.full
EVERY = pytest.mark.parametrize("name", ZOO)
SMALL = pytest.mark.parametrize("name", NARROW)
KINDS = {type(ZOO[name].build().network): name for name in reversed(NARROW)}  # one of each kind of network
APART = pytest.mark.parametrize(  # the others are compared with their golden files, and with torch by make test-full
    "name", [pytest.param(name, marks=[] if name in KINDS.values() else [FULL]) for name in NARROW]
)


def total(model: Model, variables, x):
    """Sum of all outputs, weighted so that no output cancels another, and the outputs."""
    outputs = model.network.apply(variables, x)
    weights = jnp.arange(1, 1 + outputs[0].size, dtype=outputs.dtype).reshape(outputs.shape[1:])
    return jnp.sum(outputs * weights), outputs


def ours(model, variables, x, dtype):
    with jax.enable_x64(dtype == "float64"):
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), variables)
        # Weights are arguments: as constants of the program they would be hashed and folded for minutes.
        value = jax.jit(jax.value_and_grad(lambda x, weights: total(model, weights, x), has_aux=True))
        (_, outputs), gradient = value(jnp.asarray(x, dtype), variables)
        return np.asarray(outputs), np.asarray(gradient)


def theirs(graph, x, dtype):
    import torch

    x = torch.from_numpy(np.asarray(x, dtype)).permute(0, 3, 1, 2).contiguous().requires_grad_()
    outputs = graph.to(getattr(torch, dtype))(x)
    (outputs * torch.arange(1, 1 + outputs[0].numel()).reshape(outputs.shape[1:])).sum().backward()
    return outputs.detach().numpy(), x.grad.permute(0, 2, 3, 1).numpy()


def compare(model, graph, state, side, batch, dtype, score_tolerance, gradient_tolerance):
    _, conversion = convert_tensors(state, model)
    variables, x = unflatten(conversion.arrays), views(batch, side)
    outputs, gradient = ours(model, variables, x, dtype)
    expected, expected_gradient = theirs(graph, x, dtype)
    assert outputs.shape == expected.shape
    scale = np.abs(expected).max()
    np.testing.assert_allclose(outputs, expected, rtol=score_tolerance, atol=score_tolerance * scale)
    error, size = (np.sqrt(np.sum(v**2, axis=(1, 2, 3))) for v in (gradient - expected_gradient, expected_gradient))
    assert np.all(size > 0)
    assert np.all(error <= gradient_tolerance * size)
    assert batch == 1 or np.ptp(expected, axis=0).max() > 1e-3 * scale, "the output must depend on the input"


@EVERY
def test_counts_are_as_published(name):
    entry, model = ZOO[name], ZOO[name].build()
    parameters = jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))["params"])
    assert sum(leaf.size for leaf in parameters) == model.card.parameters
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        graph = entry.make_graph()
    assert sum(p.numel() for p in graph.parameters()) == entry.parameters
    assert len(graph.state_dict()) == entry.entries


@APART
def test_narrow_networks_equal_torch(name):
    """In float64, where no rounding decides a ReLU: a batch at the last size, one view at another, if there is one."""
    entry = ZOO[name]
    graph = randomize(entry.make_narrow_graph())
    state = tensors_of(graph) | entry.extra
    *others, last = entry.narrow_sides or entry.sides
    compare(entry.narrow_model(), graph, state, last, 3, "float64", 1e-8, 1e-6)
    for side in others:
        compare(entry.narrow_model(), graph, state, side, 1, "float64", 1e-8, 1e-6)


def coarse(gradient):
    """Means over an 8 x 8 grid of blocks: what of a gradient is worth a golden file."""
    return adaptive_avg_pool(jnp.asarray(gradient), 8)


def make_golden(name):
    """What PyTorch gives for the narrow network; ``python tests/test_zoo.py`` writes all files again."""
    entry = ZOO[name]
    graph, side = randomize(entry.make_narrow_graph()), (entry.narrow_sides or entry.sides)[-1]
    outputs, gradient = theirs(graph, views(2, side), "float64")
    from weights_convert.torch_graphs.shapes import shapes_of

    record = {"side": side, "outputs": outputs.tolist(), "gradient": np.asarray(coarse(gradient)).tolist()}
    (GOLDEN / f"{name}.json").write_text(json.dumps({"tensors": shapes_of(graph), **record}) + "\n")


@SMALL
def test_narrow_networks_equal_their_golden_files(name):
    """In float32 and without torch."""
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    state = draw_all(golden["tensors"]) | ZOO[name].extra
    model = ZOO[name].narrow_model()
    variables = unflatten(convert_tensors(state, model)[1].arrays)
    outputs, gradient = ours(model, variables, views(2, golden["side"]), "float32")
    expected = np.array(golden["outputs"])
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    blocks = np.array(golden["gradient"])
    assert np.linalg.norm(coarse(gradient) - blocks) < 1e-2 * np.linalg.norm(blocks)


@FULL
@pytest.mark.slow
@EVERY
def test_full_networks_equal_torch(name):
    """A batch at the native size in float32, one view at the odd size in float64, where no rounding decides a ReLU."""
    entry = ZOO[name]
    graph = randomize(entry.make_graph())
    state = tensors_of(graph) | entry.extra
    compare(entry.build(), graph, state, entry.sides[0], 3, "float32", 1e-4, 2e-2)
    compare(entry.build(), graph, state, entry.sides[-1], 1, "float64", 1e-7, 1e-5)


def place(model, state, beside, prefix):
    renamed = {key if key in beside else prefix + key: array for key, array in state.items()}
    layout, conversion = convert_tensors(renamed, model)
    assert layout in LAYOUTS[model.name]
    assert set(conversion.sources.values()) | set(conversion.dropped) == set(renamed)


@SMALL
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "state_dict.module."])
def test_every_tensor_is_placed(name, prefix):
    entry = ZOO[name]
    place(entry.narrow_model(), tensors_of(entry.make_narrow_graph()) | entry.extra, entry.extra, prefix)


@FULL
@pytest.mark.slow
@EVERY
def test_every_tensor_of_full_networks_is_placed(name):
    entry = ZOO[name]
    place(entry.build(), tensors_of(entry.make_graph()) | entry.extra, entry.extra, "module.")


if __name__ == "__main__":
    for model_name in NARROW:
        make_golden(model_name)
