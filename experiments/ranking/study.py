"""A set of images whose ranking is attacked: what the methods of ``experiments.ranking.methods`` share."""

import shutil
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from experiments import attacking, ledger, loading, processes, records
from experiments.rank_targets import Found, Scale
from experiments.score_images import score_set
from nriqa_jax.attacks import objectives
from nriqa_jax.attacks.between import Between
from nriqa_jax.attacks.reachable import Reach, targets_within
from nriqa_jax.attacks.restarts import starting_from
from nriqa_jax.image import from_uint8
from nriqa_jax.parallel import call
from nriqa_jax.types import Images, Objective, Scores, StepwiseAttack

Vector = Float[np.ndarray, " n"]
Choice = Bool[np.ndarray, " n"]

_GAP, _GAPS = 1e-3, 0.025  # between neighbouring targets within reach, and all gaps together, in score ranges
_SEARCH_STEPS = 10  # forward passes of the search between an image and its attacked version


class Presets(NamedTuple):
    """Attacks, as functions of what they aim at.

    Attributes:
      whole: the attack of stage two.
      probe: a short one, to see what is in reach.
      rest: one with the gradients that two probes leave of the whole.
    """

    whole: Callable[[Objective], Any]
    probe: Callable[[Objective], Any]
    rest: Callable[[Objective], Any]


class Outcome(NamedTuple):
    """What an attack on all images did.

    Attributes:
      rows: its ledger.
      reached: the scores of the saved images; NaN where it failed.
      files: the saved images.
      gradients: gradients spent on each image.
      forwards: mean number of forward passes spent on each image, those of the gradients included.
      targets: the score that each image should have got; None where it was only pushed.
      reach: what the attack believed that the images can score.
    """

    rows: ledger.Table
    reached: Vector
    files: list[Path]
    gradients: int
    forwards: float
    targets: Vector | None = None
    reach: Reach | None = None

    def where(self, chosen: Choice, other: "Outcome") -> "Outcome":
        """Saved images and scores of this attack where chosen, of another one elsewhere; all else as here."""
        files = [mine if choose else theirs for choose, mine, theirs in zip(chosen, self.files, other.files)]
        return self._replace(reached=np.where(chosen, self.reached, other.reached), files=files)


