"""Grouped convolutions in bundles equal those of ``lax`` and PyTorch, with all their derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives import TOLERANCES, check, draws, few
from hypothesis import example, given
from hypothesis import strategies as st
from jax import lax

from nriqa_jax import grouped, layers

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")


def by_torch(x, kernel, **setting):
    y = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1).contiguous(), **setting)
    return y.permute(0, 2, 3, 1)


def plain(x, kernel, stride, padding, dilation, groups):
    dimensions = ("NHWC", "HWIO", "NHWC")
    sides, dilations = [(padding, padding)] * 2, (dilation, dilation)
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), sides, None, dilations, dimensions, feature_group_count=groups
    )


@given(
    size=st.tuples(st.integers(1, 2), st.integers(5, 9), st.integers(5, 9)),
    window=st.sampled_from([1, 3]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([2, 3, 4, 6, 12]),
    fan_in=st.sampled_from([1, 2, 5, 8, 17]),
    out=st.integers(1, 3),
    dtype=st.sampled_from(sorted(TOLERANCES)),
)
@example((2, 6, 7), 3, 1, 1, 4, 8, 8, "float64")  # two bundles of two groups
@example((1, 7, 6), 3, 2, 1, 32, 1, 1, "float32")  # depthwise
@few(max_examples=6)
def test_bundles_equal_lax_and_torch(size, window, stride, dilation, groups, fan_in, out, dtype):
    setting = {"stride": stride, "padding": window // 2, "dilation": dilation}
    check(
        lambda x, kernel: layers.conv2d(x, grouped.bundle(kernel, groups), **setting),
        functools.partial(by_torch, groups=groups, **setting),
        draws((*size, groups * fan_in), (window, window, fan_in, groups * out)),
        functools.partial(plain, groups=groups, **setting),
        dtype,
    )


@pytest.mark.parametrize(
    ("groups", "fan_in", "bundles", "width"), [(32, 8, 16, 16), (32, 16, 32, 16), (32, 64, 32, 64), (6, 3, 2, 9)]
)
def test_bundles_are_as_wide_as_pays(groups, fan_in, bundles, width):
    kernel = jnp.ones((3, 3, fan_in, 2 * groups))
    blocks = grouped.bundle(kernel, groups).bundles
    assert len(blocks) == bundles
    assert {block.shape for block in blocks} == {(3, 3, width, 2 * groups // bundles)}
    assert sum(map(jnp.count_nonzero, blocks)) == kernel.size


def test_bundles_keep_half_precision():
    x, kernel = (jnp.asarray(array, jnp.bfloat16) for array in draws((1, 6, 5, 32), (3, 3, 8, 32)))
    y = layers.conv2d(x, grouped.bundle(kernel, 4), padding=1)
    assert y.dtype == jnp.bfloat16
    expected = plain(x.astype("f"), kernel.astype("f"), 1, 1, 1, 4)
    np.testing.assert_allclose(y.astype("f"), expected, atol=0.5)
    assert jax.tree.leaves(grouped.bundle(kernel, 4))[0].dtype == jnp.bfloat16
