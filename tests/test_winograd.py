"""Winograd convolutions equal plain ones, and windows taken apart equal slices, with all their derivatives."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives import TOLERANCES, check, draws, few
from hypothesis import example, given
from hypothesis import strategies as st
from jax import lax

from nriqa_jax import layers, windows, winograd

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")


def by_winograd(x, kernel):
    return winograd.convolve(x, winograd.transform_kernel(kernel))


def plain(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))


def by_torch(x, kernel):
    y = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1).contiguous(), padding=1)
    return y.permute(0, 2, 3, 1)


@given(
    batch=st.integers(1, 2),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    fan_in=st.integers(1, 5),
    out=st.integers(1, 5),
    dtype=st.sampled_from(sorted(TOLERANCES)),
)
@example(1, 1, 1, 1, 1, "float64")
@example(2, 7, 4, 3, 5, "float32")
@few(max_examples=6)
def test_winograd_equals_lax_and_torch_at_any_size(batch, height, width, fan_in, out, dtype):
    arguments = draws((batch, height, width, fan_in), (3, 3, fan_in, out))
    check(by_winograd, by_torch, arguments, plain, dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("size", [(14, 14), (7, 5)])
def test_winograd_stays_exact_with_many_channels(size, dtype):
    check(by_winograd, by_torch, draws((1, *size, 160), (3, 3, 160, 130)), dtype=dtype)


def test_winograd_stays_exact_far_from_zero():
    x, kernel = draws((1, 8, 8, 16), (3, 3, 16, 16))
    x = np.abs(x) + 100.0
    y, expected = (
        by_winograd(jnp.asarray(x, "f"), jnp.asarray(kernel, "f")),
        by_torch(*map(torch.from_numpy, (x, kernel))),
    )
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * expected.abs().max())


@pytest.mark.parametrize(("size", "channels", "paid"), [((127, 129), 64, True), ((128, 128), 64, False)])
def test_large_maps_need_more_channels(size, channels, paid):
    x, kernel = (jnp.asarray(array, jnp.float32) for array in draws((1, *size, channels), (3, 3, channels, channels)))
    transformed = winograd.transform_kernel(kernel)
    assert winograd.pays(x, transformed) == paid
    products = jax.make_jaxpr(lambda x: layers.conv2d(x, transformed, padding=1))(x)
    assert ("conv_general_dilated" in str(products)) != paid
    y, expected = layers.conv2d(x, transformed, padding=1), plain(x, kernel)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * jnp.abs(expected).max())


def test_many_channels_pay_on_large_maps():
    kernel = winograd.WinogradKernel(jnp.zeros((16, 256, 256)))
    assert winograd.pays(jnp.zeros((1, 128, 128, 256)), kernel)
    assert not winograd.pays(jnp.zeros((1, 128, 128, 255)), winograd.WinogradKernel(jnp.zeros((16, 255, 256))))


def test_kernels_are_restored():
    (kernel,) = draws((3, 3, 5, 4))
    restored = winograd.restore_kernel(winograd.transform_kernel(jnp.asarray(kernel, jnp.float32)))
    np.testing.assert_allclose(restored, kernel, atol=1e-6)


def test_conv2d_takes_a_winograd_kernel_under_jit_and_vmap():
    x, kernel = (jnp.asarray(array, jnp.float32) for array in draws((2, 6, 5, 3), (3, 3, 3, 4)))
    transformed = jax.jit(winograd.transform_kernel)(kernel)
    assert jax.tree.map(jnp.shape, jax.tree.leaves(transformed)) == [(16, 3, 4)]
    single = jax.vmap(lambda kernel, x: layers.conv2d(x[None], kernel, padding=1)[0], (None, 0))
    np.testing.assert_allclose(jax.jit(single)(transformed, x), plain(x, kernel), atol=1e-5)


def test_winograd_keeps_half_precision():
    x, kernel = (jnp.asarray(array, jnp.bfloat16) for array in draws((1, 6, 5, 8), (3, 3, 8, 4)))
    y = by_winograd(x, kernel)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype("f"), plain(x.astype("f"), kernel.astype("f")), atol=0.5)


@given(
    shape=st.tuples(st.integers(1, 2), *[st.integers(7, 11)] * 2, st.integers(1, 2)),
    axis=st.sampled_from([1, 2]),
    window=st.integers(1, 7),
    stride=st.integers(1, 4),
)
@example((1, 7, 9, 1), 1, 7, 4)  # one window, from end to end
@example((1, 9, 8, 2), 2, 1, 4)  # gaps between the windows
@few(max_examples=15)
def test_taps_are_strided_slices_with_their_gradients(shape, axis, window, stride):
    (x,) = draws(shape)
    x = jnp.asarray(x, jnp.float32)
    count = (shape[axis] - window) // stride + 1

    def slices(x):
        last = stride * (count - 1) + 1
        return [lax.slice_in_dim(x, t, t + last, stride, axis) for t in range(window)]

    @functools.partial(jax.jit, static_argnums=0)
    def with_gradient(f, x):
        parts, pull = jax.vjp(f, x)
        return parts, pull([part + t for t, part in enumerate(parts)])[0]

    found, gradient = with_gradient(lambda x: windows.taps(x, axis, window, stride), x)
    expected, expected_gradient = with_gradient(slices, x)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-5)


def gaps(taps):
    """How many zeros the gradient of the taps of a window puts between values."""
    gradient = jax.jit(jax.grad(lambda x: sum(jnp.sum(tap**2) for tap in taps(x))))
    program = gradient.lower(jnp.zeros((1, 9, 4, 2))).as_text()
    return {int(gap) for gaps in re.findall(r"interior = \[([\d, ]+)\]", program) for gap in gaps.split(", ")}


def test_the_gradient_of_taps_sums_no_dilated_arrays():
    assert gaps(lambda x: windows.taps(x, 1, 3, 2)) == {0}
    assert gaps(lambda x: [lax.slice_in_dim(x, t, t + 7, 2, 1) for t in range(3)]) == {0, 1}


def test_split_takes_an_axis_apart():
    (x,) = draws((2, 3, 4))
    for axis in range(3):
        parts = windows.split(jnp.asarray(x, jnp.float32), axis)
        np.testing.assert_array_equal(np.stack(parts, axis), x.astype("f"))
