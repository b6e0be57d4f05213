"""Meet a score that lies between those of an image and of an attacked version of it, without gradients.

An image that takes a share of its pixel values from the attacked version and the others from the clean one stays in
every L-infinity or L2 ball around the image that holds the version, and on the 8-bit grid if both are on it. Growing
the share moves the score from one to the other in tiny steps, so that any score between them is met by a search over
the share: on the very pixels that are saved, where scaling a change of one level down would round it away.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nriqa_jax.attacks.bracket import Bracket, narrowed, secant
from nriqa_jax.attacks.gradient import run
from nriqa_jax.attacks.objectives import reach_target
from nriqa_jax.types import AttackResult, Images, Keys, Losses, Objective, ScoreFn, Scores


class BetweenState(NamedTuple):
    """A bracket of shares with the differences of their scores from the target, and the best share so far."""

    thresholds: Float[Array, "batch height width 3"]
    shares: Bracket
    best: Scores
    best_error: Scores


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Between:
    """The search for the share of each image; a stepwise attack whose steps are forward passes.

    Targets beyond both scores give the version whose score is closer.

    Attributes:
      targets: score to meet, per image.
      versions: attacked versions of the images, on the side of the target.
      clean_scores: scores of the images.
      version_scores: scores of the versions.
      steps: number of forward passes; each cuts the interval of shares at the secant or in the middle.
    """

    targets: Scores
    versions: Images
    clean_scores: Scores
    version_scores: Scores
    steps: int = dataclasses.field(default=12, metadata={"static": True})

    @property
    def objective(self) -> Objective:
        """Squared distance from the target."""
        return reach_target(self.targets)

    def __call__(self, score_fn: ScoreFn, images: Images, keys: Keys) -> AttackResult:
        """Search for a batch as one program."""
        return run(self, score_fn, images, keys)

    def init(self, score_fn: ScoreFn, images: Images, keys: Keys) -> BetweenState:
        """Both ends; the order in which pixel values change is random."""
        del score_fn
        thresholds = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:], images.dtype))(keys)
        near_error, far_error = self.clean_scores - self.targets, self.version_scores - self.targets
        nothing, everything = jnp.zeros_like(near_error), jnp.ones_like(far_error)
        closer = jnp.abs(near_error) <= jnp.abs(far_error)
        best, best_error = jnp.where(closer, nothing, everything), jnp.where(closer, near_error, far_error)
        return BetweenState(thresholds, Bracket(nothing, near_error, everything, far_error), best, best_error)

    def step(self, score_fn: ScoreFn, images: Images, state: BetweenState) -> tuple[BetweenState, Losses]:
        """Try one share."""
        share = secant(state.shares)
        error = score_fn(self._render(images, state.thresholds, share)) - self.targets
        better = jnp.abs(error) < jnp.abs(state.best_error)
        losses = state.best_error**2
        state = state._replace(
            shares=narrowed(state.shares, share, error),
            best=jnp.where(better, share, state.best),
            best_error=jnp.where(better, error, state.best_error),
        )
        return state, losses

    def finish(self, score_fn: ScoreFn, images: Images, state: BetweenState, loss_trace: Array) -> AttackResult:
        """The best share of each image."""
        found = self._render(images, state.thresholds, state.best)
        queries = jnp.full(len(images), self.steps + 1)
        return AttackResult(found, score_fn(found), loss_trace, queries)

    def _render(self, images: Images, thresholds: Array, share: Scores) -> Images:
        return jnp.where(thresholds < share[:, None, None, None], self.versions, images)
