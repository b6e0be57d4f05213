"""Named black-box attacks: they see scores, never gradients, and ask for as many at every step.

Radii are in units of the pixel range [0, 1]. One query is one image scored once; `AttackResult.queries` also counts
the one that scores the result. ``stop_at`` is a loss, in the unit of the objective: ``-60.0`` under ``raise_score()``
ends the attack of an image whose score has reached 60.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from nriqa_jax.attacks.gradient import select
from nriqa_jax.attacks.perturbations import Radius, image_norm, per_image
from nriqa_jax.attacks.query import CandidateLosses, Candidates, Goal, QueryAttack, Search
from nriqa_jax.types import Images, Keys, Losses, Objective

EPSILON = 0.1
_PUBLISHED_REGION = 256
_SHARE = 0.05  # of the area, covered by the first squares
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # last iterations of equal area, of 10,000
_DRAWS = 8  # of signs; all of them change nothing with a chance of 8 ** -8 at most
_UNCHANGED = 1e-7


def nes(
    objective: Objective,
    *,
    epsilon: Radius = EPSILON,
    samples: int = 20,
    sigma: float = 0.001,
    steps: int = 250,
    tile: int = 32,
    step_size: Radius = 0.1,
    stop_at: Goal | None = None,
) -> QueryAttack:
    """Gradients estimated from pairs of noisy images (NES: Ilyas et al., ICML 2018), the noise tiled over the image.

    The settings are those of the MSU benchmark of defences. Estimates have unit Euclidean norm over a tile, so the
    range of scores is of no matter. The trace and ``stop_at`` go by the mean loss of the noisy images around a point.

    Args:
      objective: what to minimise.
      epsilon: L-infinity radius.
      samples: pairs of noisy images at each step.
      sigma: standard deviation of the noise, in units of the pixel range.
      steps: number of steps.
      tile: side of the noise in pixels; what overlaps the image on the right and at the bottom is cut.
      step_size: length of a step in one tile, as a Euclidean norm.
      stop_at: loss at which an image is done.
    """
    probes = Probes(sigma, samples, tile)
    search = Search(
        init=Partial(_clean_start),
        ask=Partial(_ask_probes, probes),
        tell=Partial(_follow_probes, probes, epsilon, step_size),
        best=Partial(_where_it_stands),
        lags=True,
    )
    return QueryAttack(objective, search, steps, stop_at=stop_at)


def square(
    objective: Objective, *, epsilon: Radius = EPSILON, queries: int = 10_000, stop_at: Goal | None = None
) -> QueryAttack:
    """Square Attack in the L-infinity ball: random squares, kept if they help (Andriushchenko et al., ECCV 2020).

    Starts from vertical stripes; squares cover 5 % of the image at first, and are halved in area nine times at the
    published shares of the queries.

    Args:
      objective: what to minimise.
      epsilon: L-infinity radius.
      queries: number of queries, that of the start included.
      stop_at: loss at which an image is done.
    """
    start = Partial(_striped_start, epsilon)
    return QueryAttack(objective, _square_search(Squares(queries), epsilon, start), queries, stop_at=stop_at)


def square_msu(
    objective: Objective, *, epsilon: Radius = EPSILON, queries: int = 10_000, stop_at: Goal | None = None
) -> QueryAttack:
    """Square Attack (ECCV 2020) as in the MSU benchmark: only the top left 256x256 pixels, from the clean image."""
    squares = Squares(queries, region=_PUBLISHED_REGION)
    search = _square_search(squares, epsilon, Partial(_untouched_start))
    return QueryAttack(objective, search, queries, stop_at=stop_at)


def square_sides(queries: int, area: int) -> Int[np.ndarray, " queries"]:
    """Side of the random square in pixels, for each query; the first query is spent on the start.

    Args:
      queries: number of queries, to which the schedule for 10,000 is stretched.
      area: in pixels, of which the squares cover 5 % at first.
    """
    iterations = np.maximum(np.arange(queries) - 1, 0) * 10_000 // queries
    halvings = np.searchsorted(_HALVINGS, iterations)
    return np.maximum(np.round(np.sqrt(_SHARE * area / 2**halvings)), 1).astype(np.int32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Probes:
    """Noise around a point, as in `nes`."""

    sigma: Float[Array, ""] | float
    samples: int = dataclasses.field(metadata={"static": True})
    tile: int = dataclasses.field(metadata={"static": True})

    def draw(self, keys: Keys) -> Float[Array, "batch samples tile tile 3"]:
        """Standard normal noise, by the key of each image."""
        shape = (self.samples, self.tile, self.tile, 3)
        return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Squares:
    """Where random squares go, as in `square`: anywhere, or in the top left square of side ``region``."""

    queries: int = dataclasses.field(metadata={"static": True})
    region: int | None = dataclasses.field(default=None, metadata={"static": True})

    def sides(self, height: int, width: int) -> Int[Array, " queries"]:
        """Side of the square for each query, for images of a size."""
        area, longest = (height * width, min(height, width)) if self.region is None else (self.region**2, self.region)
        return jnp.asarray(np.minimum(square_sides(self.queries, area), longest))

    def draw(self, key: Array, side: Array, height: int, width: int) -> tuple[Int[Array, "2"], Float[Array, "draws 3"]]:
        """Top left corner of a square, and some vectors of signs of the channels."""
        place, colour = jax.random.split(key)
        # The published code, which the region follows, leaves out the last possible row and column.
        beyond = jnp.array([height + 1, width + 1] if self.region is None else [self.region] * 2)
        corner = jax.random.randint(place, (2,), 0, beyond - side)
        return corner, jax.random.rademacher(colour, (_DRAWS, 3), jnp.float32)


class SquareState(NamedTuple):
    """The best image so far, its loss, and the number of queries spent."""

    attacked: Images
    loss: Losses
    queries: Int[Array, " batch"]


def _clean_start(keys: Keys, images: Images) -> Images:
    del keys
    return images


def _where_it_stands(point: Images, images: Images) -> Images:
    del images
    return point


def _ask_probes(probes: Probes, point: Images, images: Images, keys: Keys) -> Candidates:
    shift = probes.sigma * _tiled(probes.draw(keys), *images.shape[1:3])
    return jnp.clip(point[:, None] + jnp.concatenate([shift, -shift], axis=1), 0.0, 1.0)


def _follow_probes(
    probes: Probes,
    epsilon: Radius,
    step_size: Radius,
    point: Images,
    images: Images,
    keys: Keys,
    candidates: Candidates,
    losses: CandidateLosses,
) -> tuple[Images, Losses]:
    """Go against the mean of the probes, each weighed by its difference of losses."""
    del candidates
    ahead, behind = jnp.split(losses, 2, axis=1)
    difference = jnp.where(jnp.isfinite(ahead - behind), ahead - behind, 0.0) / (2 * probes.samples * probes.sigma)
    slope = jnp.einsum("bn,bnhwc->bhwc", difference, probes.draw(keys), precision="highest")
    step = per_image(step_size) * slope / jnp.maximum(image_norm(slope), 1e-12)
    radius = per_image(epsilon)
    low, high = jnp.maximum(images - radius, 0.0), jnp.minimum(images + radius, 1.0)
    return jnp.clip(point - _tiled(step, *images.shape[1:3]), low, high), jnp.mean(losses, axis=1)


def _tiled(noise: Float[Array, "*n tile tile 3"], height: int, width: int) -> Float[Array, "*n height width 3"]:
    rows, columns = (np.arange(length) % noise.shape[-2] for length in (height, width))
    return noise[..., rows[:, None], columns, :]


def _square_search(squares: Squares, epsilon: Radius, start: Partial) -> Search:
    return Search(start, Partial(_ask_square, squares, epsilon), Partial(_keep_if_better), Partial(_best_square))


def _untouched_start(keys: Keys, images: Images) -> SquareState:
    del keys
    return SquareState(images, jnp.full(len(images), jnp.inf, jnp.float32), jnp.zeros(len(images), jnp.int32))


def _striped_start(epsilon: Radius, keys: Keys, images: Images) -> SquareState:
    stripes = jax.vmap(lambda key: jax.random.rademacher(key, (1, *images.shape[2:]), images.dtype))(keys)
    return _untouched_start(keys, jnp.clip(images + per_image(epsilon) * stripes, 0.0, 1.0))


def _ask_square(squares: Squares, epsilon: Radius, state: SquareState, images: Images, keys: Keys) -> Candidates:
    """The start itself as the first query, then the best image with one more square."""
    height, width = images.shape[1:3]
    sides = squares.sides(height, width)[state.queries]
    corners, signs = jax.vmap(lambda key, side: squares.draw(key, side, height, width))(keys, sides)
    window = _window(corners, sides, height, width) & (state.queries > 0)[:, None, None, None]
    colour = _first_change(epsilon, signs, window, state.attacked, images)[:, None, None, :]
    filled = jnp.clip(images + per_image(epsilon) * colour, 0.0, 1.0)
    return jnp.where(window, filled, state.attacked)[:, None]


def _window(
    corners: Int[Array, "batch 2"], sides: Int[Array, " batch"], height: int, width: int
) -> Bool[Array, "batch height width 1"]:
    """Masks of squares: sides may differ between images and steps, while shapes stay."""
    rows, columns = jnp.arange(height) - corners[:, :1], jnp.arange(width) - corners[:, 1:]
    inside = [(offsets >= 0) & (offsets < sides[:, None]) for offsets in (rows, columns)]
    return (inside[0][:, :, None] & inside[1][:, None, :])[..., None]


def _first_change(
    epsilon: Radius, signs: Float[Array, "batch draws 3"], window: Array, attacked: Images, images: Images
) -> Float[Array, "batch 3"]:
    """The first vector of signs that changes anything in the window; the first of all if none does."""

    def changes(sign: float) -> Bool[Array, "batch 1 3"]:
        filled = jnp.clip(images + sign * per_image(epsilon), 0.0, 1.0)
        return jnp.any(window & (jnp.abs(filled - attacked) > _UNCHANGED), axis=(1, 2))[:, None]

    changing = jnp.any(jnp.where(signs > 0, changes(1.0), changes(-1.0)), axis=2)
    return jax.vmap(lambda own, index: own[index])(signs, jnp.argmax(changing, axis=1))


def _keep_if_better(
    state: SquareState, images: Images, keys: Keys, candidates: Candidates, losses: CandidateLosses
) -> tuple[SquareState, Losses]:
    del images, keys
    attacked, loss = select(losses[:, 0] < state.loss, (candidates[:, 0], losses[:, 0]), (state.attacked, state.loss))
    return SquareState(attacked, loss, state.queries + 1), loss


def _best_square(state: SquareState, images: Images) -> Images:
    del images
    return state.attacked
