"""Kernels laid out inside a training step: the same function of the weights, with its derivatives of both orders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives import TOLERANCES, check, draws, few
from hypothesis import example, given
from hypothesis import strategies as st
from test_prepare import SHAPE, Kinds, Residual, randomised

from nriqa_jax import layers
from nriqa_jax.grouped import BundledKernel
from nriqa_jax.patches import PatchKernel
from nriqa_jax.prepare import lay_out
from nriqa_jax.winograd import WinogradKernel


@given(
    size=st.tuples(st.integers(1, 2), st.integers(5, 9), st.integers(5, 9)),
    window=st.sampled_from([2, 3, 5]),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    channels=st.sampled_from([3, 9]),
    dtype=st.sampled_from(sorted(TOLERANCES)),
)
@example((1, 8, 7), 3, 2, 1, 9, "float64")
@example((2, 9, 8), 5, 2, 2, 3, "float64")
@few(max_examples=4)
def test_products_of_patches_equal_convolutions(size, window, stride, padding, channels, dtype):
    """Those of few channels, as in the first layer, are folded first."""
    setting = {"stride": stride, "padding": padding}
    check(
        lambda x, kernel: layers.conv2d(x, PatchKernel(kernel), **setting),
        None,
        draws((*size, channels), (window, window, channels, 4)),
        lambda x, kernel: layers.conv2d(x, kernel, **setting),
        dtype,
    )


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("network", [Residual(), Kinds()])
def test_gradients_by_weights_stay_the_same(network, twice):
    """Also those of gradients by images, which double backpropagation needs."""
    with jax.enable_x64(True):
        variables, x = jax.tree.map(jnp.asarray, (randomised(network, SHAPE), draws((2, *SHAPE))[0]))

        def penalty(variables, layout):
            variables = layout(variables)
            slope = jax.grad(lambda x: network.apply(variables, x).sum())(x)
            return jnp.sum(slope**2) + jnp.sum(network.apply(variables, x) ** 2)

        found, expected = (
            jax.jit(jax.grad(lambda variables, layout=layout: penalty(variables, layout)))(variables)
            for layout in (lambda v: lay_out(network, v, SHAPE, twice=twice, platform="cpu"), lambda v: v)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), found, expected)


def test_kernels_are_laid_out_on_cpus_only():
    laid_out = PatchKernel, BundledKernel, WinogradKernel

    def kinds(network, **options):
        variables = jax.tree.map(jnp.asarray, randomised(network, SHAPE))
        params = lay_out(network, variables, SHAPE, **options)["params"]
        return [type(leaf) for leaf in jax.tree.leaves(params, is_leaf=lambda leaf: isinstance(leaf, laid_out))]

    once, twice = kinds(Kinds(), platform="cpu"), kinds(Kinds(), platform="cpu", twice=True)
    assert (once.count(BundledKernel), once.count(PatchKernel)) == (2, 0)
    assert (twice.count(BundledKernel), twice.count(PatchKernel)) == (2, 1)
    strided = kinds(Residual(), platform="cpu")
    assert strided.count(PatchKernel) == 1
    assert not {*kinds(Kinds(), platform="gpu", twice=True), *kinds(Residual(), platform="gpu")} & {*laid_out}
