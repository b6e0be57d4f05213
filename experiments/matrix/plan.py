"""What a benchmark computes: every set of images once, and nothing that another set has told already.

The sets of a matrix are the clean images, those that each attack makes through each model, and those that it makes
through each model behind each purifier. Every set is scored once by each model that needs it, and purified once by each
purifier; cells only join what is known.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from experiments import text_table
from experiments.matrix.spelled import Spelled
from nriqa_jax.attacks.composite import Adapted, Matched, Strongest

_FORWARDS_OF_ATTACK = 4  # clean, attacked, noise of the same size, and the saved file


class Source(NamedTuple):
    """A set of images.

    Attributes:
      model: the model that was attacked; None for the clean images.
      attack: how.
      through: the purifier that the attack was computed through, if any.
    """

    model: str | None = None
    attack: Spelled | None = None
    through: Spelled | None = None

    @property
    def folder(self) -> str:
        """Where it is, below the folder of the run."""
        if self.attack is None:
            return "clean"
        whole = f"attacked/{self.model}/{self.attack.folder}"
        return whole if self.through is None else f"{whole}/through/{self.through.folder}"


CLEAN = Source()


class Cell(NamedTuple):
    """An attack on a model, and a purifier against it.

    Attributes:
      model: name of the model.
      attack: the attack.
      purifier: the purifier.
      adaptive: whether the attack was computed through the purifier.
    """

    model: str
    attack: Spelled
    purifier: Spelled
    adaptive: bool

    @property
    def source(self) -> Source:
        """What the attack made."""
        return Source(self.model, self.attack, self.purifier if self.adaptive else None)

    @property
    def folder(self) -> str:
        """Where its table is, below that of all cells."""
        mode = "adaptive" if self.adaptive else "unaware"
        return f"{self.model}/{self.attack.folder}/{self.purifier.folder}/{mode}"


class Matrix(NamedTuple):
    """What is crossed.

    Attributes:
      models: names of the models.
      attacks: all attacks.
      purifiers: all purifiers.
      adaptive: those of the attacks that are also computed through each purifier.
    """

    models: tuple[str, ...]
    attacks: tuple[Spelled, ...]
    purifiers: tuple[Spelled, ...]
    adaptive: tuple[Spelled, ...]

    def cells(self) -> Iterator[Cell]:
        """All cells: by model, attack and purifier, the unaware attack first."""
        for model in self.models:
            for attack in self.attacks:
                for purifier in self.purifiers:
                    yield Cell(model, attack, purifier, False)
                    if attack in self.adaptive:
                        yield Cell(model, attack, purifier, True)


class Work(NamedTuple):
    """A kind of pass over images, and what it costs for one of them.

    Attributes:
      label: what is done.
      sets: how many times over all images.
      steps: steps of attacks: a gradient, or the queries of a step.
      forwards: forward passes of a model.
      purifications: images purified, without those inside of steps.
    """

    label: str
    sets: int
    steps: float = 0.0
    forwards: float = 0.0
    purifications: float = 0.0


def work(matrix: Matrix, steps: Sequence[int], draws: Sequence[int], given: bool = False) -> list[Work]:
    """The passes of a matrix, in their order.

    Args:
      matrix: what is crossed.
      steps: of each attack.
      draws: purified versions of an image at a step of an attack, for each purifier.
      given: whether the images of attacks that know of no purifier are there.
    """
    models, purifiers = len(matrix.models), len(matrix.purifiers)
    own = [count for attack, count in zip(matrix.attacks, steps) if attack in matrix.adaptive]
    attacked, adaptive = models * len(matrix.attacks), models * len(own) * purifiers
    behind = sum(own) * sum(draws) / max(len(own) * purifiers, 1)
    return [
        Work("score the clean images", models, forwards=1),
        Work("attack", 0 if given else attacked, sum(steps) / len(steps), _FORWARDS_OF_ATTACK),
        Work("purify the clean images", purifiers, forwards=models, purifications=1),
        Work("purify the attacked images", attacked * purifiers, forwards=1, purifications=1),
        Work("attack through each purifier", adaptive, behind, _FORWARDS_OF_ATTACK, _FORWARDS_OF_ATTACK),
        Work("purify what these attacks made", adaptive, forwards=2, purifications=1),
    ]


def steps_of(attack: Any) -> int:
    """Steps of an attack, those of its parts if it consists of others."""
    if isinstance(attack, Strongest):
        return sum(map(steps_of, attack.members))
    if isinstance(attack, Matched):
        return (attack.rounds + 1) * steps_of(attack.make(jnp.full(1, attack.low)))
    if isinstance(attack, Adapted):
        return steps_of(attack.make(jnp.ones(1)))
    return attack.steps


def describe(matrix: Matrix, passes: Sequence[Work], images: int) -> str:
    """The plan, for people."""
    adaptive = f"{len(matrix.adaptive)} of them also through each purifier"
    head = (
        f"{len(matrix.models)} models x {len(matrix.attacks)} attacks ({adaptive}) x {len(matrix.purifiers)} purifiers "
        f"on {images} images: {len(list(matrix.cells()))} cells"
    )
    costs = [[images * one.sets * cost for cost in (one.steps, one.forwards, one.purifications)] for one in passes]
    rows = [
        ("", "sets", "attack steps", "forward passes", "purifications"),
        *((one.label, f"{one.sets}", *(f"{cost:,.0f}" for cost in own)) for one, own in zip(passes, costs)),
        ("in all", "", *(f"{sum(column):,.0f}" for column in zip(*costs))),
    ]
    return f"{head}\n{text_table.plain(rows, right=(1, 2, 3, 4))}"
