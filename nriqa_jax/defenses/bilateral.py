"""Bilateral filter."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nriqa_jax.defenses.neighbours import Planes, means_by_likeness, reach, window_half
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
      colour: scale of c, in units of the pixel range; 0 changes nothing.
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
        offsets = window_half(radius)
        squares = np.sum(offsets**2, axis=1)
        disc = squares <= radius**2

        active = jnp.asarray(self.colour) > 0
        colour = jnp.where(active, self.colour, 1.0)

        def weigh(own: Planes, other: Planes, square: Float[Array, ""]) -> Float[Array, "batch _ _"]:
            difference = jnp.sum(jnp.abs(own - other), axis=0)
            return jnp.where(active, jnp.exp(-0.5 * ((difference / colour) ** 2 + square / self.space**2)), 0.0)

        return means_by_likeness(images, offsets[disc], weigh, squares[disc].astype(np.float32))
