"""Prepared weights give the same scores and derivatives, with fewer and faster operations."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives import assert_close, check, draws
from flax.traverse_util import flatten_dict

from experiments import weights
from experiments.catalog import MODELS
from nriqa_jax.grouped import BundledKernel
from nriqa_jax.layers import BatchNorm, Conv, Dense, max_pool
from nriqa_jax.models.resnet import BasicBlock, Bottleneck, resnet18
from nriqa_jax.patches import PatchKernel
from nriqa_jax.prepare import _WINOGRAD_CHANNELS as ENOUGH
from nriqa_jax.prepare import prepare, trace
from nriqa_jax.winograd import WinogradKernel

SHAPE = (12, 10, 3)
SMALL, LARGE = (7, 7), (8, 7)  # height and width of maps
LEAVES_OF_A_NORM = (("params", "scale"), ("params", "bias"), ("batch_stats", "mean"), ("batch_stats", "var"))


class Residual(nn.Module):
    """A stem, a block with a strided shortcut and one without, and scores."""

    @nn.compact
    def __call__(self, x):
        x = nn.gelu(BatchNorm(name="bn")(Conv(4, 3, 1, 1, use_bias=False, name="conv")(x)))
        x = BasicBlock(8, 2, name="strided")(max_pool(x, 3, stride=2, padding=1))
        x = Bottleneck(2, name="same")(x)
        return Dense(1)(x.mean((1, 2)))[:, 0]


class Kinds(nn.Module):
    """Biases, groups, dilation, an activation between, and nested modules that repeat names."""

    @nn.compact
    def __call__(self, x):
        x = BatchNorm(1e-3, name="bn")(Conv(6, 3, name="conv")(x))
        x = nn.Sequential([Conv(6, 3, padding=1, groups=6), BatchNorm(), nn.tanh, BatchNorm()])(x)
        x = nn.Sequential([Conv(6, 3, padding=2, dilation=2, groups=2, use_bias=False), BatchNorm()], name="nested")(x)
        return jnp.tanh(BatchNorm(name="last")(x=Conv(1, 1, name="linear")(x))).mean((1, 2, 3))


class Bare(nn.Module):
    """Batch norms that follow no convolution, or one that something else follows first."""

    @nn.compact
    def __call__(self, x):
        x = BatchNorm(name="input")(x)
        x = BatchNorm(name="late")(nn.gelu(Conv(4, 3, name="conv")(x)))
        return BatchNorm(name="pooled")(max_pool(x, 2, stride=2)).mean((1, 2, 3))


class Shared(nn.Module):
    """One convolution called twice, its outputs normalised as ``how`` says."""

    how: str

    @nn.compact
    def __call__(self, x):
        conv, norm, other = Conv(4, 3, name="conv"), BatchNorm(name="norm"), BatchNorm(name="other")
        once, again = conv(x), conv(x**2)
        y = {
            "always by the same": lambda: norm(once) + norm(again),
            "by two": lambda: norm(once) + other(again),
            "once by two": lambda: norm(once) + other(once) + norm(again),
            "once": lambda: norm(once) + again,
            "and the input too": lambda: norm(once) + norm(again) + norm(jnp.repeat(x, 2, axis=-1)[:, 2:, 2:, :4]),
        }[self.how]()
        return jnp.tanh(y).mean((1, 2, 3))


class Calibrated(nn.Module):
    """A score with a collection of its own behind the network."""

    @nn.compact
    def __call__(self, x):
        scale = self.variable("calibration", "scale", lambda: jnp.full((), 3.0)).value
        return scale * Residual(name="network")(x)


class Convolution(nn.Module):
    """One convolution."""

    conv: Conv

    @nn.compact
    def __call__(self, x):
        return nn.gelu(self.conv(x))


def randomised(network, shape):
    """Variables in which no statistic, scale or bias is trivial."""

    def shifted(x):
        return np.asarray(x + 0.2 * rng.normal(size=x.shape) if x.ndim == 1 else x, np.float64)

    rng = np.random.default_rng(0)
    variables = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, *shape)))
    return jax.tree.map(shifted, variables)


def prepared_in(dtype, network, variables, shape, **settings):
    with jax.enable_x64(dtype == "float64"):
        return prepare(network, variables, shape, dtype=dtype, **settings)


def scores(network, variables):
    return lambda x: network.apply(jax.tree.map(jnp.asarray, variables), x)


def names(variables):
    """Slash-separated paths of all leaves."""
    return {"/".join(path) for path, leaf in flatten_dict(dict(variables)).items() if not isinstance(leaf, tuple)}


NETWORKS = [
    pytest.param(Residual(), 7, id="residual"),
    pytest.param(Kinds(), 4, id="kinds"),
    pytest.param(Bare(), 0, id="bare"),
    pytest.param(Shared("always by the same"), 1, id="shared together"),
    *[
        pytest.param(Shared(how), 0, id=f"shared, {how}")
        for how in ("by two", "once by two", "once", "and the input too")
    ],
]


@pytest.mark.parametrize(("network", "folded"), NETWORKS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scores_and_all_derivatives_stay_the_same(network, folded, dtype):
    variables = randomised(network, SHAPE)
    prepared = prepared_in(dtype, network, variables, SHAPE)
    check(scores(network, prepared), None, draws((2, *SHAPE)), scores(network, variables), dtype)


@pytest.mark.parametrize(("network", "folded"), NETWORKS)
def test_nothing_but_folded_norms_is_lost(network, folded):
    before = randomised(network, SHAPE)
    after = prepare(network, before, SHAPE, platform="gpu")
    norms = trace(network, before, SHAPE).norms
    assert len(norms) == folded
    gone = {f"{kind}/{'/'.join(norm)}/{leaf}" for norm in norms.values() for kind, leaf in LEAVES_OF_A_NORM}
    biases = {f"params/{'/'.join(conv)}/bias" for conv in norms}
    assert names(after) == (names(before) - gone) | biases


def test_other_collections_pass_through():
    network = Calibrated()
    before = randomised(network, SHAPE)
    after = prepare(network, before, SHAPE)
    assert set(after) == {"params", "calibration"}
    np.testing.assert_allclose(after["calibration"]["scale"], before["calibration"]["scale"])
    x = jnp.asarray(draws((2, *SHAPE))[0], jnp.float32)
    assert_close(scores(network, after)(x), scores(network, before)(x), 1e-5)


def test_preparing_twice_changes_nothing():
    wide = Convolution(Conv(ENOUGH, 3, padding=1))
    for network, shape in ((wide, (6, 6, ENOUGH)), (Residual(), SHAPE), (Bare(), SHAPE)):
        once = prepare(network, randomised(network, shape), shape, platform="cpu")
        jax.tree.map(np.testing.assert_array_equal, once, prepare(network, once, shape, platform="cpu"))


@pytest.mark.parametrize(
    ("conv", "fan_in", "shape", "kind"),
    [
        (Conv(ENOUGH, 3, padding=1), ENOUGH, LARGE, WinogradKernel),
        (Conv(ENOUGH, 3, padding=1, use_bias=False), ENOUGH + 2, LARGE, WinogradKernel),
        (Conv(ENOUGH, 3, padding=1), ENOUGH - 1, LARGE, jax.Array),
        (Conv(ENOUGH - 1, 3, padding=1), ENOUGH, LARGE, jax.Array),
        (Conv(ENOUGH, 3, stride=2, padding=1), ENOUGH, LARGE, PatchKernel),
        (Conv(ENOUGH, 3, padding=0), ENOUGH, LARGE, jax.Array),
        (Conv(ENOUGH, 3, padding=2, dilation=2), ENOUGH, LARGE, jax.Array),
        (Conv(ENOUGH, 3, stride=2, padding=2, dilation=2), ENOUGH, LARGE, jax.Array),
        (Conv(2 * ENOUGH, 3, stride=2, padding=1, groups=2), 2 * ENOUGH, LARGE, BundledKernel),
        (Conv(ENOUGH, 1, stride=2), ENOUGH, LARGE, jax.Array),
        (Conv(ENOUGH, 5, padding=1), ENOUGH, LARGE, jax.Array),
        (Conv(ENOUGH, 3, padding=1), ENOUGH, SMALL, PatchKernel),
        (Conv(ENOUGH, 5, padding=1), 3, SMALL, PatchKernel),
        (Conv(ENOUGH, 3, padding=2, dilation=2), ENOUGH, SMALL, jax.Array),
        (Conv(ENOUGH, 1), ENOUGH, SMALL, jax.Array),
    ],
)
def test_kernels_are_laid_out_as_suits_them_and_only_on_cpus(conv, fan_in, shape, kind):
    network, shape = Convolution(conv), (*shape, fan_in)
    variables = randomised(network, shape)
    on_cpu, on_gpu = (prepare(network, variables, shape, platform=platform) for platform in ("cpu", "gpu"))
    assert isinstance(on_cpu["params"]["conv"]["kernel"], kind)
    np.testing.assert_allclose(on_gpu["params"]["conv"]["kernel"], variables["params"]["conv"]["kernel"], rtol=1e-6)
    x = jnp.asarray(draws((2, *shape))[0], jnp.float32)
    assert_close(jax.jit(network.apply)(on_cpu, x), jax.jit(network.apply)(on_gpu, x), 1e-5)


def test_a_convolution_is_small_if_all_its_maps_are():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            conv = Conv(3, 3, padding=1, name="conv")
            return conv(x).mean((1, 2, 3)) + conv(x[:, :2, :2]).mean((1, 2, 3))

    network = Twice()
    for size, small in ((SMALL, True), (LARGE, False)):
        sites = trace(network, randomised(network, (*size, 3)), (*size, 3)).convolutions
        assert sites["conv",].small == small


def test_a_wide_block_keeps_its_derivatives_on_cpus():
    network, shape = BasicBlock(ENOUGH), (8, 7, ENOUGH)
    variables = randomised(network, shape)
    prepared = prepared_in("float64", network, variables, shape, platform="cpu")
    assert isinstance(prepared["params"]["conv2"]["kernel"], WinogradKernel)
    check(scores(network, prepared), None, draws((1, *shape)), scores(network, variables))


def test_every_batch_norm_of_a_resnet_is_folded():
    network, shape = resnet18(), (128, 128, 3)
    variables = randomised(network, shape)
    structure = trace(network, variables, shape)
    assert len(structure.convolutions) == len(structure.norms) == len(set(structure.norms.values())) == 20
    prepared = prepare(network, variables, shape, platform="cpu")
    assert set(prepared) == {"params"}
    kernels = [leaf for path, leaf in flatten_dict(prepared["params"]).items() if path[-1] == "kernel"]
    unstrided = {64: 4, 128: 3, 256: 3}  # 3x3 convolutions of maps that are not small, by width
    expected = sum(count for width, count in unstrided.items() if width >= ENOUGH)
    assert sum(isinstance(kernel, WinogradKernel) for kernel in kernels) == expected > 0
    assert sum(isinstance(kernel, PatchKernel) for kernel in kernels) == 1 + 3 + 3  # stem, strided, small
    x = jnp.asarray(draws((1, *shape))[0], jnp.float32)
    maps, expected = (jax.jit(network.apply)(weights, x) for weights in (prepared, variables))
    jax.tree.map(lambda *pair: assert_close(*pair, 1e-5), maps, expected)


def test_half_precision_weights_still_give_float32_scores(images):
    model = MODELS["tinyiqa"]()
    variables = weights.load("embedded", model, 0).variables
    half = model.prepare(variables, jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype(jnp.bfloat16)}
    big = jnp.tile(images, (1, 2, 2, 1))
    found, expected = (jax.jit(model.apply)(weights, big) for weights in (half, variables))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=1.0)
