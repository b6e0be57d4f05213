"""Purifiers that move pixels: flips, rotations, crops and resizing."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nriqa_jax.defenses.purifier import Deterministic, Number, Random
from nriqa_jax.resize import resize_torch
from nriqa_jax.types import Images, Purified

Image = Float[Array, "height width 3"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Flip(Deterministic):
    """Both axes reversed: a turn by 180 degrees, not a mirror."""

    def purify(self, images: Images) -> Images:
        """Turn each image."""
        return images[:, ::-1, ::-1]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RandomRotate(Random):
    """A turn about the centre; nearest pixels, black where there are none.

    Attributes:
      limit: the angle is uniform within plus and minus this, in degrees.
    """

    limit: Number = 15.0
    presets = (10.0, 15.0, 20.0, 30.0, 50.0)
    limits = (0.0, 180.0)

    def purify_one(self, image: Image, key: Array) -> Image:
        """Turn one image."""
        return rotate(image, jax.random.uniform(key, (), image.dtype, -self.limit, self.limit))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RandomCrop(Random):
    """A square window at a uniformly drawn place.

    Attributes:
      size: its side in pixels.
    """

    size: int = dataclasses.field(default=128, metadata={"static": True})
    presets = (32, 64, 128, 256, 288)
    limits = (1, math.inf)

    def purify_one(self, image: Image, key: Array) -> Float[Array, "{self.size} {self.size} 3"]:
        """Cut one image.

        Raises:
          ValueError: when it is smaller than the window.
        """
        height, width, _ = image.shape
        if min(height, width) < self.size:
            raise ValueError(f"crops of {self.size}x{self.size} pixels need larger images than {width}x{height}")
        room = jnp.array([height - self.size, width - self.size])
        row, column = jax.random.randint(key, (2,), 0, room + 1)
        return jax.lax.dynamic_slice(image, (row, column, 0), (self.size, self.size, 3))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Resize(Deterministic):
    """Smaller by bilinear interpolation, and left so.

    Attributes:
      scale: of height and width, which are rounded down.
      antialias: average over the pixels that vanish; the published benchmark does not.
    """

    scale: float = dataclasses.field(default=0.5, metadata={"static": True})
    antialias: bool = dataclasses.field(default=False, metadata={"static": True})
    presets = (0.1, 0.25, 0.5, 0.75, 0.9)
    limits = (0.0, 1.0)

    def purify(self, images: Images) -> Purified:
        """Resize each image.

        Raises:
          ValueError: when nothing would be left.
        """
        height, width = (int(side * self.scale) for side in images.shape[1:3])
        if min(height, width) < 1:
            raise ValueError(f"images of {images.shape[2]}x{images.shape[1]} pixels vanish at a scale of {self.scale}")
        return resize_torch(images, height, width, antialias=self.antialias)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Upscale(Deterministic):
    """Smaller and larger again by bilinear interpolation, which blurs.

    Attributes:
      scale: of height and width in between, as in `Resize`.
      target: height and width of the result, (384, 512) in the published benchmark; by default those of the image.
      antialias: as in `Resize`.
    """

    scale: float = dataclasses.field(default=0.5, metadata={"static": True})
    target: tuple[int, int] | None = dataclasses.field(default=None, metadata={"static": True})
    antialias: bool = dataclasses.field(default=False, metadata={"static": True})
    presets = Resize.presets
    limits = Resize.limits

    def purify(self, images: Images) -> Purified:
        """Resize each image twice."""
        height, width = self.target or images.shape[1:3]
        small = Resize(self.scale, self.antialias).purify(images)
        return resize_torch(small, height, width, antialias=self.antialias)


def rotate(image: Image, degrees: Number) -> Image:
    """An image turned about its centre; nearest pixels, black where there are none.

    As ``torchvision.transforms.functional.rotate`` by nearest neighbours.
    """
    height, width, _ = image.shape
    angle = jnp.deg2rad(degrees)
    x = jnp.arange(width) - (width - 1) / 2
    y = (jnp.arange(height) - (height - 1) / 2)[:, None]
    columns = jnp.round(jnp.cos(angle) * x - jnp.sin(angle) * y + (width - 1) / 2).astype(jnp.int32)
    rows = jnp.round(jnp.sin(angle) * x + jnp.cos(angle) * y + (height - 1) / 2).astype(jnp.int32)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    pixels = image[jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1)]
    return jnp.where(inside[..., None], pixels, 0.0)
