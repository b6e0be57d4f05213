from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import signal

from nriqa_jax.metrics.fidelity import l2, linf, ms_ssim, mse, psnr, ssim, ssim_uniform

TID2013 = Path(__file__).parents[2] / "shared" / "data" / "tid2013"
MATLAB_SSIM = {"I03": 0.6993, "I04": 0.9978, "I06": 0.9989, "I08": 0.9669, "I19": 0.6519}
METRICS = [mse, psnr, ssim, ms_ssim, l2, linf]
JITTED = {metric: jax.jit(metric) for metric in METRICS}  # one compilation for all tests of one shape
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def pair(height=40, width=53, *, batch=2, channels=3, noise=0.1, seed=0):
    """Smooth random images and noisy copies, float64 in [0, 1]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.linspace(0, 6, height)[:, None, None], np.linspace(0, 5, width)[None, :, None]
    phases = rng.uniform(0, 6, (batch, 1, 1, channels))
    clean = 0.5 + 0.4 * np.sin(rows + phases) * np.cos(columns - phases)
    return np.clip(clean + noise * rng.standard_normal(clean.shape), 0, 1), clean


def pair_for(metric, dtype=jnp.float32, **options):
    return [jnp.asarray(x, dtype) for x in pair(*((161, 170) if metric is ms_ssim else (40, 53)), **options)]


def gradient_of(metric, x, y, argument=0):
    return jax.jit(jax.grad(lambda x, y: jnp.sum(metric(x, y)), argument))(x, y)


def numpy_ssim_maps(x, y):
    """SSIM and contrast maps of two [H, W] images, straight from the 2004 paper with a two-dimensional window."""
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(taps, taps) / taps.sum() ** 2
    mean = lambda z: signal.convolve2d(z, window, mode="valid")  # noqa: E731
    mx, my = mean(x), mean(y)
    contrast = (2 * (mean(x * y) - mx * my) + 9e-4) / (mean(x * x) - mx**2 + mean(y * y) - my**2 + 9e-4)
    return (2 * mx * my + 1e-4) / (mx**2 + my**2 + 1e-4) * contrast, contrast


def numpy_ms_ssim(x, y):
    value = 1.0
    for scale, weight in enumerate(WEIGHTS):
        full, contrast = numpy_ssim_maps(x, y)
        value *= max((full if scale == 4 else contrast).mean(), 0) ** weight
        x, y = (np.pad(z, [(0, n % 2) for n in z.shape], mode="edge") for z in (x, y))
        x, y = (z.reshape(z.shape[0] // 2, 2, z.shape[1] // 2, 2).mean((1, 3)) for z in (x, y))
    return value


def over_channels(function, x, y):
    return np.array([np.mean([function(a[..., c], b[..., c]) for c in range(a.shape[-1])]) for a, b in zip(x, y)])


def test_pointwise_metrics_match_numpy():
    x, y = pair()
    change = (x - y).reshape(len(x), -1)
    f32 = [jnp.asarray(z, jnp.float32) for z in (x, y)]
    np.testing.assert_allclose(mse(*f32), (change**2).mean(1), rtol=1e-6)
    np.testing.assert_allclose(psnr(*f32), -10 * np.log10((change**2).mean(1)), rtol=1e-6)
    np.testing.assert_allclose(l2(*f32), np.linalg.norm(change, axis=1), rtol=1e-6)
    np.testing.assert_allclose(linf(*f32), np.abs(change).max(1), rtol=1e-6)


def test_sums_stay_accurate_on_large_images():
    x, y = pair(700, 900, batch=1, noise=0.01)
    f32 = [jnp.asarray(z, jnp.float32) for z in (x, y)]
    change = np.asarray(f32[0], np.float64) - np.asarray(f32[1], np.float64)
    np.testing.assert_allclose(mse(*f32), [np.mean(change**2)], rtol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(11, 11), (12, 31), (42, 43), (75, 150)])
def test_ssim_matches_the_paper(height, width):
    x, y = pair(height, width)
    expected = over_channels(lambda a, b: numpy_ssim_maps(a, b)[0].mean(), x, y)
    np.testing.assert_allclose(JITTED[ssim](np.float32(x), np.float32(y)), expected, atol=2e-6)
    with jax.enable_x64(True):
        np.testing.assert_allclose(JITTED[ssim](x, y), expected, atol=1e-12)


@pytest.mark.parametrize("level", [0.0, 0.02, 1.0])
def test_ssim_matches_scikit_image(level):
    reference = pytest.importorskip("skimage.metrics").structural_similarity
    noisy, clean = pair(90, 75) if level == 0.02 else pair(90, 75, noise=0.3)
    x, y = np.float32(noisy), np.float32(np.full_like(clean, level) if level != 0.02 else clean)  # flat ones too
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    maps = [reference(a, b, channel_axis=2, full=True, **options)[1] for a, b in zip(np.float64(x), np.float64(y))]
    np.testing.assert_allclose(JITTED[ssim](x, y), [m[5:-5, 5:-5].mean() for m in maps], atol=1e-5)
    default = [reference(a, b, channel_axis=2, data_range=1.0) for a, b in zip(np.float64(x), np.float64(y))]
    np.testing.assert_allclose(jax.jit(ssim_uniform)(x, y), default, atol=1e-5)


def test_ssim_is_precise_on_nearly_flat_bright_images():
    y = np.ones((1, 64, 64, 1))
    x = y - (np.indices((64, 64)).sum(0) % 2)[None, :, :, None] / 255
    expected = over_channels(lambda a, b: numpy_ssim_maps(a, b)[0].mean(), np.float64(np.float32(x)), y)
    np.testing.assert_allclose(JITTED[ssim](np.float32(x), np.float32(y)), expected, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(161, 161), (176, 205)])
def test_ms_ssim_matches_numpy(height, width):
    x, y = pair(height, width, channels=2)
    expected = over_channels(numpy_ms_ssim, x, y)
    np.testing.assert_allclose(JITTED[ms_ssim](np.float32(x), np.float32(y)), expected, atol=2e-6)


def test_ms_ssim_of_a_negative_is_almost_zero_with_a_finite_gradient():
    _, clean = pair_for(ms_ssim)
    np.testing.assert_allclose(JITTED[ms_ssim](1 - clean, clean), 0, atol=1e-3)
    assert np.all(np.isfinite(gradient_of(ms_ssim, 1 - clean, clean)))


@pytest.mark.parametrize("metric", METRICS)
def test_each_pair_stands_alone(metric):
    x, y = pair_for(metric)
    together = JITTED[metric](x, y)
    assert together.shape == (2,)
    assert together.dtype == jnp.float32
    for i in range(2):
        np.testing.assert_allclose(JITTED[metric](x[i : i + 1], y[i : i + 1])[0], together[i], rtol=1e-6)


@pytest.mark.parametrize("metric", [mse, psnr, ssim, l2, linf])
def test_vmap_agrees_with_the_batch(metric):
    x, y = pair_for(metric)
    nested = jax.jit(jax.vmap(metric))(x[:, None], y[:, None])
    np.testing.assert_allclose(nested[:, 0], JITTED[metric](x, y), rtol=1e-5)


@pytest.mark.parametrize("metric", [mse, psnr, ssim, l2, linf])
def test_eager_agrees_with_jit(metric):
    x, y = pair_for(metric)
    np.testing.assert_allclose(metric(x, y), JITTED[metric](x, y), rtol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_symmetry(metric):
    x, y = pair_for(metric)
    np.testing.assert_allclose(JITTED[metric](x, y), JITTED[metric](y, x), rtol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_identical_images_have_the_best_value_and_gradient_zero(metric):
    _, y = pair_for(metric)
    best = {psnr: np.inf, ssim: 1, ms_ssim: 1}.get(metric, 0)
    np.testing.assert_array_equal(JITTED[metric](y, y), best)
    np.testing.assert_array_equal(gradient_of(metric, y, y), 0)
    if metric is not ms_ssim:
        np.testing.assert_array_equal(gradient_of(metric, y, y, argument=1), 0)


@pytest.mark.parametrize("metric", METRICS)
def test_gradient_matches_finite_differences(metric):
    with jax.enable_x64(True):
        x, y = pair(*((161, 161) if metric is ms_ssim else (13, 15)), batch=1, channels=1)
        function = lambda x: JITTED[metric](x, y)  # noqa: E731
        modes = ("rev",) if metric is ms_ssim else ("fwd", "rev")  # compiling is slow
        check_grads(function, (x,), order=1, modes=modes, atol=1e-6, rtol=1e-6, eps=1e-6)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_gradient_is_finite_on_flat_images(level):
    for metric in (ssim, ms_ssim):
        _, y = pair_for(metric)
        assert np.all(np.isfinite(gradient_of(metric, jnp.full_like(y, level), y)))


@pytest.mark.parametrize("metric", [mse, psnr, ssim, l2, linf])
def test_half_precision_images_are_measured_in_float32(metric):
    x, y = pair_for(metric, jnp.bfloat16)
    value = JITTED[metric](x, y)
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, JITTED[metric](x.astype(jnp.float32), y.astype(jnp.float32)))


def test_more_noise_is_less_fidelity():
    pairs = [pair_for(ms_ssim, noise=noise) for noise in (0.02, 0.05, 0.2)]
    for metric in (psnr, ssim, ms_ssim):
        assert np.all(np.diff([JITTED[metric](*p) for p in pairs], axis=0) < 0)


@pytest.mark.parametrize(("metric", "shape"), [(ssim, (10, 40)), (ssim, (40, 10)), (ms_ssim, (160, 300))])
def test_small_images_are_refused_at_trace_time(metric, shape):
    x = jax.ShapeDtypeStruct((1, *shape, 3), jnp.float32)
    with pytest.raises(ValueError, match=f"at least {161 if metric is ms_ssim else 11} .*got {shape[0]}x{shape[1]}"):
        jax.eval_shape(metric, x, x)


@pytest.mark.parametrize("metric", METRICS)
def test_wrong_inputs_are_refused(metric):
    # A session that checks annotations refuses them one step earlier.
    refused = pytest.raises((ValueError, jaxtyping.TypeCheckError), match=r"\[B, H, W, C\]|floating|[Tt]ype")
    y = jnp.zeros((2, 200, 200, 3))
    for x in (y[:1], y[..., :1], y[0], y.astype(jnp.uint8)):
        with refused:
            metric(x, y)


@pytest.mark.parametrize("name", MATLAB_SSIM)
def test_published_ssim_of_tid2013(name):
    if not TID2013.exists():
        pytest.skip("images of TID2013 are not at hand")
    image = pytest.importorskip("PIL.Image")

    def luma(folder):
        rgb = np.asarray(image.open(TID2013 / folder / f"{name}.bmp").convert("RGB"), np.float64)
        return jnp.asarray(np.floor(rgb @ [0.2989, 0.5870, 0.1140] + 0.5)[None, :, :, None] / 255, jnp.float32)

    np.testing.assert_allclose(JITTED[ssim](luma("dist"), luma("ref")), MATLAB_SSIM[name], atol=1e-4)
