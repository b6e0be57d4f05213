"""Real codecs as purifiers: what attacks that know nothing of the defense, and BPDA, are measured against."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from experiments import distortions
from nriqa_jax.defenses.jpeg import DiffJpeg, ExactJpeg, Quality
from nriqa_jax.defenses.purifier import Deterministic, Gradient
from nriqa_jax.image import from_uint8, to_uint8
from nriqa_jax.types import Images


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class JpegCodec(Deterministic):
    """JPEG files of Pillow, at 4:2:0, on the host; its derivative is zero.

    Attributes:
      quality: 1 to 100, as of libjpeg.
      truncate: cut pixel values down to 8 bits instead of rounding them, as the published benchmark does; values of
        8-bit images may fall by a level.
    """

    quality: Quality = 50
    truncate: bool = dataclasses.field(default=False, metadata={"static": True})
    presets = DiffJpeg.presets
    limits = ExactJpeg.limits
    gradient = Gradient.NONE

    def purify(self, images: Images) -> Images:
        """Encode and decode each image."""
        images = jax.lax.stop_gradient(images)
        levels = jnp.clip(images * 255.0, 0.0, 255.0).astype(jnp.uint8) if self.truncate else to_uint8(images)
        shape = jax.ShapeDtypeStruct(levels.shape, levels.dtype)
        return from_uint8(jax.pure_callback(_recompress, shape, levels, self.quality, vmap_method="sequential"))


def _recompress(levels: Any, quality: Any) -> UInt8[np.ndarray, "n h w 3"]:
    """Arrays come as JAX or as NumPy has them, by version."""
    return np.stack([distortions.jpeg(np.asarray(image), float(quality)) for image in np.asarray(levels)])
