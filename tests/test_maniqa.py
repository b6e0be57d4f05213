"""MANIQA: how views become one score, the constants of its windows, and what its attention keeps in memory."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives import check, draws
from random_weights import randomize, tensors_of
from zoo import ZOO

from nriqa_jax.layers import attention
from nriqa_jax.models import vit
from nriqa_jax.models.maniqa import TransposedAttention, maniqa
from nriqa_jax.models.swin import from_windows, relative_positions, shift_mask, to_windows
from weights_convert.convert import convert_tensors

GOLDEN = Path(__file__).parent / "golden"
SUMS = jnp.array([[[6.0, 3.0], [1.0, 2.0]], [[4.0, 1.0], [4.0, 1.0]]])  # (weighted scores, weights), of two views


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [("grid", [1.25, 4]), ("published", [1.25, 4]), ("random", [1.25, 4]), ("msu", [1.25, 4]), ("pyiqa", [1.4, 4])],
)
def test_pooling(protocol, expected):
    """A mean of the ratios of views; with pyiqa, one ratio for all of them."""
    np.testing.assert_allclose(maniqa().with_protocol(protocol).preprocess.pool(SUMS), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("protocol", "count"), [("published", 20), ("random", 20), ("pyiqa", 20), ("msu", 1), ("grid", 6)]
)
def test_views(protocol, count):
    views = maniqa().with_protocol(protocol).preprocess.views(jnp.full((2, 300, 500, 3), 0.75))
    assert views.shape == (2, count, 224, 224, 3)
    np.testing.assert_allclose(views, 0.5, atol=1e-6)


def test_the_factor_of_pipal_changes_the_score():
    names = ("maniqa", "maniqa_pipal")
    assert [ZOO[name].narrow_model().network.scale for name in names] == [0.8, 0.13]
    first, second = (json.loads((GOLDEN / f"{name}.json").read_text()) for name in names)
    assert first["tensors"] == second["tensors"]  # so the weights are the same, too
    assert not np.allclose(first["outputs"], second["outputs"], rtol=1e-2)


def test_tensors_without_effect_are_dropped():
    """Whatever their numbers, PyTorch gives the same, too."""
    torch = pytest.importorskip("torch")
    graph = randomize(ZOO["maniqa"].make_narrow_graph())
    _, conversion = convert_tensors(tensors_of(graph), ZOO["maniqa"].narrow_model())
    views = torch.from_numpy(draws((1, 3, 224, 224))[0]).float()
    before = graph(views)
    for name in conversion.dropped:
        tensor = graph.state_dict()[name]
        if not name.endswith(("attn_mask", "relative_position_index")):  # constants
            tensor += 1.0
    torch.testing.assert_close(graph(views), before, rtol=1e-4, atol=0)


def test_transposed_attention_is_as_published():
    """Queries, keys and values of each channel; the result is read in another order than it was written in."""
    torch = pytest.importorskip("torch")
    from weights_convert.torch_graphs.maniqa import TransposedAttention as Published

    published = randomize(Published(9)).double()
    kernels = {name: array.T for name, array in tensors_of(published).items()}
    params = {"c_q_kernel": kernels["c_q.weight"], "c_k_kernel": kernels["c_k.weight"], "c_q_bias": kernels["c_q.bias"]}
    params["c_v"] = {"kernel": kernels["c_v.weight"], "bias": kernels["c_v.bias"]}
    check(lambda x: TransposedAttention().apply({"params": params}, x), published, draws((2, 16, 9)), tolerance=1e-9)
    assert torch.is_tensor(published.c_k.bias)


@pytest.mark.parametrize("tokens", [7, vit._MANY_TOKENS])
def test_attention_of_few_and_of_many_tokens(tokens):
    """Heads at once, and one after the other."""
    module, (x,) = vit.Attention(2), draws((3, tokens, 8))
    x = jnp.asarray(x, jnp.float32)
    variables = module.init(jax.random.key(0), x)
    params = variables["params"]
    qkv = (x @ params["qkv"]["kernel"] + params["qkv"]["bias"]).reshape(3, tokens, 3, 2, 4)
    expected = attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]).reshape(x.shape) @ params["proj"]["kernel"]
    np.testing.assert_allclose(module.apply(variables, x), expected + params["proj"]["bias"], atol=2e-5)


def kept(f, x):
    """The largest array that the gradient of a function keeps of its forward pass."""
    return max(leaf.size for leaf in jax.tree.leaves(jax.vjp(f, x)[1]))


def test_no_logits_are_kept_for_the_gradient():
    channels, tokens = 64, vit._MANY_TOKENS
    mix, attend = TransposedAttention(), vit.Attention(2)
    few_places, narrow = jnp.ones((1, channels, 4)), jnp.ones((1, tokens, 4))
    variables = mix.init(jax.random.key(0), few_places), attend.init(jax.random.key(0), narrow)
    assert kept(lambda x: mix.apply(variables[0], x), few_places) < channels**2
    assert kept(lambda x: attend.apply(variables[1], x), narrow) < tokens**2


def test_relative_positions():
    index = relative_positions(4)
    assert index.shape == (16, 16)
    assert index[0].tolist() == [24, 23, 22, 21, 17, 16, 15, 14, 10, 9, 8, 7, 3, 2, 1, 0]
    assert np.array_equal(index + index.T, np.full((16, 16), 48))


def test_windows_and_back():
    x = jnp.arange(2 * 8 * 12 * 3, dtype=jnp.float32).reshape(2, 8, 12, 3)
    windows = to_windows(x, 4)
    assert windows.shape == (12, 16, 3)
    np.testing.assert_array_equal(windows[1, :4], x[0, 0, 4:8])
    np.testing.assert_array_equal(from_windows(windows, 8, 12), x)


def test_shifted_windows_do_not_mix_opposite_borders():
    mask = np.asarray(shift_mask(8, 8, 4, 2))
    assert mask.shape == (4, 16, 16)
    rows, columns = np.divmod(np.arange(16), 4)
    assert not mask[0].any()  # the window at the top left lies within the map
    np.testing.assert_array_equal(mask[1] == 0, (columns[:, None] < 2) == (columns < 2))
    np.testing.assert_array_equal(mask[2] == 0, (rows[:, None] < 2) == (rows < 2))
    np.testing.assert_array_equal(mask[3] == 0, (mask[1] == 0) & (mask[2] == 0))
    assert set(np.unique(mask)) == {-100.0, 0.0}
