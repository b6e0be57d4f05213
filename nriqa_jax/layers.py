"""Layers of the quality models: functions on NHWC arrays, and the thin Linen modules that own their weights.

Model files use these and nothing else, so a faster formulation, per backend or not, is a change of this file alone.
Every formulation is plain JAX, differentiable in forward and reverse mode and twice. Padding is always explicit and
symmetric, as in PyTorch.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Features = Float[Array, "batch height width channels"]

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def conv2d(
    x: Features, kernel: Float[Array, "kh kw fan_in out"], *, stride: int = 1, padding: int = 0
) -> Float[Array, "batch h w out"]:
    """Cross-correlate, as PyTorch's ``conv2d`` does. A 1x1 kernel is a matrix product, which is faster."""
    if kernel.shape[:2] == (1, 1) and not padding:
        return jnp.einsum("bhwi,io->bhwo", x[:, ::stride, ::stride], kernel[0, 0])
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), ((padding, padding), (padding, padding)), dimension_numbers=_DIMENSIONS
    )


def max_pool(x: Features, window: int, *, stride: int, padding: int = 0) -> Float[Array, "batch h w channels"]:
    """Maximum over windows; ties share the gradient. Strided slices: their gradient is fast on every backend."""
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    x = jnp.pad(x, pads, constant_values=-jnp.inf) if padding else x
    height, width = (side - window + 1 for side in x.shape[1:3])
    slices = [x[:, i : i + height : stride, j : j + width : stride] for i in range(window) for j in range(window)]
    return jax.tree.reduce(jnp.maximum, slices)


def pooling_matrix(length: int, bins: int) -> Float[np.ndarray, "bins length"]:
    """Averages of PyTorch's adaptive pooling as a matrix; bin ``i`` is ``[floor(iN/o), ceil((i+1)N/o))``."""
    matrix = np.zeros((bins, length), np.float32)
    for i in range(bins):
        start, stop = i * length // bins, -(-(i + 1) * length // bins)
        matrix[i, start:stop] = 1.0 / (stop - start)
    return matrix


def adaptive_avg_pool(x: Features, bins: int) -> Float[Array, "batch bins bins channels"]:
    """Average over a grid of ``bins`` x ``bins`` regions of any input size."""
    rows, columns = (pooling_matrix(side, bins).astype(x.dtype) for side in x.shape[1:3])
    return jnp.einsum("oh,pw,bhwc->bopc", rows, columns, x)


def flatten_nchw(x: Features) -> Float[Array, "batch features"]:
    """Flatten in the channel-first order that linear layers trained in PyTorch expect."""
    return jnp.moveaxis(x, -1, 1).reshape(x.shape[0], -1)


class Conv(nn.Module):
    """Convolution; ``kernel`` is HWIO."""

    features: int
    window: int
    stride: int = 1
    padding: int = 0
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Features) -> Float[Array, "batch h w out"]:
        """Convolve."""
        kernel = self.param("kernel", he_normal, (self.window, self.window, x.shape[-1], self.features))
        y = conv2d(x, kernel, stride=self.stride, padding=self.padding)
        return y + self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else y


class BatchNorm(nn.Module):
    """Batch normalisation with the stored statistics, which no forward pass changes."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Features) -> Features:
        """Normalise each channel."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape).value
        var = self.variable("batch_stats", "var", jnp.ones, shape).value
        gain = scale * jax.lax.rsqrt(var + self.epsilon)
        return x * gain + (bias - mean * gain)


class Dense(nn.Module):
    """Linear layer; ``kernel`` is (in, out)."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch features"]) -> Float[Array, "batch out"]:
        """Multiply and add the bias."""
        kernel = self.param("kernel", he_normal, (x.shape[-1], self.features))
        return x @ kernel + self.param("bias", nn.initializers.zeros, (self.features,))
