"""Differentiable ranks (Blondel et al., Fast Differentiable Sorting and Ranking, ICML 2020).

Soft ranks are the projection of the scaled values onto the permutahedron, the convex hull of all orders of 1..n. It is
an isotonic regression of the sorted values: ranks of values that lie far apart, in units of ``strength``, are exact;
closer ones form blocks, inside which a rank is the value plus a constant.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Regularization = Literal["l2", "log_kl"]


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
) -> tuple[Float[Array, "*batch n"], tuple[Float[Array, "*batch n"], Int[Array, "*batch n"]]]:
    n = s.shape[-1]
    pool = jax.vmap(partial(_pool_log_kl if regularization == "log_kl" else _pool_l2, jnp.arange(n, 0, -1, s.dtype)))
    v, blocks = (found.reshape(s.shape) for found in pool(s.reshape(-1, n)))
    ranks = jnp.exp(s - v) if regularization == "log_kl" else s - v
    return ranks, (ranks, blocks)


def _project_backward(
    regularization: Regularization, saved: tuple[Array, Array], g: Float[Array, "*batch n"]
) -> tuple[Float[Array, "*batch n"]]:
    ranks, blocks = saved
    weight = ranks if regularization == "log_kl" else jnp.ones_like(g)
    rows = (x.reshape(-1, g.shape[-1]) for x in (weight * g, weight, blocks))
    means = jax.vmap(lambda wg, w, blocks: _block_sums(wg, blocks) / _block_sums(w, blocks))(*rows)
    return (weight * (g - means.reshape(g.shape)),)


_project.defvjp(_project_forward, _project_backward)


def _pool_l2(rho: Float[Array, " n"], s: Float[Array, " n"]) -> tuple[Float[Array, " n"], Int[Array, " n"]]:
    y = s - rho

    def means(blocks: Int[Array, " n"]) -> Float[Array, " n"]:
        # Differences inside a block are small where the values are not, so that their sums keep their digits.
        return y[blocks] + _block_sums(y - y[blocks], blocks) / _block_sums(jnp.ones_like(y), blocks)

    return _pool(means, len(s))


def _pool_log_kl(rho: Float[Array, " n"], s: Float[Array, " n"]) -> tuple[Float[Array, " n"], Int[Array, " n"]]:
    def log_ratios(blocks: Int[Array, " n"]) -> Float[Array, " n"]:
        return s[blocks] + jnp.log(_block_sums(jnp.exp(s - s[blocks]), blocks) / _block_sums(rho, blocks))

    return _pool(log_ratios, len(s))


def _pool(
    values: Callable[[Int[Array, " n"]], Float[Array, " n"]], n: int
) -> tuple[Float[Array, " n"], Int[Array, " n"]]:
    """Isotonic regression to a descending order: the value of each entry's block, and the first entry of the block.

    All neighbouring blocks that violate the order are pooled at once, until none are left: after a few rounds for most
    values, and n - 1 at most.
    """
    entries = jnp.arange(n)

    def pool(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        blocks, _, rises = state
        blocks = jax.lax.cummax(jnp.where((blocks == entries) & ~rises, entries, 0))
        return with_rises(blocks, values(blocks))

    def with_rises(blocks: Array, found: Array) -> tuple[Array, Array, Array]:
        return blocks, found, jnp.append(False, found[1:] > found[:-1])

    start = with_rises(entries, values(entries))
    blocks, found, _ = jax.lax.while_loop(lambda state: jnp.any(state[2]), pool, start)
    return found, blocks


def _block_sums(x: Float[Array, " n"], blocks: Int[Array, " n"]) -> Float[Array, " n"]:
    """Sum over the block of each entry; blocks are known by their first entries."""
    return jax.ops.segment_sum(x, blocks, num_segments=len(x), indices_are_sorted=True)[blocks]
