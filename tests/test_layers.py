"""Layers equal plain ``lax`` formulations and PyTorch, in value and in first and second derivatives."""

import functools

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives import TOLERANCES, check, draws, few
from hypothesis import example, given
from hypothesis import strategies as st
from jax import lax

from nriqa_jax import layers

torch = pytest.importorskip("torch")
F = torch.nn.functional
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")

dtypes = st.sampled_from(sorted(TOLERANCES))
sizes = st.tuples(st.integers(1, 2), st.integers(0, 5), st.integers(0, 5))  # batch, pixels beyond the first window


def image_shape(size, extent, padding, channels):
    """At least one window fits."""
    smallest = max(1, extent - 2 * padding)
    return (size[0], smallest + size[1], smallest + size[2], channels)


def on_nchw(f):
    """The function of PyTorch ``(images, kernels...)`` in our layout."""
    return lambda x, *ks: f(x.permute(0, 3, 1, 2), *(k.permute(3, 2, 0, 1).contiguous() for k in ks)).permute(
        0, 2, 3, 1
    )


def reduce_window(x, init, operation, window, stride, padding):
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return lax.reduce_window(x, init, operation, (1, window, window, 1), (1, stride, stride, 1), sides)


@given(
    size=sizes,
    window=st.sampled_from([1, 2, 3, 5, 7]),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 3),
    groups=st.integers(1, 3),
    fan_in=st.integers(1, 3),
    out=st.integers(1, 3),
    dtype=dtypes,
)
@example((2, 4, 3), 1, 2, 1, 1, 1, 3, 2, "float64")  # 1x1, strided and padded
@example((1, 0, 0), 1, 3, 0, 2, 1, 1, 1, "float64")  # one pixel
@example((1, 5, 4), 3, 2, 1, 2, 3, 1, 1, "float32")  # depthwise
@example((1, 4, 5), 1, 2, 1, 1, 3, 2, 2, "float64")  # 1x1 in groups
@few(max_examples=12)
def test_conv2d_equals_lax_and_torch(size, window, stride, padding, dilation, groups, fan_in, out, dtype):
    shape = image_shape(size, dilation * (window - 1) + 1, padding, groups * fan_in)
    setting = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    check(
        lambda x, k: layers.conv2d(x, k, **setting),
        on_nchw(lambda x, k: F.conv2d(x, k, **setting)),
        draws(shape, (window, window, fan_in, groups * out)),
        lambda x, k: lax.conv_general_dilated(
            x,
            k,
            (stride, stride),
            [(padding, padding)] * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        ),
        dtype,
    )


pools = given(
    size=sizes,
    window=st.sampled_from([1, 2, 3, 5, 7]),
    stride=st.integers(1, 3),
    share=st.sampled_from([0, 0.5, 1]),  # of the padding that PyTorch allows
    channels=st.integers(1, 3),
    flag=st.booleans(),
    dtype=dtypes,
)


