"""Bilateral filter."""

import dataclasses

import jax
import jax.numpy as jnp

from nriqa_jax.defenses.likeness import Likeness, Offset, Plane, Settings, means_by_likeness, window_half
from nriqa_jax.defenses.neighbours import at_once, reach
from nriqa_jax.defenses.purifier import Deterministic, Number
from nriqa_jax.types import Images


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bilateral(Deterministic):
    """Means of near neighbours of similar colour (Tomasi & Manduchi, ICCV 1998), weighed as in OpenCV.

    A neighbour in the disc has the weight ``exp(-c^2 / (2 colour^2) - d^2 / (2 space^2))``, where c is the sum over
    channels of the absolute differences and d the distance in pixels. The border is mirrored, its own pixel not
    repeated.

    Attributes:
      colour: scale of c, in units of the pixel range.
      space: scale of d, in pixels.
      size: diameter of the disc in pixels, an odd number.
    """

    colour: Number = 0.1
    space: Number = 2.0
    size: int = dataclasses.field(default=5, metadata={"static": True})
    presets = (0.05, 0.1, 0.2, 0.3, 0.5)

    def purify(self, images: Images) -> Images:
        """Filter each image."""
        radius = reach(self.size)
        disc = tuple((y, x) for y, x in window_half(radius) if y**2 + x**2 <= radius**2)
        likeness = Likeness(disc, jnp.abs, jnp.sign, _weigh, margin=0)
        return means_by_likeness(images, likeness, (jnp.asarray(self.colour), jnp.asarray(self.space)))


def _weigh(settings: Settings, differences: list[Plane], offsets: list[Offset]) -> list[Plane]:
    colour, space = settings

    def weight(difference: Plane, square: int) -> Plane:
        return jnp.exp(-0.5 * ((difference / colour) ** 2 + square / space**2))

    squares = [y**2 + x**2 for y, x in offsets]
    return at_once(colour > 0, lambda: [weight(*pair) for pair in zip(differences, squares)])
