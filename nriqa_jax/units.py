"""Which images are computed together.

A `Unit` of images is what one device computes at a time; its composition depends on the data set and the batch size
alone.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple


class Unit(NamedTuple):
    """Items that one device computes together.

    Attributes:
      items: positions in the data set.
      size: number of rows after padding; equal for all units of one shape, so each shape compiles once.
    """

    items: tuple[int, ...]
    size: int

    def halves(self) -> list["Unit"]:
        """Two units of half the size; one, where the second would be empty."""
        size = -(-self.size // 2)
        return [Unit(items, size) for items in (self.items[:size], self.items[size:]) if items]


def plan_units(shapes: Sequence[Hashable], batch_size: Callable[[Any], int]) -> list[Unit]:
    """Group items of equal shape into units of equal size.

    The plan depends on the shapes and their order alone, so an interrupted run that plans again finds the same
    units. Units of one shape are as even as possible, to keep padding small.

    Args:
      shapes: shape of each item.
      batch_size: largest number of items in a unit of a shape.
    """
    buckets: dict[Hashable, list[int]] = {}
    for item, shape in enumerate(shapes):
        buckets.setdefault(shape, []).append(item)
    units = []
    for shape, items in buckets.items():
        count = -(-len(items) // batch_size(shape))
        size = -(-len(items) // count)
        units += [Unit(tuple(items[start : start + size]), size) for start in range(0, len(items), size)]
    return units


def group_units(units: Sequence[Unit], same: Callable[[Unit], Hashable], devices: int) -> list[tuple[Unit, ...]]:
    """Put units of one kind together, one for each device, on no more devices than keep the number of rounds.

    Args:
      units: units to compute.
      same: units that agree in this may be computed together.
      devices: number of devices.
    """
    kinds: dict[Hashable, list[Unit]] = {}
    for unit in units:
        kinds.setdefault((same(unit), unit.size), []).append(unit)
    groups = []
    for members in kinds.values():
        rounds = -(-len(members) // devices)
        width = -(-len(members) // rounds)
        groups += [tuple(members[start : start + width]) for start in range(0, len(members), width)]
    return groups