class Study:
    """Clean scores, and attacks that are computed when the first method asks for them."""

    def __init__(
        self,
        job: attacking.Job,
        out: Path,
        presets: Presets,
        score_range: tuple[float, float],
        stage_one: Callable[[Vector, Scale], Found],
        main: str,
    ) -> None:
        """Prepare a study.

        Args:
          job: model and images.
          out: folder of the run.
          presets: the attacks.
          score_range: of the model; an open end is replaced by the clean scores.
          stage_one: finds the targets of SMA.
          main: the method whose ledger is that of the run itself.
        """
        self.job = job
        self._out, self._main, self._stage_one, self._range = out, main, stage_one, score_range
        self._presets = presets

    @cached_property
    def clean(self) -> ledger.Table:
        """The scores of the clean images."""
        folder = self._out / "clean"
        score_set(self.job.images, self.job.replicas, self.job.sizes, folder)
        return ledger.Table(folder / "scores.csv", ledger.SCORE_COLUMNS)  # with what other processes did

    @cached_property
    def names(self) -> list[str]:
        """The images that could be scored, in order of name."""
        return [name for name, row in sorted(self.clean.rows.items()) if row["status"] == "ok"]

    @cached_property
    def scores(self) -> Vector:
        """Their clean scores."""
        return self.clean.numbers("score")

    @cached_property
    def scale(self) -> Scale:
        """Range of the scores."""
        ends = zip(self._range, (np.min(self.scores), np.max(self.scores)))
        return Scale(*(float(end if np.isfinite(end) else clean) for end, clean in ends))

    @cached_property
    def sma(self) -> Found:
        """What stage one of SMA finds."""
        return self._stage_one(self.scores, self.scale)

    @cached_property
    def lowered(self) -> Outcome:
        """Every score pushed down."""
        return self._attack("lower", self._presets.whole, lambda _: objectives.lower_score())

    @cached_property
    def raised(self) -> Outcome:
        """Every score pushed up."""
        return self._attack("raise", self._presets.whole, lambda _: objectives.raise_score())

    @cached_property
    def probes(self) -> tuple[Outcome, Outcome]:
        """Every score pushed down, and up, by a few steps."""
        down = self._attack("lower_probe", self._presets.probe, lambda _: objectives.lower_score())
        return down, self._attack("raise_probe", self._presets.probe, lambda _: objectives.raise_score())

    def within(self, reach: Reach, weights: Sequence[float]) -> Float[np.ndarray, "weights n"]:
        """Targets within reach, for weights of the change."""
        gap = min(_GAP, _GAPS / len(self.scores)) * (self.scale.high - self.scale.low)
        return targets_within(reach, weights, gap=gap, seed=self.job.seed)

    def attack(self, method: str, targets: Vector) -> Outcome:
        """The attack towards a target for each image."""
        outcome = self._attack(
            method, self._presets.whole, lambda batch: objectives.reach_target(self._send(batch, targets))
        )
        return outcome._replace(targets=targets)

    def go_on(self, method: str, rises: Choice) -> Outcome:
        """One probe of each image pushed further in its direction."""
        down, up = self.probes
        directions = np.where(rises, 1.0, -1.0)
        return self._attack(
            method,
            self._presets.rest,
            lambda batch: objectives.push(self._send(batch, directions)),
            begun=up.where(rises, down),
        )

    def meet(self, method: str, targets: Vector, low: Outcome, high: Outcome) -> Outcome:
        """A search for targets between each image and the one of two versions that lies on the side of its target."""
        end = high.where(targets > self.scores, low)

        def between(batch: loading.Batch, clean: Scores) -> StepwiseAttack:
            versions, reached = self._versions(batch, end), self._send(batch, end.reached)
            return Between(self._send(batch, targets), versions, clean, reached, _SEARCH_STEPS)

        return self._outcome(method, between, gradients=0)._replace(targets=targets)

    def take(self, method: str, rises: Choice) -> Outcome:
        """The raised version of some images and the lowered one of the others, in a ledger of its own."""
        sides, path = {True: self.raised, False: self.lowered}, self.folder(method)
        table = ledger.Table(path / "rows.csv", ledger.ATTACK_COLUMNS)
        if processes.is_first():
            files = ledger.adversarial_names(self.job.images.names)
            for name, file in zip(self.names, self.raised.where(rises, self.lowered).files):
                (path / "adversarial" / files[name]).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, path / "adversarial" / files[name])
            up = dict(zip(self.names, rises.tolist()))
            table.add(sides[up.get(name, True)].rows.rows[name] for name in self.raised.rows.rows)
        table.merge()
        return self._read(method, self.raised.gradients, self.raised.forwards)

    def folder(self, method: str) -> Path:
        """Folder of a method's ledger."""
        return self._out if method == self._main else self._out / "methods" / method

    def _attack(
        self,
        method: str,
        preset: Callable[[Objective], Any],
        aim: Callable[[loading.Batch], Objective],
        begun: Outcome | None = None,
    ) -> Outcome:
        def make(batch: loading.Batch, _: Scores) -> StepwiseAttack:
            attack = preset(aim(batch))
            return attack if begun is None else starting_from(attack, self._versions(batch, begun))

        attack = preset(objectives.raise_score())
        restarts = getattr(attack, "restarts", 1) if begun is None else 1
        return self._outcome(method, make, attack.steps * restarts)

    def _outcome(self, method: str, make_attack: attacking.MakeAttack, gradients: int) -> Outcome:
        attacking.attack_set(self.job, self.folder(method), make_attack)
        return self._read(method, gradients)

    def _read(self, method: str, gradients: int, forwards: float | None = None) -> Outcome:
        """An outcome from its ledger, with what all processes did."""
        rows = ledger.Table(self.folder(method) / "rows.csv", ledger.ATTACK_COLUMNS)
        files = ledger.adversarial_names(self.job.images.names)
        return Outcome(
            rows=rows,
            reached=np.array([float(rows.rows[name]["score_adversarial"] or "nan") for name in self.names]),
            files=[self.folder(method) / "adversarial" / files[name] for name in self.names],
            gradients=gradients,
            forwards=float(np.mean(rows.numbers("queries"))) if forwards is None else forwards,
        )

    def _send(self, batch: loading.Batch, values: Vector) -> Scores:
        """A number for each image of a batch; NaN for those that could not be scored."""
        known = dict(zip(self.names, values))
        found = np.array([known.get(name, np.nan) for name in batch.names], np.float32)
        return batch.send(self.job.replicas, found)

    def _versions(self, batch: loading.Batch, outcome: Outcome) -> Images:
        """Saved versions of the images of a batch."""
        files = dict(zip(self.names, outcome.files))
        paths = [files.get(name, records.image_path(self.job.images.root, name)) for name in batch.names]
        pixels = np.stack([records.load_image(path) for path in paths])
        return call(from_uint8, batch.send(self.job.replicas, pixels))
