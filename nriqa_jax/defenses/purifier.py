"""What a purifier of this library is beyond a function: its traits, its published settings, and chains of several."""

import dataclasses
import enum
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nriqa_jax.types import Images, Keys, Purified

Number = float | Float[Array, ""]


class Gradient(enum.Enum):
    """What the derivative of a purifier is worth to an attack; the best first."""

    EXACT = "exact"  # that of what is computed
    SURROGATE = "surrogate"  # rounding counts as something smooth
    NONE = "none"  # zero almost everywhere: an attack has to bring a backward pass of its own


class Purification:
    """Base of the purifiers: frozen dataclasses that are pytrees, ``(images, keys) -> images``.

    Real-valued settings are leaves, so that a sweep over them compiles once; settings that decide shapes or loop
    lengths are static. The first setting is the purifier's strength, whatever its name.

    Attributes:
      random: whether it draws by the keys; else it ignores them.
      gradient: what its derivative is worth.
      presets: five values of the strength, those of the published benchmark where it has the purifier. The default is a
        setting of its own.
      limits: smallest and largest strength that makes sense.
    """

    random: bool = False
    gradient: Gradient = Gradient.EXACT
    presets: tuple[Any, ...] = ()
    limits: tuple[float, float] = (0.0, math.inf)

    @classmethod
    def preset(cls, number: int) -> "Purification":
        """The purifier at one of its presets.

        Args:
          number: 0 to 4.

        Raises:
          ValueError: when there is no such preset.
        """
        if not 0 <= number < len(cls.presets):
            raise ValueError(f"{cls.__name__} has {len(cls.presets)} presets, counted from 0; there is no {number}")
        make: Any = cls  # its first setting is the strength
        return make(cls.presets[number])

    def __call__(self, images: Images, keys: Keys) -> Purified:
        """Purify each image."""
        raise NotImplementedError


class Deterministic(Purification):
    """A purifier that is a function of the images alone."""

    def __call__(self, images: Images, keys: Keys) -> Purified:
        """Purify each image."""
        del keys
        return self.purify(images)

    def purify(self, images: Images) -> Purified:
        """Purify each image."""
        raise NotImplementedError


class Random(Purification):
    """A purifier that draws, for each image by its own key."""

    random = True

    def __call__(self, images: Images, keys: Keys) -> Purified:
        """Purify each image."""
        return jax.vmap(self.purify_one)(images, keys)

    def purify_one(self, image: Float[Array, "height width 3"], key: Array) -> Float[Array, "new_height new_width 3"]:
        """Purify one image."""
        raise NotImplementedError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Composition(Purification):
    """Purifiers one after the other; make it by `compose`."""

    stages: tuple[Purification, ...]
    random: bool = dataclasses.field(default=False, metadata={"static": True})
    gradient: Gradient = dataclasses.field(default=Gradient.EXACT, metadata={"static": True})

    def __call__(self, images: Images, keys: Keys) -> Purified:
        """Purify each image; every stage draws by keys of its own."""
        for number, stage in enumerate(self.stages):
            images = stage(images, jax.vmap(jax.random.fold_in, (0, None))(keys, number))
        return images


def compose(*stages: Purification) -> Composition:
    """Purifiers one after the other, such as ``compose(MedianBlur(), Unsharp())``."""
    weakest = max((stage.gradient for stage in stages), key=list(Gradient).index, default=Gradient.EXACT)
    return Composition(stages, any(stage.random for stage in stages), weakest)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BatchShared(Purification):
    """One draw for all images of a batch, that of the first; make it by `batch_shared`."""

    purifier: Purification
    random: bool = dataclasses.field(default=True, metadata={"static": True})
    gradient: Gradient = dataclasses.field(default=Gradient.EXACT, metadata={"static": True})

    def __call__(self, images: Images, keys: Keys) -> Purified:
        """Purify each image."""
        return self.purifier(images, jnp.broadcast_to(keys[:1], keys.shape))


def batch_shared(purifier: Purification) -> BatchShared:
    """The same purifier with one draw for a whole batch, as the published benchmark has one angle or one corner.

    Only to repeat its numbers: results then depend on how images are put together.
    """
    return BatchShared(purifier, purifier.random, purifier.gradient)
