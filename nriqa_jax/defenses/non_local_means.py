"""Non-local means."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from nriqa_jax.defenses.likeness import Likeness, Offset, Plane, Planes, Settings, means_by_likeness, window_half
from nriqa_jax.defenses.neighbours import at_once, reach, windowed_sum
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
      h: scale of d, in units of the pixel range.
      patch: side of a patch, an odd number.
      search: side of the search window, an odd number.
    """

    h: Number = 4 / 255
    patch: int = dataclasses.field(default=3, metadata={"static": True})
    search: int = dataclasses.field(default=11, metadata={"static": True})
    presets = (2 / 255, 4 / 255, 6 / 255, 10 / 255, 15 / 255)

    def purify(self, images: Images) -> Images:
        """Denoise each image."""
        offsets = window_half(reach(self.search))
        weigh = partial(_weigh, self.patch)
        likeness = Likeness(offsets, jnp.square, _square_slope, weigh, margin=reach(self.patch))
        return means_by_likeness(images, likeness, (jnp.asarray(self.h),))


def _square_slope(difference: Planes) -> Planes:
    return 2.0 * difference


def _weigh(patch: int, settings: Settings, squares: list[Plane], offsets: list[Offset]) -> list[Plane]:
    del offsets
    (h,), taps = settings, jnp.ones(patch)
    columns = at_once(h > 0, lambda: [windowed_sum(1, 1, square, taps) for square in squares])
    scale = 3 * patch**2 * h**2
    return at_once(h > 0, lambda: [jnp.exp(-windowed_sum(2, 1, column, taps) / scale) for column in columns])
