"""The black-box loop. An attack that asks for the same number of scores at each step is a search, run here.

Nothing is differentiated: a search proposes candidates, the loop has those of all images scored as one batch, and the
search learns their losses. Searches whose images ask for different numbers of candidates are for
`nriqa_jax.attacks.pool`. The loop has the pieces of the white-box one, and is run by the same functions.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from nriqa_jax.attacks.gradient import run, select
from nriqa_jax.types import AttackResult, Images, Keys, Losses, Objective, ScoreFn, drawn

Candidates = Float[Array, "batch queries height width 3"]
CandidateLosses = Float[Array, "batch queries"]
Goal = Float[Array, ""] | Float[Array, " batch"] | float


class Search(NamedTuple):
    """How to look for a better image by asking for losses alone, as pure functions.

    A state is a tree whose leaves all start with the batch axis, counters included.

    Attributes:
      init: ``(keys, images) -> state``; asks for nothing.
      ask: ``(state, images, keys) -> candidates``, in [0, 1]; as many for every image and at every step.
      tell: ``(state, images, keys, candidates, losses) -> (state, losses)``: what is learned from the losses of the
        candidates, and the loss of the point where the search now stands. The keys are those of ``ask``, so that
        random draws can be made again instead of stored. A NaN score counts as an infinite loss.
      best: ``(state, images) -> images``, where the search stands.
      lags: whether the losses of ``tell`` are those of the points where the search stood when it asked, before it
        moved on; an image that has reached its goal then goes back.
    """

    init: Callable[[Keys, Images], PyTree]
    ask: Callable[[PyTree, Images, Keys], Candidates]
    tell: Callable[[PyTree, Images, Keys, Candidates, CandidateLosses], tuple[PyTree, Losses]]
    best: Callable[[PyTree, Images], Images]
    lags: Bool[Array, ""] | bool = False


class State(NamedTuple):
    """What a query attack carries from step to step; the last two where it keeps the best candidate."""

    search: PyTree
    keys: Keys
    loss: Losses
    queries: Int[Array, " batch"]
    done: Bool[Array, " batch"]
    best: Images | None
    best_loss: Losses | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class QueryAttack:
    """A black-box attack; also its own configuration.

    A batch of B images is scored as one of B times the candidates of a step; choose B accordingly. In the result, the
    trace has the losses where the search stands, as known from the queries of each step.

    Attributes:
      objective: what to minimise.
      search: how.
      steps: number of steps.
      keep_best: return, per image, the candidate of lowest loss, unless the search ends at a better point. Only for
        searches all of whose candidates are admissible results.
      stop_at: loss, one for all images or one per image, at which an image is done: it stays as it is, and what the
        batch still asks for it does not count.
    """

    objective: Objective
    search: Search
    steps: int = dataclasses.field(metadata={"static": True})
    keep_best: bool = dataclasses.field(default=False, metadata={"static": True})
    stop_at: Goal | None = None

    def __call__(self, score_fn: ScoreFn, images: Images, keys: Keys) -> AttackResult:
        """Attack a batch as one program."""
        return run(self, score_fn, images, keys)

    def init(self, score_fn: ScoreFn, images: Images, keys: Keys) -> State:
        """The start of the search, before any query."""
        del score_fn
        infinite, none = jnp.full(len(images), jnp.inf, jnp.float32), jnp.zeros(len(images), jnp.int32)
        best = (images, infinite) if self.keep_best else (None, None)
        return State(self.search.init(keys, images), _next_keys(keys), infinite, none, none.astype(bool), *best)

    def step(self, score_fn: ScoreFn, images: Images, state: State) -> tuple[State, Losses]:
        """One round of queries."""
        candidates = self.search.ask(state.search, images, state.keys)
        losses = self._losses(drawn(score_fn, state.keys), candidates)
        search, loss = self.search.tell(state.search, images, state.keys, candidates, losses)
        loss = jnp.where(state.done, state.loss, loss)
        stays = state.done | (self.search.lags & self._reached(loss))
        search = select(stays, state.search, search)
        best, best_loss = _better(state, candidates, losses)
        queries = state.queries + jnp.where(state.done, 0, candidates.shape[1])
        done = state.done | self._reached(loss if best_loss is None else jnp.minimum(loss, best_loss))
        return State(search, _next_keys(state.keys), loss, queries, done, best, best_loss), loss

    def finish(self, score_fn: ScoreFn, images: Images, state: State, loss_trace: Array) -> AttackResult:
        """Score the outcome."""
        attacked, queries = self.search.best(state.search, images), state.queries + 1
        score_fn = drawn(score_fn, state.keys)
        scores = score_fn(attacked)
        if state.best_loss is not None:
            attacked = select(self.objective(scores) <= state.best_loss, attacked, state.best)
            scores, queries = score_fn(attacked), queries + 1
        return AttackResult(attacked, scores, loss_trace, queries)

    def _losses(self, score_fn: ScoreFn, candidates: Candidates) -> CandidateLosses:
        scores = score_fn(candidates.reshape(-1, *candidates.shape[2:])).reshape(candidates.shape[:2])
        losses = jax.vmap(self.objective, 1, 1)(scores)
        return jnp.where(jnp.isnan(losses), jnp.inf, losses)

    def _reached(self, losses: Losses) -> Bool[Array, " batch"]:
        return jnp.zeros(len(losses), bool) if self.stop_at is None else losses <= self.stop_at


def _better(state: State, candidates: Candidates, losses: CandidateLosses) -> tuple[Images | None, Losses | None]:
    """The best candidates so far, where they are kept."""
    if state.best_loss is None:
        return None, None
    lowest = jnp.min(losses, axis=1)
    found = jax.vmap(lambda own, index: own[index])(candidates, jnp.argmin(losses, axis=1))
    better = ~state.done & (lowest < state.best_loss)
    return select(better, (found, lowest), (state.best, state.best_loss))


def _next_keys(keys: Keys) -> Keys:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, 0)