@pools
@example((2, 4, 5), 3, 2, 1, 2, False, "float64")
@example((1, 0, 0), 3, 2, 1, 1, False, "float64")  # one pixel
@few(max_examples=10)
def test_max_pool_equals_lax_and_torch_where_no_values_are_equal(size, window, stride, share, channels, flag, dtype):
    padding = int(share * (window // 2))
    shape = image_shape(size, window, padding, channels)
    distinct = np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape) / np.prod(shape) - 0.6
    check(
        lambda x: layers.max_pool(x, window, stride=stride, padding=padding),
        on_nchw(lambda x: F.max_pool2d(x, window, stride, padding)),
        (distinct,),
        lambda x: reduce_window(x, -np.inf, lax.max, window, stride, padding),
        dtype,
    )


@pytest.mark.parametrize(("window", "stride", "padding"), [(3, 2, 1), (2, 2, 0), (3, 1, 1), (5, 3, 2)])
def test_equal_maxima_share_the_gradient_of_their_window(window, stride, padding):
    x = jnp.asarray(np.random.default_rng(0).integers(0, 2, (2, 9, 8, 3)), jnp.float32)
    pool = functools.partial(layers.max_pool, window=window, stride=stride, padding=padding)
    (cotangent,) = draws(jax.eval_shape(pool, x).shape)
    pull = jax.jit(lambda x, cotangent: jax.vjp(pool, x)[1](cotangent)[0])
    gradient = pull(x, jnp.asarray(cotangent, jnp.float32))
    np.testing.assert_allclose(gradient.sum((1, 2)), cotangent.sum((1, 2)), rtol=1e-4, atol=1e-5)
    assert np.all(pull(x, jnp.ones(cotangent.shape)) >= 0)


def test_four_equal_maxima_each_get_a_quarter_of_the_gradient():
    gradient = jax.grad(lambda x: jnp.sum(layers.max_pool(x, 2, stride=2)))(jnp.zeros((1, 2, 2, 1)))
    np.testing.assert_array_equal(gradient, np.full((1, 2, 2, 1), 0.25))


@pools
@example((2, 4, 3), 3, 2, 1, 2, False, "float64")
@example((2, 4, 3), 3, 2, 1, 2, True, "float32")
@few(max_examples=12)
def test_avg_pool_equals_lax_and_torch_whether_or_not_it_counts_padding(
    size, window, stride, share, channels, flag, dtype
):
    padding = int(share * (window // 2))

    def reference(x):
        counts = window**2 if flag else reduce_window(jnp.ones_like(x), 0.0, lax.add, window, stride, padding)
        return reduce_window(x, 0.0, lax.add, window, stride, padding) / counts

    check(
        lambda x: layers.avg_pool(x, window, stride=stride, padding=padding, count_include_pad=flag),
        on_nchw(lambda x: F.avg_pool2d(x, window, stride, padding, count_include_pad=flag)),
        draws(image_shape(size, window, padding, channels)),
        reference,
        dtype,
    )


@given(
    shape=st.tuples(st.integers(1, 2), *[st.integers(1, 11)] * 2, st.integers(1, 3)),
    bins=st.integers(1, 8),
    dtype=dtypes,
)
@few(max_examples=12)
def test_adaptive_avg_pool_equals_torch_at_any_size(shape, bins, dtype):
    ours = functools.partial(layers.adaptive_avg_pool, bins=bins)
    check(ours, on_nchw(lambda x: F.adaptive_avg_pool2d(x, bins)), draws(shape), dtype=dtype)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_attention_equals_torch(dtype, masked):
    mask = np.where(np.random.default_rng(1).random((2, 3, 5, 7)) < 0.3, -np.inf, 0.5) if masked else None

    def ours(*qkv):
        return layers.attention(*qkv, mask=jnp.asarray(mask) if masked else None)

    def theirs(*qkv):
        bias = torch.from_numpy(mask) if masked else None
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # the others have fewer derivatives
            return F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in qkv), attn_mask=bias).transpose(1, 2)

    arguments = draws((2, 5, 3, 4), (2, 7, 3, 4), (2, 7, 3, 4))
    check(ours, theirs, arguments, dtype=dtype, tolerance=1e-5)  # the softmax is in float32


def linen(module, *names):
    """A module as a function of the input and of the parameters of these names."""
    return lambda x, *values: module.apply({"params": dict(zip(names, values, strict=True))}, x)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_modules_of_vectors_equal_torch(dtype):
    x, vector, other, matrix = draws((2, 5, 6), (6,), (6,), (6, 4))
    norm, dense, plain = layers.LayerNorm(), layers.Dense(4), layers.Dense(4, use_bias=False)
    check(linen(norm, "scale", "bias"), lambda x, s, b: F.layer_norm(x, (6,), s, b), (x, vector, other), dtype=dtype)
    check(linen(dense, "kernel", "bias"), lambda x, k, b: F.linear(x, k.T, b), (x, matrix, vector[:4]), dtype=dtype)
    check(linen(plain, "kernel"), lambda x, k: F.linear(x, k.T), (x, matrix), dtype=dtype)
    check(layers.gelu, F.gelu, (3 * x,), dtype=dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_modules_of_maps_equal_torch(dtype):
    x, vector, other, kernel = draws((2, 8, 7, 4), (4,), (4,), (3, 3, 2, 4))
    setting = {"stride": 2, "padding": 2, "dilation": 2, "groups": 2}
    conv = linen(layers.Conv(4, 3, **setting), "kernel", "bias")
    check(
        conv, lambda x, k, b: on_nchw(lambda x, k: F.conv2d(x, k, b, **setting))(x, k), (x, kernel, vector), None, dtype
    )
    stats = {"mean": vector, "var": other**2 + 0.5}
    mean, var = map(torch.from_numpy, stats.values())

    def norm(x, scale, bias):
        variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": stats}
        return layers.BatchNorm().apply(jax.tree.map(lambda a: jnp.asarray(a, x.dtype), variables), x)

    def theirs(x, s, b):
        return on_nchw(lambda x: F.batch_norm(x, mean, var, s, b))(x)

    check(norm, theirs, (x, other, vector), dtype=dtype)
    np.testing.assert_array_equal(
        layers.flatten_nchw(jnp.asarray(x)), x.transpose(0, 3, 1, 2).reshape(2, -1).astype("f")
    )


def test_a_kernel_of_another_shape_is_refused():
    conv, x = layers.Conv(4, 3), jnp.zeros((1, 8, 8, 2))
    with pytest.raises(flax.errors.ScopeParamShapeError):
        conv.apply({"params": {"kernel": jnp.zeros((3, 3, 2, 5)), "bias": jnp.zeros(4)}}, x)
    with pytest.raises(flax.errors.ScopeParamNotFoundError):
        conv.apply({"params": {"bias": jnp.zeros(4)}}, x)


class Everything(nn.Module):
    """Each layer once."""

    @nn.compact
    def __call__(self, x):
        x = layers.BatchNorm()(layers.Conv(4, 3, padding=1)(layers.Conv(4, 1)(x)))
        x = layers.max_pool(x, 3, stride=2, padding=1)
        x = layers.avg_pool(x, 3, stride=1, padding=1, count_include_pad=False)
        x = layers.LayerNorm()(layers.gelu(layers.adaptive_avg_pool(x, 3)))
        x = layers.attention(x, x, x)
        return layers.Dense(2)(layers.flatten_nchw(x))


def test_layers_compute_in_the_number_format_of_their_input():
    (x,) = draws((2, 9, 8, 3))
    network, x = Everything(), jnp.asarray(x, jnp.float32)
    arguments = jax.jit(network.init)(jax.random.key(0), x), x
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), arguments)
    with_gradient = jax.jit(jax.value_and_grad(lambda variables, x: network.apply(variables, x).sum(), argnums=1))
    (scores, gradient), (expected, _) = with_gradient(*half), with_gradient(*arguments)
    assert scores.dtype == gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(scores.astype("f"), expected, rtol=0.1)
