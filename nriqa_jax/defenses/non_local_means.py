"""Non-local means."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nriqa_jax.defenses.neighbours import Planes, means_by_likeness, reach, window_half
from nriqa_jax.defenses.purifier import Deterministic, Number
from nriqa_jax.types import Images


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NonLocalMeans(Deterministic):
    """Means of pixels whose surroundings look alike (Buades, Coll & Morel, CVPR 2005).

    A pixel in the search window has the weight ``exp(-d^2 / h^2)``, where d^2 is the mean of the squared differences of
    the two patches over their pixels and channels, as in OpenCV's ``fastNlMeansDenoising`` on colour images. The
    default is that of feature squeezing (Xu et al., NDSS 2018: windows of 11, patches of 3, h of 4/255).

    Attributes:
      h: scale of d, in units of the pixel range; 0 changes nothing.
      patch: side of a patch, an odd number.
      search: side of the search window, an odd number.
    """

    h: Number = 4 / 255
    patch: int = dataclasses.field(default=3, metadata={"static": True})
    search: int = dataclasses.field(default=11, metadata={"static": True})
    presets = (2 / 255, 4 / 255, 6 / 255, 10 / 255, 15 / 255)

    def purify(self, images: Images) -> Images:
        """Denoise each image."""
        values, active = 3 * self.patch**2, jnp.asarray(self.h) > 0
        h = jnp.where(active, self.h, 1.0)

        def weigh(own: Planes, other: Planes, _: None) -> Float[Array, "batch _ _"]:
            distance = box_sums(jnp.sum((own - other) ** 2, axis=0), self.patch)
            return jnp.where(active, jnp.exp(-distance / (values * h**2)), 0.0)

        return means_by_likeness(images, window_half(reach(self.search)), weigh, None, margin=reach(self.patch))


def box_sums(plane: Float[Array, "batch _ _"], size: int) -> Float[Array, "batch _ _"]:
    """Sums over all whole square windows."""
    for axis in (1, 2):
        length = plane.shape[axis] - size + 1
        first, *others = (jax.lax.slice_in_dim(plane, i, i + length, axis=axis) for i in range(size))
        plane = sum(others, first)
    return plane
