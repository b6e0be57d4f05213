"""Differentiable ranks (Blondel et al., Fast Differentiable Sorting and Ranking, ICML 2020).

Soft ranks are the projection of the scaled values onto the permutahedron, the convex hull of all orders of 1..n. It is
an isotonic regression of the sorted values: ranks of values that lie far apart, in units of ``strength``, are exact;
closer ones form blocks, inside which a rank is the value plus a constant.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression

Regularization = Literal["l2", "log_kl"]

_LARGEST_SQUARE = 640  # up to here all pairs of ends of blocks are tried at once; beyond, the host is faster


def soft_rank(
    values: Float[Array, "*batch n"],
    strength: float | Float[Array, ""] = 1.0,
    *,
    regularization: Regularization = "l2",
    descending: bool = False,
) -> Float[Array, "*batch n"]:
    """Ranks from 1 (smallest) to n (largest) along the last axis, differentiable everywhere, ties included.

    Args:
      values: what to rank.
      strength: values that differ by less than about this are ranked softly; the limits are hard ranks (0) and, for
        "l2", values minus a constant.
      regularization: "l2" for Euclidean projection, "log_kl" for that of Kullback-Leibler.
      descending: give rank 1 to the largest value.

    Vectors of more than 640 values are pooled on the host.
    """
    scaled = (-values if descending else values) / strength
    order = jnp.argsort(-scaled, axis=-1)
    ranks = _project(jnp.take_along_axis(scaled, order, axis=-1), regularization)
    return jnp.put_along_axis(jnp.zeros_like(ranks), order, ranks, axis=-1, inplace=False)


def soft_srocc(
    first: Float[Array, "*batch n"],
    second: Float[Array, "*batch n"],
    strength: float | Float[Array, ""] = 1.0,
    *,
    regularization: Regularization = "l2",
) -> Float[Array, "*batch"]:
    """Pearson correlation of soft ranks; SROCC in the limit of small ``strength``, Pearson in that of a large one."""
    ranks = (soft_rank(values, strength, regularization=regularization) for values in (first, second))
    return soft_plcc(*ranks)


def soft_plcc(first: Float[Array, "*batch n"], second: Float[Array, "*batch n"]) -> Float[Array, "*batch"]:
    """Pearson correlation as a differentiable function; 0 where a vector is constant."""
    x, y = (values - jnp.mean(values, axis=-1, keepdims=True) for values in (first, second))
    squares = jnp.sum(x * x, axis=-1) * jnp.sum(y * y, axis=-1)
    varies = squares > 0  # the square root has no gradient at zero
    scale = jnp.sqrt(jnp.where(varies, squares, 1.0))
    return jnp.where(varies, jnp.sum(x * y, axis=-1) / scale, 0.0)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _project(s: Float[Array, "*batch n"], regularization: Regularization) -> Float[Array, "*batch n"]:
    """Projection of descending values; on the permutahedron, or for "log_kl" out of its logarithmic domain."""
    return _project_forward(s, regularization)[0]


def _project_forward(
    s: Float[Array, "*batch n"], regularization: Regularization
) -> tuple[Float[Array, "*batch n"], tuple[Float[Array, "*batch n"], Float[Array, "*batch n"]]]:
    v = _isotonic(s, regularization)
    ranks = jnp.exp(s - v) if regularization == "log_kl" else s - v
    return ranks, (ranks, v)


def _project_backward(
    regularization: Regularization, saved: tuple[Array, Array], g: Float[Array, "*batch n"]
) -> tuple[Float[Array, "*batch n"]]:
    ranks, v = saved
    weight = ranks if regularization == "log_kl" else jnp.ones_like(g)
    return (weight * (g - _block_sums(weight * g, v) / _block_sums(weight, v)),)


_project.defvjp(_project_forward, _project_backward)


def _block_sums(x: Float[Array, "*batch n"], v: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """Sum over the block of each entry; blocks are runs of equal ``v``."""
    n = x.shape[-1]

    def sums(x: Float[Array, " n"], v: Float[Array, " n"]) -> Float[Array, " n"]:
        blocks = jnp.cumsum(jnp.diff(v, prepend=v[:1]) != 0)
        return jax.ops.segment_sum(x, blocks, num_segments=n, indices_are_sorted=True)[blocks]

    return jax.vmap(sums)(x.reshape(-1, n), v.reshape(-1, n)).reshape(x.shape)


def _isotonic(s: Float[Array, "*batch n"], regularization: Regularization) -> Float[Array, "*batch n"]:
    """Descending dual variables: one value for each block of pooled entries."""
    pool = _pool_all_at_once if s.shape[-1] <= _LARGEST_SQUARE else _pool_on_host
    return pool(s, regularization)


def _pool_all_at_once(s: Float[Array, "*batch n"], regularization: Regularization) -> Float[Array, "*batch n"]:
    """The largest value of all blocks from each start on; its running minimum is what pooling blocks comes to."""
    n = s.shape[-1]
    start, end = jnp.arange(n)[:, None], jnp.arange(n)
    inside, rho = start <= end, jnp.arange(n, 0, -1, dtype=s.dtype)
    if regularization == "log_kl":
        logs = (jnp.where(inside, x[..., None, :], -jnp.inf) for x in (s, jnp.log(rho)))
        above, below = (jax.lax.cumlogsumexp(x, axis=x.ndim - 1) for x in logs)
        values = jnp.where(inside, above, 0.0) - jnp.where(inside, below, 0.0)
    else:
        coarse, rest = map(_block_sums_by_ends, _split(s - rho))
        values = (coarse + rest) / (end - start + 1).astype(s.dtype)
    largest = jnp.max(jnp.where(inside, values, -jnp.inf), axis=-1)
    return jax.lax.cummin(largest, axis=largest.ndim - 1)


def _split(x: Float[Array, "*batch n"]) -> tuple[Float[Array, "*batch n"], Float[Array, "*batch n"]]:
    """Two addends: one of few digits, whose sums are exact, so that their differences are, and the small rest."""
    largest = x.shape[-1] * jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    unit = jnp.ldexp(jnp.ones_like(largest), jnp.frexp(largest)[1] - jnp.finfo(x.dtype).nmant)
    coarse = jnp.round(x / unit) * unit
    return coarse, x - coarse


def _block_sums_by_ends(x: Float[Array, "*batch n"]) -> Float[Array, "*batch n n"]:
    """Sum of the entries from each start (row) to each end (column)."""
    through = jnp.cumsum(x, axis=-1)
    return through[..., None, :] - (through - x)[..., :, None]


def _pool_on_host(s: Float[Array, "*batch n"], regularization: Regularization) -> Float[Array, "*batch n"]:
    """Pool adjacent violators in NumPy."""
    # As bits: the context jax.enable_x64 does not reach callbacks, which would take float64 for float32.
    bits = jax.lax.bitcast_convert_type(s, jnp.uint32).reshape(*s.shape, -1)
    pool = partial(_pool_bits, dtype=s.dtype, regularization=regularization)
    shape = jax.ShapeDtypeStruct(bits.shape, bits.dtype)
    pooled = jax.pure_callback(pool, shape, bits, vmap_method="broadcast_all")
    return jax.lax.bitcast_convert_type(pooled, s.dtype).reshape(s.shape)


def _pool_bits(bits: ArrayLike, dtype: np.dtype, regularization: Regularization) -> np.ndarray:
    """Pool vectors that come as 32-bit words, one after the other, in float64."""
    words = np.asarray(bits)
    s = words.view(dtype)[..., 0]
    rho = np.arange(s.shape[-1], 0, -1, dtype=np.float64)
    pool = _pool_log_kl if regularization == "log_kl" else _pool_l2
    rows = [pool(row, rho) for row in s.reshape(-1, s.shape[-1]).astype(np.float64)]
    return np.stack(rows).astype(dtype).reshape(s.shape)[..., None].view(np.uint32)


def _pool_l2(s: np.ndarray, rho: np.ndarray) -> np.ndarray:
    return isotonic_regression(s - rho, increasing=False).x


def _pool_log_kl(s: np.ndarray, rho: np.ndarray) -> np.ndarray:
    blocks: list[tuple[float, float, int]] = []  # logarithms of both sums, and the length
    for above, below in zip(s, np.log(rho)):
        length = 1
        while blocks and blocks[-1][0] - blocks[-1][1] <= above - below:
            previous = blocks.pop()
            above, below = np.logaddexp(previous[0], above), np.logaddexp(previous[1], below)
            length += previous[2]
        blocks.append((above, below, length))
    return np.concatenate([np.full(length, above - below) for above, below, length in blocks])
