"""The sets of images of a benchmark: each is computed once, where its folder lacks something."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments import attack_images, attacking, batch_sizes, ledger, loading, records
from experiments.matrix import purification
from experiments.matrix.plan import CLEAN, Matrix, Source
from experiments.matrix.purification import Behind
from experiments.matrix.spelled import Spelled
from experiments.score_images import score_set
from experiments.settings import Scorers
from nriqa_jax.defenses.adaptive import attackable, defended, eot
from nriqa_jax.models.model import Model
from nriqa_jax.parallel import Replicas
from nriqa_jax.types import Attack, Purifier, ScoreFn


class Subject(NamedTuple):
    """A model of a benchmark.

    Attributes:
      model: its description.
      score_fn: in float32.
    """

    model: Model
    score_fn: ScoreFn


class Machine(NamedTuple):
    """How sets are computed.

    Attributes:
      devices: of this process.
      batch_size: largest number of images computed together on one of them; 0 is as memory allows.
      seed: of all draws.
      draws: purified versions of an image at a step of an attack, where the purifier draws at random.
      pairs: whether to measure what only the MSU benchmark exports.
    """

    devices: Sequence[jax.Device]
    batch_size: int
    seed: int
    draws: int
    pairs: bool


class Sets(NamedTuple):
    """What sets are made of.

    Attributes:
      out: folder of the run.
      images: the clean images.
      subjects: models by name.
      attacks: their settings.
      purifiers: the purifiers.
      machine: how to compute.
      given: folder of a set of `experiments.build_attack_set`, whose images those of attacks that know of no purifier
        are; None where they are computed.
    """

    out: Path
    images: loading.ImageSet
    subjects: Mapping[str, Subject]
    attacks: Mapping[Spelled, attack_images.Config]
    purifiers: Mapping[Spelled, Purifier]
    machine: Machine
    given: Path | None = None

    def compute(self, matrix: Matrix) -> None:
        """Compute all that the cells of a matrix need."""
        for model in matrix.models:
            self._score(CLEAN, model)
            for attack in matrix.attacks if self.given is None else ():
                self._attack(Source(model, attack))
        for purifier in matrix.purifiers:
            self._purify(CLEAN, purifier, matrix.models)
        for cell in matrix.cells():
            if cell.adaptive:
                self._attack(cell.source)
                self._score(cell.source, cell.model)
            self._purify(cell.source, cell.purifier, (cell.model,))

    def scores(self, source: Source, model: str) -> ledger.Table:
        """Undefended scores of a set; by name of the files, for attacked images."""
        return ledger.Table(self._scores_folder(source, model) / "scores.csv", ledger.SCORE_COLUMNS)

    def attacked(self, source: Source) -> ledger.Table:
        """What the attack says of a set."""
        return ledger.Table(self._attacked_folder(source) / "rows.csv", ledger.ATTACK_COLUMNS)

    def purified(self, source: Source, purifier: Spelled, models: Sequence[str]) -> ledger.Table:
        """What a purifier makes of a set."""
        columns = purification.columns(models, self.machine.pairs)
        return ledger.Table(self._purified_folder(source, purifier) / "rows.csv", columns)

    def times(self, purifier: Spelled) -> ledger.Table:
        """Seconds that it took for each clean image."""
        return ledger.Table(self._purified_folder(CLEAN, purifier) / "times.csv", purification.TIME_COLUMNS)

    def files(self, source: Source) -> dict[str, Path]:
        """The file of each image of a set."""
        if source == CLEAN:
            return {name: records.image_path(self.images.root, name) for name in self.images.names}
        folder, names = self._attacked_folder(source) / "adversarial", ledger.adversarial_names(self.images.names)
        return {name: folder / names[name] for name in self.images.names}

    def pictures(self, source: Source, purifier: Spelled) -> dict[str, Path]:
        """Where pictures of purified images of a set are kept, of the few that are."""
        folder, names = (
            self._purified_folder(source, purifier) / "pictures",
            ledger.adversarial_names(self.images.names),
        )
        return {name: folder / names[name] for name in self.images.names}

    def _attack(self, source: Source) -> None:
        assert source.model is not None
        assert source.attack is not None
        model, score_fn = self.subjects[source.model]
        scorers = Scorers(score_fn) if source.through is None else self._behind(score_fn, source.through)
        out, seed = self.out / source.folder, self.machine.seed
        make_attack = attack_images.attack_maker(self.attacks[source.attack], model)
        sizes = self._sizes(scorers.attacked, out, make_attack(None, jnp.zeros(1)))
        attacking.attack_set(attacking.Job(self.images, self._replicas(scorers), sizes, seed), out, make_attack)

    def _behind(self, score_fn: ScoreFn, through: Spelled) -> Scorers:
        """A model behind a purifier, and that as an attack differentiates it best."""
        purifier = self.purifiers[through]
        key = jax.random.fold_in(jax.random.key(self.machine.seed), 2)
        gradient = defended(score_fn, attackable(purifier), key)
        draws = self.machine.draws if is_random(purifier) else 1
        return Scorers(defended(score_fn, purifier, key), eot(gradient, draws))

    def _score(self, source: Source, model: str) -> None:
        scorers, out = Scorers(self.subjects[model].score_fn), self._scores_folder(source, model)
        images = self.images if source == CLEAN else self._as_images(source)
        score_set(images, self._replicas(scorers), self._sizes(scorers.score, out), out)

    def _as_images(self, source: Source) -> loading.ImageSet:
        """The files of an attacked set as images of their own."""
        folder, available = self._attacked_folder(source) / "adversarial", self._available(source)
        names = {name: path.relative_to(folder).as_posix() for name, path in self.files(source).items()}
        sizes = {names[name]: size for name, size in available.sizes.items()}
        return loading.ImageSet(folder, list(sizes), sizes, {})

    def _available(self, source: Source) -> loading.ImageSet:
        """The images that the attack did not fail on; the others keep its reason."""
        rows = self.attacked(source).rows
        failures = {name: row["error"] for name, row in rows.items() if row["status"] != "ok"}
        sizes = {name: size for name, size in self.images.sizes.items() if name not in failures}
        return self.images._replace(sizes=sizes, failures=failures)

    def _purify(self, source: Source, purifier: Spelled, models: Sequence[str]) -> None:
        score_fns = {name: self.subjects[name].score_fn for name in models}
        behind, out = Behind(self.purifiers[purifier], score_fns), self._purified_folder(source, purifier)
        first = next(iter(score_fns.values()))
        sizes = self._sizes(defended(first, behind.purifier), out)
        images, files = (self.images, None) if source == CLEAN else (self._available(source), self.files(source))
        job = purification.Job(images, files, self.machine.seed, self.machine.pairs)
        purification.purify_set(job, self._replicas(behind), models, sizes, out)

    def _replicas(self, tree: Any) -> Replicas:
        return Replicas(tree, self.machine.devices)

    def _sizes(self, score_fn: ScoreFn, out: Path, attack: Attack | None = None) -> batch_sizes.BatchSizes:
        """How many images to compute together, as an earlier part of the run settled."""
        out.mkdir(parents=True, exist_ok=True)

        @cache  # an estimate takes a while, and a set that is there needs none
        def estimate() -> Callable[[batch_sizes.Size], int]:
            largest = max(self.images.sizes.values(), key=lambda size: size[0] * size[1])
            return batch_sizes.automatic(score_fn, largest, len(self.machine.devices), attack)

        fixed = batch_sizes.fixed(self.machine.batch_size)
        default = fixed if self.machine.batch_size else lambda size: estimate()(size)
        return batch_sizes.BatchSizes(out / "batch_sizes.json", default)

    def _attacked_folder(self, source: Source) -> Path:
        return (self.out if self.given is None or source.through else self.given) / source.folder

    def _scores_folder(self, source: Source, model: str) -> Path:
        return self.out / source.folder / "scores" / model

    def _purified_folder(self, source: Source, purifier: Spelled) -> Path:
        return self.out / source.folder / "purified" / purifier.folder


def is_random(purifier: Purifier) -> bool:
    """Whether a purifier draws at random."""
    return getattr(purifier, "random", False)


def how(purifier: Purifier) -> str:
    """How an attack that knows a purifier differentiates it."""
    way = "end to end" if attackable(purifier) is purifier else "bpda"
    return f"{way} + eot" if is_random(purifier) else way
