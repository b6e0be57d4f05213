"""Means of pixels that look alike: what bilateral filters and non-local means share.

A weight serves both pixels of a pair, and all that is computed of pairs is a shifted view of something. The rule for
reverse mode follows the same pattern; the one that JAX would find takes ten times as long on CPUs.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nriqa_jax.defenses.neighbours import at_once, bordered, mirrored
from nriqa_jax.types import Images

Plane = Float[Array, "batch _ _"]
Planes = Float[Array, "_ batch _ _"]
Offset = tuple[int, int]
Settings = tuple[Float[Array, ""], ...]


class Likeness(NamedTuple):
    """Which neighbours count, and how much. All of it is static: functions must be those of a module.

    Attributes:
      offsets: rows and columns to one neighbour of each pair of opposite ones.
      penalty: of the difference in a channel.
      slope: derivative of the penalty.
      weigh: from settings, the penalties of pairs, summed over channels, and the offsets between them to the weights of
        these pairs, of all but the outermost ``margin`` pixels. No neighbour has a weight where the first setting is 0.
      margin: pixels around a pair that its weight depends on.
    """

    offsets: tuple[Offset, ...]
    penalty: Callable[[Planes], Planes]
    slope: Callable[[Planes], Planes]
    weigh: Callable[[Settings, list[Plane], list[Offset]], list[Plane]]
    margin: int

    @property
    def radius(self) -> int:
        """Largest row or column of an offset."""
        return max((max(map(abs, offset)) for offset in self.offsets), default=0)

    @property
    def border(self) -> int:
        """Pixels around an image that its means depend on through pairs of which one lies outside."""
        return 2 * self.radius + self.margin

    def groups(self) -> list[list[Offset]]:
        """The offsets, row by row: what is computed together."""
        rows = sorted({row for row, _ in self.offsets})
        return [[offset for offset in self.offsets if offset[0] == row] for row in rows]


def window_half(radius: int) -> tuple[Offset, ...]:
    """Rows and columns to those neighbours in a square window that come after its middle; the others are opposite."""
    side = range(-radius, radius + 1)
    return tuple((row, column) for row in side for column in side if (row, column) > (0, 0))


def means_by_likeness(images: Images, likeness: Likeness, settings: Settings) -> Images:
    """Means of each pixel, of weight 1, and its neighbours; the border is mirrored, its own pixel not repeated."""
    planes = jnp.moveaxis(mirrored(images, likeness.border), 3, 0)
    return jnp.moveaxis(_means(likeness, planes, settings), 0, 3)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _means(likeness: Likeness, planes: Planes, settings: Settings) -> Planes:
    sums = _sums(likeness, planes, settings)
    return sums[:-1] / sums[-1]


def _means_fwd(
    likeness: Likeness, planes: Planes, settings: Settings
) -> tuple[Planes, tuple[Planes, Settings, Planes]]:
    sums = _sums(likeness, planes, settings)
    return sums[:-1] / sums[-1], (planes, settings, sums)


def _means_bwd(likeness: Likeness, kept: tuple[Planes, Settings, Planes], g: Planes) -> tuple[Planes, Settings]:
    """A pixel changes the sums of its pairs by its value, and by the weights of these pairs."""
    planes, settings, sums = kept
    wide = likeness.border + likeness.radius
    scaled = g / sums[-1]
    pulls = _widened(jnp.concatenate([scaled, -_total(scaled * sums[:-1])[None] / sums[-1]]), wide)
    around = _widened(planes, likeness.radius)
    slope, changes = _part(pulls[:-1], wide, likeness.border), jax.tree.map(jnp.zeros_like, settings)
    for group in likeness.groups():
        penalties = _penalties(likeness, planes, settings, group)
        weights, pull = jax.vjp(partial(_weights, likeness, group), settings, penalties)
        change, on_penalties = pull(_on_weights(likeness, planes, settings, pulls, group))
        changes = jax.tree.map(jnp.add, changes, change)
        on_penalties = [_widened(penalty, 2 * likeness.radius) for penalty in on_penalties]
        parts = zip(group, [_widened(weight, likeness.border) for weight in weights], on_penalties)
        add = partial(_add_slopes, likeness, pulls[:-1], around, list(parts))
        slope = jax.lax.cond(settings[0] > 0, add, lambda slope: slope, slope)
    return slope, changes


_means.defvjp(_means_fwd, _means_bwd)


def _sums(likeness: Likeness, planes: Planes, settings: Settings) -> Planes:
    """Sums of each channel over pixel and neighbours, and in a last plane those of the weights."""
    summands = _with_ones(planes)
    sums = _part(summands, likeness.border, 0)
    for group in likeness.groups():
        weights = likeness.weigh(settings, _penalties(likeness, planes, settings, group), group)
        add = partial(_add_pairs, likeness, summands, list(zip(group, weights)))
        sums = jax.lax.cond(settings[0] > 0, add, lambda sums: sums, sums)
    return sums


def _add_pairs(likeness: Likeness, summands: Planes, pairs: list[tuple[Offset, Plane]], sums: Planes) -> Planes:
    for (y, x), weight in pairs:
        for at, shift in (((0, 0), (y, x)), ((-y, -x), (-y, -x))):
            neighbour = _part(summands, likeness.border, 0, shift)
            sums = sums + _part(weight, likeness.radius, 0, at) * neighbour
    return sums


def _penalties(likeness: Likeness, planes: Planes, settings: Settings, group: list[Offset]) -> list[Plane]:
    """Penalties of pairs, summed over channels."""
    view = partial(_part, planes, likeness.border, likeness.radius + likeness.margin)
    return at_once(settings[0] > 0, lambda: [_total(likeness.penalty(view() - view(offset))) for offset in group])


def _weights(likeness: Likeness, group: list[Offset], settings: Settings, penalties: list[Plane]) -> list[Plane]:
    return likeness.weigh(settings, penalties, group)


def _on_weights(
    likeness: Likeness, planes: Planes, settings: Settings, pulls: Planes, group: list[Offset]
) -> list[Plane]:
    """What the weights of pairs do to a loss, given what sums do."""
    pull = partial(_part, pulls, likeness.border + likeness.radius, likeness.radius)
    summand = partial(_part, _with_ones(planes), likeness.border, likeness.radius)

    def both(offset: Offset) -> Plane:
        return _total(pull() * summand(offset) + pull(offset) * summand())

    return at_once(settings[0] > 0, lambda: [both(offset) for offset in group])


def _add_slopes(
    likeness: Likeness, pulls: Planes, around: Planes, pairs: list[tuple[Offset, Plane, Plane]], slope: Planes
) -> Planes:
    """What pixels do to a loss through pairs, by their values and by the weights."""
    extent, wide = likeness.border, likeness.border + likeness.radius
    for (y, x), weight, on_penalty in pairs:
        for at, shift in (((0, 0), (y, x)), ((-y, -x), (-y, -x))):
            difference = _part(around, wide, extent) - _part(around, wide, extent, shift)
            slope = slope + _part(weight, wide, extent, at) * _part(pulls, wide, extent, shift)
            slope = slope + _part(on_penalty, wide, extent, at) * likeness.slope(difference)
    return slope


def _total(planes: Planes) -> Plane:
    """The sum over channels; written out it is a loop over pixels, which vectorises."""
    first, *others = planes
    return sum(others, first)


def _with_ones(planes: Planes) -> Planes:
    return jnp.concatenate([planes, jnp.ones_like(planes[:1])])


def _widened(planes: Float[Array, "*_ height width"], border: int) -> Float[Array, "*_ _ _"]:
    """With a border of zeros."""
    return bordered(bordered(planes, border, planes.ndim - 2), border, planes.ndim - 1)


def _part(
    planes: Float[Array, "*_ rows columns"], have: int, want: int, offset: Offset = (0, 0)
) -> Float[Array, "*_ _ _"]:
    """Of an image with ``have`` pixels around it, the image with ``want`` pixels around it, at an offset."""
    rows, columns = (side - 2 * (have - want) for side in planes.shape[-2:])
    top, left = (have - want + shift for shift in offset)
    return planes[..., top : top + rows, left : left + columns]
