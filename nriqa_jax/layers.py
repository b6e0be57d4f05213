"""Layers of the quality models: functions on NHWC arrays, and the thin Linen modules that own their weights.

Model files use these and nothing else, so a faster formulation is a change of this file alone. Every formulation is
plain JAX, differentiable in forward and reverse mode and twice. Padding is always explicit and symmetric, as in
PyTorch. Modules take variables as initialised, or as laid out by ``nriqa_jax.prepare``.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nriqa_jax import patches, winograd
from nriqa_jax.batch_norm import BatchNorm as BatchNorm
from nriqa_jax.grouped import BundledKernel
from nriqa_jax.rectifiers import relu as relu
from nriqa_jax.windows import taps

Features = Float[Array, "batch height width channels"]
Maps = Float[Array, "batch h w out"]
LaidOut = winograd.WinogradKernel | BundledKernel | patches.PatchKernel
Kernel = Float[Array, "kh kw fan_in out"] | LaidOut

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
gelu = partial(jax.nn.gelu, approximate=False)


def conv2d(
    x: Features, kernel: Kernel, *, stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1
) -> Maps:
    """Cross-correlate, as PyTorch's ``conv2d`` does.

    Args:
      x: input; its channels are divided into ``groups`` of ``fan_in``.
      kernel: HWIO, or a `WinogradKernel` (then stride 1, padding 1, one group), or a `BundledKernel` (its groups), or a
        `PatchKernel` (one group, no dilation).
      stride: step of the window, in both directions.
      padding: zeros on every side.
      dilation: distance of the kernel's taps.
      groups: number of groups of channels that are convolved apart.
    """
    if isinstance(kernel, winograd.WinogradKernel):
        if winograd.pays(x, kernel):
            return winograd.convolve(x, kernel)
        kernel = winograd.restore_kernel(kernel)
    if isinstance(kernel, patches.PatchKernel):
        return patches.convolve(x, kernel, stride=stride, padding=padding)
    if isinstance(kernel, BundledKernel):
        dense = partial(conv2d, stride=stride, padding=padding, dilation=dilation)
        parts = jnp.split(x, len(kernel.bundles), axis=-1)
        return jnp.concatenate([dense(*pair) for pair in zip(parts, kernel.bundles)], axis=-1)
    if kernel.shape[:2] == (1, 1) and groups == 1:
        x = (jnp.pad(x, _sides(padding)) if padding else x)[:, ::stride, ::stride]
        flat = x.reshape(-1, x.shape[-1]) @ kernel[0, 0]  # of two axes: the kernel's gradient is up to twice as fast
        return flat.reshape(*x.shape[:-1], -1)
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((padding, padding), (padding, padding)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=_DIMENSIONS,
        feature_group_count=groups,
    )


def max_pool(x: Features, window: int, *, stride: int, padding: int = 0) -> Maps:
    """Maximum over square windows; ties share the gradient. One axis after the other: few and cheap passes."""
    x = jnp.pad(x, _sides(padding), constant_values=-jnp.inf) if padding else x
    for axis in (2, 1):
        x = jax.tree.reduce(jnp.maximum, taps(x, axis, window, stride))
    return x


def avg_pool(
    x: Features, window: int, *, stride: int, padding: int = 0, count_include_pad: bool = True
) -> Float[Array, "batch h w channels"]:
    """Mean over square windows, as PyTorch's ``avg_pool2d``; ``count_include_pad`` counts padded zeros as values."""
    for axis in (1, 2):
        matrix = _window_matrix(x.shape[axis], window, stride, padding, count_include_pad).astype(x.dtype)
        x = jnp.moveaxis(jnp.tensordot(x, matrix, (axis, 1)), -1, axis)
    return x


def adaptive_avg_pool(x: Features, bins: int) -> Float[Array, "batch bins bins channels"]:
    """Average over a grid of ``bins`` x ``bins`` regions of any input size."""
    rows, columns = (pooling_matrix(side, bins).astype(x.dtype) for side in x.shape[1:3])
    return jnp.einsum("oh,pw,bhwc->bopc", rows, columns, x)


def pooling_matrix(length: int, bins: int) -> Float[np.ndarray, "bins length"]:
    """Averages of PyTorch's adaptive pooling as a matrix; bin ``i`` is ``[floor(iN/o), ceil((i+1)N/o))``."""
    matrix = np.zeros((bins, length), np.float64)
    for i in range(bins):
        start, stop = i * length // bins, -(-(i + 1) * length // bins)
        matrix[i, start:stop] = 1.0 / (stop - start)
    return matrix


def _window_matrix(
    length: int, window: int, stride: int, padding: int, count_include_pad: bool
) -> Float[np.ndarray, "windows {length}"]:
    """Averages of sliding windows along one axis as a matrix."""
    starts = np.arange((length + 2 * padding - window) // stride + 1) * stride - padding
    inside = np.arange(length) - starts[:, None]
    matrix = ((inside >= 0) & (inside < window)).astype(np.float64)
    return matrix / (window if count_include_pad else matrix.sum(axis=1, keepdims=True))


def _sides(padding: int) -> tuple[tuple[int, int], ...]:
    return ((0, 0), (padding, padding), (padding, padding), (0, 0))


def instance_norm(x: Features) -> Maps:
    """Each map of each image with mean 0 and variance 1, as PyTorch's ``InstanceNorm2d`` without weights."""
    centred = x - jnp.mean(x, axis=(1, 2), keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=(1, 2), keepdims=True) + 1e-5)


def flatten_nchw(x: Features) -> Float[Array, "batch features"]:
    """Flatten in the channel-first order that linear layers trained in PyTorch expect."""
    return jnp.moveaxis(x, -1, 1).reshape(x.shape[0], -1)


def attention(
    query: Float[Array, "batch q heads depth"],
    key: Float[Array, "batch k heads depth"],
    value: Float[Array, "batch k heads depth"],
    *,
    mask: Float[Array, "..."] | None = None,
) -> Float[Array, "batch q heads depth"]:
    """Softmax attention with the scale ``depth ** -0.5``; ``mask`` is added to the logits ``[batch, heads, q, k]``."""
    return jax.nn.dot_product_attention(query, key, value, bias=mask)


class Conv(nn.Module):
    """Convolution; ``kernel`` is HWIO."""

    features: int
    window: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Features) -> Maps:
        """Convolve."""
        shape = (self.window, self.window, x.shape[-1] // self.groups, self.features)
        kernel: Any = self.get_variable("params", "kernel")
        if not isinstance(kernel, LaidOut):  # which have other shapes
            kernel = self.param("kernel", he_normal, shape)
        y = conv2d(x, kernel, stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups)
        if self.use_bias or self.has_variable("params", "bias"):
            y = y + self.param("bias", nn.initializers.zeros, (self.features,))
        return y


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, computed in float32 or better."""

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "*n features"]) -> Float[Array, "*n features"]:
        """Normalise each vector."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(centred**2, axis=-1, keepdims=True)
        return (centred * jax.lax.rsqrt(variance + self.epsilon)).astype(x.dtype) * scale + bias


class Dense(nn.Module):
    """Linear layer; ``kernel`` is (in, out)."""

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*n features"]) -> Float[Array, "*n out"]:
        """Multiply and add the bias."""
        y = x @ self.param("kernel", he_normal, (x.shape[-1], self.features))
        return y + self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else y
