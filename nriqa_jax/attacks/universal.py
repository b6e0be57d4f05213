"""Universal perturbations: learnt once on many images, then added to any, at the cost of one forward pass.

These attacks have no steps and follow no gradient; ``universal_training`` learns their patterns and networks, which
are data here, as amplitudes are. The objective says what the change was learnt for; it does not change the result.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nriqa_jax.attacks.gradient import run
from nriqa_jax.attacks.perturbations import Radius, per_image
from nriqa_jax.types import AttackResult, Images, Keys, Losses, Objective, ScoreFn

Pattern = Float[Array, "rows columns 3"]
Changes = Float[Array, "#batch rows columns 3"]

_LARGEST_CHANGE = 100 / 255  # of a network's output 1, at amplitude 1


def universal(
    objective: Objective, *, amplitude: Radius = 0.4, pattern: Float[Array | np.ndarray, "rows columns 3"]
) -> "Universal":
    """One pattern for all images, learnt beforehand (Shumitskaya et al., BMVC 2022).

    Args:
      objective: what the pattern was trained to minimise.
      amplitude: factor of the pattern; published 0.2, 0.4 and 0.8, for patterns of at most 0.1.
      pattern: the change at amplitude 1; it is repeated from the top left.
    """
    return Universal(objective, jnp.asarray(pattern), amplitude)


def facpa(
    objective: Objective, *, amplitude: Radius = 0.04, network: Callable[[Images], Images], side: int = 256
) -> "PerImage":
    """A change of each image in one pass of a trained network (FACPA, Shumitskaya et al., ICLR 2023 Tiny Papers).

    Args:
      objective: what the network was trained to minimise.
      amplitude: the largest change is 100/255 times that; published 0.02 to 0.16.
      network: trained network as a pytree, ``Partial(apply, params)``, from images to values in [-1, 1].
      side: sides that it takes are multiples of this.
    """
    return PerImage(objective, network, amplitude, side)


class _NoSteps:
    """An attack that adds to each image what was learnt beforehand, and scores the sum."""

    objective: Objective
    amplitude: Radius

    @property
    def steps(self) -> int:
        """None."""
        return 0

    def __call__(self, score_fn: ScoreFn, images: Images, keys: Keys) -> AttackResult:
        """Attack a batch as one program."""
        return run(self, score_fn, images, keys)

    def init(self, score_fn: ScoreFn, images: Images, keys: Keys) -> tuple[()]:
        """There is nothing to remember."""
        del score_fn, images, keys
        return ()

    def step(self, score_fn: ScoreFn, images: Images, state: tuple[()]) -> tuple[tuple[()], Losses]:
        """Never called, since there are no steps; says what a step of this attack returns."""
        return state, self.objective(score_fn(images))

    def finish(self, score_fn: ScoreFn, images: Images, state: tuple[()], loss_trace: Array) -> AttackResult:
        """Add the change, and score the sum."""
        del state
        attacked = jnp.clip(images + per_image(self.amplitude) * self._changes(images), 0.0, 1.0)
        return AttackResult(attacked, score_fn(attacked), loss_trace, jnp.ones(len(images), jnp.int32))

    def _changes(self, images: Images) -> Changes:
        """What to add at amplitude 1, in the size of the images."""
        raise NotImplementedError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Universal(_NoSteps):
    """One pattern for all images.

    Attributes:
      objective: what it is there for.
      pattern: the change at amplitude 1; it is repeated from the top left.
      amplitude: factor of the pattern.
    """

    objective: Objective
    pattern: Pattern
    amplitude: Radius

    def _changes(self, images: Images) -> Changes:
        return tiled(self.pattern[None], *images.shape[1:3])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PerImage(_NoSteps):
    """A change of each image by a network.

    The network sees the image cut to multiples of ``side``, or mirrored up to it, and its output is repeated.

    Attributes:
      objective: what it is there for.
      network: from images to values in [-1, 1].
      amplitude: the largest change is 100/255 times that.
      side: sides that the network takes are multiples of this.
    """

    objective: Objective
    network: Callable[[Images], Images]
    amplitude: Radius
    side: int = dataclasses.field(default=256, metadata={"static": True})

    def _changes(self, images: Images) -> Changes:
        sides = images.shape[1:3]
        rows, columns = (max(side // self.side, 1) * self.side for side in sides)
        missing = [(0, max(self.side - side, 0)) for side in sides]
        seen = jnp.pad(images, ((0, 0), *missing, (0, 0)), "reflect")[:, :rows, :columns]
        return _LARGEST_CHANGE * tiled(self.network(seen), *sides)


def tiled(patterns: Float[Array, "n rows columns 3"], height: int, width: int) -> Float[Array, "n {height} {width} 3"]:
    """Patterns repeated from the top left over a height and a width."""
    rows, columns = patterns.shape[1:3]
    return jnp.tile(patterns, (1, -(-height // rows), -(-width // columns), 1))[:, :height, :width]
