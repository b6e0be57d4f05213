"""The pool, for black-box attacks whose images ask for different numbers of scores at different times; on the host.

Each image is a session: a generator that yields candidates, is sent their losses, and returns the final image. The
pool mixes the candidates of all sessions in batches of one size, so that a device is full whatever each of them asks
for. A session sees its own losses alone, so its result does not depend on the others or on the size of the batches.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Float32, Int

from nriqa_jax.types import Images, Losses, Objective, ScoreFn

Image = Float32[np.ndarray, "height width 3"]
_IN_FLIGHT = 2  # batches that the device may have, so that it computes while the host prepares the next


@runtime_checkable
class Candidates(Protocol):
    """An array of shape [k, height, width, 3], or what looks like one and makes its rows only when they are read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number and size of the candidates."""
        ...

    def __getitem__(self, rows: slice, /) -> Float[np.ndarray, "rows height width 3"]:
        """Some consecutive candidates."""
        ...


Session = Generator[Candidates, np.ndarray, Image]
LossFn = Callable[[Float32[np.ndarray, "rows height width 3"], Int[np.ndarray, " rows"]], Array | np.ndarray]


class Pooled(NamedTuple):
    """What a pool returns.

    Attributes:
      images: the final image of each session, in the order of the sessions.
      queries: candidates scored for each session.
      fill: share of the rows of all batches that were candidates and not padding.
    """

    images: list[Image]
    queries: Int[np.ndarray, " sessions"]
    fill: float


def run_pool(sessions: Sequence[Session], loss_fn: LossFn, batch_size: int) -> Pooled:
    """Run sessions to their ends.

    Args:
      sessions: one for each image; all are begun at once. Images of several sizes never share a batch.
      loss_fn: ``(candidates, owners) -> losses``, row by row; owners are positions in ``sessions``. It always gets
        ``batch_size`` rows, so it compiles once for each size of images; see `losses_of`. Losses of NaN reach a
        session as infinite ones.
      batch_size: rows of a batch.

    Raises:
      ValueError: the batch size is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"expected a batch size of at least 1, got {batch_size}")
    desk = _Desk(sessions)
    in_flight: deque[tuple[Array | np.ndarray, list[_Part]]] = deque()
    batches = 0
    while desk.waiting() or in_flight:
        # A batch that is not full waits until there is no other way to go on.
        if not in_flight or (len(in_flight) < _IN_FLIGHT and desk.waiting() >= batch_size):
            parts = desk.take(batch_size)
            in_flight.append((loss_fn(*_padded(parts, batch_size)), parts))
            batches += 1
        else:
            losses, parts = in_flight.popleft()
            desk.answer(parts, np.asarray(losses))
    fill = desk.queries.sum() / (batches * batch_size) if batches else 1.0
    return Pooled([desk.results[owner] for owner in range(len(sessions))], desk.queries, float(fill))


def losses_of(objective: Objective, score_fn: ScoreFn, images: int) -> Partial:
    """The losses that a pool asks for, as a function of arrays; ``functools.partial(parallel.call, it)`` compiles it.

    Args:
      objective: of all images, with data per image or without.
      score_fn: model under attack.
      images: number of sessions.
    """
    return Partial(_losses_of, objective, score_fn, jnp.zeros(images))


def _losses_of(
    objective: Objective,
    score_fn: ScoreFn,
    zeros: Float[Array, " sessions"],
    candidates: Images,
    owners: Int[Array, " batch"],
) -> Losses:
    # An objective takes one score of every image: each candidate stands for all, and the loss of its owner is read.
    return jax.vmap(lambda score, owner: objective(zeros + score)[owner])(score_fn(candidates), owners)


@dataclasses.dataclass
class _Request:
    """What a session waits for: how many of its candidates have been sent to a batch, and how many answered."""

    owner: int
    candidates: Candidates
    losses: np.ndarray
    sent: int = 0
    answered: int = 0

    @property
    def unsent(self) -> int:
        return len(self.losses) - self.sent


class _Part(NamedTuple):
    """Consecutive candidates of a request, in one batch."""

    request: _Request
    rows: slice

    @property
    def size(self) -> int:
        return self.rows.stop - self.rows.start


class _Desk:
    """Requests with candidates to be sent, by image size, in the order in which they came."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self.results: dict[int, Image] = {}
        self.queries = np.zeros(len(sessions), np.int64)
        self._sessions = sessions
        self._queues: dict[tuple[int, ...], deque[_Request]] = {}
        for owner in range(len(sessions)):
            self._resume(owner, None)

    def waiting(self) -> int:
        """Most candidates that could go into one batch."""
        return max((sum(request.unsent for request in queue) for queue in self._queues.values()), default=0)

    def take(self, size: int) -> list[_Part]:
        """Candidates for a batch of the image size that has most."""
        queue = max(self._queues.values(), key=lambda queue: sum(request.unsent for request in queue))
        parts: list[_Part] = []
        while queue and size:
            request = queue[0]
            parts.append(_Part(request, slice(request.sent, request.sent + min(size, request.unsent))))
            request.sent, size = parts[-1].rows.stop, size - parts[-1].size
            if not request.unsent:
                queue.popleft()
        return parts

    def answer(self, parts: list[_Part], losses: np.ndarray) -> None:
        """Hand losses out, and let sessions go on that have got all of theirs."""
        start = 0
        for request, rows in parts:
            own = losses[start : start + rows.stop - rows.start]
            request.losses[rows] = np.where(np.isnan(own), np.inf, own)
            start, request.answered = start + len(own), request.answered + len(own)
            self.queries[request.owner] += len(own)
            if request.answered == len(request.losses):
                self._resume(request.owner, request.losses)

    def _resume(self, owner: int, losses: np.ndarray | None) -> None:
        try:
            candidates = self._sessions[owner].send(losses)  # type: ignore[arg-type]  # None begins a generator
            while not candidates.shape[0]:
                candidates = self._sessions[owner].send(np.zeros(0, np.float32))
        except StopIteration as end:
            self.results[owner] = end.value
            return
        request = _Request(owner, candidates, np.empty(candidates.shape[0], np.float32))
        self._queues.setdefault(candidates.shape[1:], deque()).append(request)


def _padded(parts: list[_Part], size: int) -> tuple[np.ndarray, np.ndarray]:
    """A batch of candidates and their owners; what is missing repeats the first row."""
    rows = np.concatenate([np.asarray(part.request.candidates[part.rows], np.float32) for part in parts])
    owners = np.repeat([part.request.owner for part in parts], [part.size for part in parts])
    missing = size - len(rows)
    return np.concatenate([rows, rows[:1].repeat(missing, 0)]), np.concatenate([owners, owners[:1].repeat(missing)])
