"""How the passes of one training step normalise: with which statistics, and what becomes of the stored ones.

Each mode is ``(network, variables) -> Passes`` on views. `of_batch` is the rule for training, `stored` for tuning a
trained network, and `published_three_passes` what the published code of gradient-norm training does.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float

from nriqa_jax.defenses.gradient_penalty import Passes
from nriqa_jax.types import Images, Scores

Variables = Mapping[str, Any]
Views = Float[Array, "batch views rows columns channels"]


@runtime_checkable
class Network(Protocol):
    """What is trained; a `Model` of the zoo is one. Must be hashable, to be a constant of a compiled step."""

    def views(self, images: Images, /) -> Views:
        """What the network sees of images, normalised; differentiable."""
        ...

    def lay_out(self, variables: Variables, /, *, twice: bool = False) -> Variables:
        """The same weights as passes want them; ``twice`` if their gradients by views are differentiated by weights."""
        ...

    def apply_views(self, variables: Variables, views: Views, /) -> Scores:
        """Scores with the statistics in ``batch_stats``."""
        ...

    def apply_training(self, variables: Variables, views: Views, /) -> tuple[Scores, Variables]:
        """Scores with the statistics of the batch, and new moving averages of these."""
        ...

    def apply_held(self, variables: Variables, views: Views, /) -> tuple[Scores, Variables, Variables]:
        """The same with statistics that are constants in the innermost derivative, and these statistics."""
        ...


class Statistics(NamedTuple):
    """What passes hand on.

    Attributes:
      stored: moving averages after the passes so far.
      used: what further passes normalise with.
    """

    stored: Variables
    used: Variables


Mode = Callable[[Network, Variables], Passes]


def of_batch(network: Network, variables: Variables) -> Passes:
    """The first pass normalises with the statistics of the batch, all others with the same numbers.

    They are constants in derivatives by views, and functions of the weights in those by weights. Only the first pass
    changes the moving averages.
    """

    def alone(views: Views) -> tuple[Scores, Statistics]:
        scores, stored = network.apply_training(variables, views)
        return scores, Statistics(stored, {})

    def first(views: Views) -> tuple[Scores, Statistics]:
        scores, stored, used = network.apply_held(variables, views)
        return scores, Statistics(stored, used)

    def further(views: Views, statistics: Statistics) -> tuple[Scores, Statistics]:
        return network.apply_views({**variables, "batch_stats": statistics.used}, views), statistics

    return Passes(alone, first, further)


def stored(network: Network, variables: Variables) -> Passes:
    """All passes normalise with the moving averages, and none changes them: the network is trained as it is used."""
    statistics = Statistics(variables.get("batch_stats", {}), variables.get("batch_stats", {}))

    def first(views: Views) -> tuple[Scores, Statistics]:
        return network.apply_views(variables, views), statistics

    def further(views: Views, statistics: Statistics) -> tuple[Scores, Statistics]:
        return first(views)

    return Passes(first, first, further)


def published_three_passes(network: Network, variables: Variables) -> Passes:
    """A quirk of the published code (DefenseIQA-NT): three passes in training mode, each with statistics of its own.

    The loss, the clean and the perturbed pass each change the moving averages, and the "gradient norm" is no longer
    that of single images: by way of the statistics each score depends on all images of the batch.
    """

    def update(views: Views, averages: Variables) -> tuple[Scores, Statistics]:
        scores, averages = network.apply_training({**variables, "batch_stats": averages}, views)
        return scores, Statistics(averages, {})

    def alone(views: Views) -> tuple[Scores, Statistics]:
        return update(views, variables.get("batch_stats", {}))

    def first(views: Views) -> tuple[Scores, Statistics]:
        scores, statistics = alone(views)
        return scores, update(views, statistics.stored)[1]  # of equal passes, compilers keep one

    def further(views: Views, statistics: Statistics) -> tuple[Scores, Statistics]:
        return update(views, statistics.stored)

    return Passes(alone, first, further)
