"""Slots, for black-box attacks whose images are done at different times; a driver on the host.

A plain batch goes on until its last image is done, and scores the others in vain. Here a batch has slots instead: when
an image is done, another one of the set takes its place, so that batches are full until no image waits. Then batches
are halved as often as half of their images are done. No image depends on its neighbours, so results are those of plain
batches.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32, Int

from nriqa_jax import parallel
from nriqa_jax.attacks.gradient import select
from nriqa_jax.attacks.query import QueryAttack, State
from nriqa_jax.types import AttackResult, Keys

Owners = Int[np.ndarray, " slots"]

_FREE_SHARE = 1 / 16  # of the slots; fewer are not worth the time that filling them takes


class Filled(NamedTuple):
    """What `run_in_slots` returns.

    Attributes:
      result: a row for each image, on the host.
      steps: number of steps of each image until it was done.
      fill: share of the scored candidates that were those of images that were not done.
    """

    result: AttackResult
    steps: Int[np.ndarray, " images"]
    fill: float


def run_in_slots(
    make_attack: Callable[[Owners], QueryAttack],
    replicas: parallel.Replicas,
    images: Float32[np.ndarray, "images height width 3"],
    keys: Keys,
    slots: int,
) -> Filled:
    """Attack a set of images of one size, a number of them at a time.

    Args:
      make_attack: the attack on some images, given by their positions; its settings may differ between images, and so
        may its objective and ``stop_at``, but not the number of steps.
      replicas: the score function on all devices; as many of them are used as divide the slots evenly.
      images: clean images, on the host.
      keys: one key per image.
      slots: images in a batch.

    Raises:
      ValueError: there are no images, or no slots.
    """
    slots = min(slots, len(images))
    if slots < 1:
        raise ValueError(f"expected images and slots, got {len(images)} images and {slots} slots")
    board = _Board(make_attack, replicas, images, keys, slots)
    while board.busy.any():
        board.advance()
    return Filled(board.finish(), board.steps, board.steps.sum() / board.scored)


class _Board:
    """Which image is in which slot, and what is known of those that are done."""

    def __init__(
        self,
        make_attack: Callable[[Owners], QueryAttack],
        replicas: parallel.Replicas,
        images: Float32[np.ndarray, "images height width 3"],
        keys: Keys,
        slots: int,
    ) -> None:
        self._make, self._replicas, self._images, self._keys = make_attack, replicas, images, keys
        self._slots, self._next = slots, slots
        self.busy, self.steps, self.scored = np.ones(slots, bool), np.zeros(len(images), int), 0
        self._ends: dict[int, State] = {}
        self._seat(np.arange(slots))
        self._state = self._start()
        self._trace = np.zeros((self._attack.steps, len(images)), np.float32)

    def advance(self) -> None:
        """A step of all slots; then new images for the free ones or, if none waits, half as many slots."""
        self._state, losses = parallel.step(self._attack, self._score_fn, self._batch, self._state)
        owners = self._owners[self.busy]
        self._trace[self.steps[owners], owners] = np.asarray(losses)[self.busy]
        self.steps[owners] += 1
        self.scored += len(self.busy)
        done = self.busy & (np.asarray(self._state.done) | (self.steps[self._owners] == self._attack.steps))
        if done.any():
            self._keep(done)
        if self._next < len(self._images) and np.mean(self.busy) <= 1 - _FREE_SHARE:
            self._fill()
        if self._next == len(self._images) and 0 < np.mean(self.busy) <= 0.5:
            self._halve()

    def finish(self) -> AttackResult:
        """Score the images as they ended, in batches of as many as there were slots."""
        count, found = len(self._images), []
        for start in range(0, count, self._slots):
            self._seat(np.minimum(np.arange(start, start + self._slots), count - 1))
            ends = [self._ends[int(owner)] for owner in self._owners]
            state = self._replicas.rows(self._devices, jax.tree.map(lambda *rows: np.stack(rows), *ends))
            state = state._replace(keys=jax.random.wrap_key_data(state.keys, impl=jax.random.key_impl(self._keys)))
            trace = jnp.asarray(self._trace[:, self._owners])
            found.append(parallel.finish(self._attack, self._score_fn, self._batch, state, trace))
        rows = [result._replace(loss_trace=result.loss_trace.T) for result in found]
        together = jax.tree.map(lambda *parts: np.concatenate([np.asarray(part) for part in parts])[:count], *rows)
        return together._replace(loss_trace=together.loss_trace.T)

    def _seat(self, owners: Owners) -> None:
        """Make a batch of the images at some positions."""
        self._owners, self._attack = owners, self._make(owners)
        self._devices = parallel.even_share(len(owners), self._replicas.devices)
        self._score_fn = self._replicas.on(self._devices)
        rows = self._images[owners], self._keys[owners]
        self._batch, self._batch_keys = self._replicas.rows(self._devices, rows)

    def _start(self) -> State:
        return parallel.start(self._attack, self._score_fn, self._batch, self._batch_keys)

    def _keep(self, done: Bool[np.ndarray, " slots"]) -> None:
        """Take images out of their slots; from here on their loss stays."""
        states = jax.device_get(self._state._replace(keys=jax.random.key_data(self._state.keys)))
        for slot in np.flatnonzero(done):
            owner = int(self._owners[slot])
            self._ends[owner] = jax.tree.map(lambda leaf, slot=slot: leaf[slot].copy(), states)
            self._trace[self.steps[owner] :, owner] = self._trace[self.steps[owner] - 1, owner]
        self.busy &= ~done

    def _fill(self) -> None:
        """Put waiting images in free slots."""
        fresh = np.flatnonzero(~self.busy)[: len(self._images) - self._next]
        owners = self._owners.copy()
        owners[fresh] = np.arange(self._next, self._next + len(fresh))
        self._next += len(fresh)
        self.busy[fresh] = True
        self._seat(owners)
        is_fresh = np.isin(np.arange(len(owners)), fresh)
        self._state = parallel.call(select, self._replicas.rows(self._devices, is_fresh), self._start(), self._state)

    def _halve(self) -> None:
        """Go on with half of the slots, all busy ones among them, or with half of those where that will do, too."""
        size = len(self.busy)
        while 2 * np.sum(self.busy) <= size:
            size = -(-size // 2)
        stay = np.argsort(~self.busy, kind="stable")[:size]
        state = jax.tree.map(lambda leaf: leaf[stay], self._state)
        self.busy = self.busy[stay]
        self._seat(self._owners[stay])
        self._state = self._replicas.rows(self._devices, state)
