"""The rank attack and what it must beat: how each method decides where every score of a set should go."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy

from experiments.rank_targets import trade_off
from experiments.ranking.study import Outcome, Study, Vector
from nriqa_jax.attacks.reachable import Reach, reach
from nriqa_jax.metrics.correlation import mae, srocc

CHANGE_WEIGHTS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)  # of the frontier
_HALVINGS = 6  # of the interval of weights, to find the one that moves scores as far as wanted


class Method(NamedTuple):
    """A way to attack a ranking.

    Attributes:
      label: name for readers.
      role: "attack", or "baseline" for what every attack must beat.
      run: attacks a study under the name of the method.
    """

    label: str
    role: str
    run: Callable[[Study, str], Outcome]


def sma(study: Study, name: str) -> Outcome:
    """SMA (arXiv 2404.13277): stage one, then each image towards its target, in reach or not."""
    return study.attack(name, study.sma.targets)


def lowest_within_reach(study: Study, name: str) -> Outcome:
    """The lowest SROCC that the images can reach, and the largest change that leaves it as it is."""

    def lowest(reach: Reach) -> Vector:
        return study.within(reach, (0.0,))[0]

    return _within_reach(study, name, lowest, lowest)


def wide_within_reach(study: Study, name: str) -> Outcome:
    """The lowest SROCC within reach that moves scores at least as far as SMA did.

    On the probes, whose reach is smaller, that is as far as the targets of SMA would move them there.
    """
    wanted = mae(METHODS["sma"].run(study, "sma").reached, study.scores)
    probed = _between(study, *study.probes)
    there = mae(np.clip(study.sma.targets, probed.low, probed.high), study.scores)
    return _within_reach(
        study, name, lambda reach: _as_far_as(study, reach, there), lambda reach: _as_far_as(study, reach, wanted)
    )


def _within_reach(
    study: Study, name: str, probing: Callable[[Reach], Vector], aim: Callable[[Reach], Vector]
) -> Outcome:
    """Probe both directions, choose targets, go on in the direction of each, choose again, and meet the targets."""
    down, up = study.probes
    rises = probing(_between(study, down, up)) > study.scores
    further = study.go_on(f"{name}_further", rises)
    low = further.where(~rises & (further.reached < down.reached), down)
    high = further.where(rises & (further.reached > up.reached), up)
    found = _between(study, low, high)
    met = study.meet(name, aim(found), low, high)
    spent = (down, up, further)
    gradients, forwards = sum(part.gradients for part in spent), sum(part.forwards for part in (*spent, met))
    return met._replace(gradients=gradients, forwards=forwards, reach=found)


def _between(study: Study, low: Outcome, high: Outcome) -> Reach:
    return reach(study.scores, low.reached, high.reached)


def _as_far_as(study: Study, reach: Reach, change: float) -> Vector:
    """Targets of lowest SROCC whose mean change is as large as wanted, or the largest."""
    found = study.within(reach, CHANGE_WEIGHTS)
    enough = [mae(targets, study.scores) >= change for targets in found]
    first = enough.index(True) if any(enough) else len(enough) - 1
    below, above, best = CHANGE_WEIGHTS[max(first - 1, 0)], CHANGE_WEIGHTS[first], found[first]
    for _ in range(_HALVINGS):
        middle = (below + above) / 2
        (targets,) = study.within(reach, (middle,))
        if mae(targets, study.scores) >= change:
            above, best = middle, targets
        else:
            below = middle
    return best


def middle_cut(study: Study, name: str) -> Outcome:
    """Scores in the lower half of the range up, the others down."""
    return study.take(name, study.scores < (study.scale.low + study.scale.high) / 2)


def best_cut(study: Study, name: str) -> Outcome:
    """Scores below a cut up, the others down, for the cut of lowest SROCC; it must know both outcomes of each image."""
    cuts = [study.scores < cut for cut in np.sort(study.scores)]
    best = min(cuts, key=lambda rises: srocc(study.raised.where(rises, study.lowered).reached, study.scores))
    return _both(study, study.take(name, best))


def away(study: Study, name: str) -> Outcome:
    """Every score in the direction in which it moves further, whatever that does to the ranking."""
    return _both(study, study.take(name, study.raised.reached - study.scores >= study.scores - study.lowered.reached))


def _both(study: Study, outcome: Outcome) -> Outcome:
    """An outcome that cost attacks in both directions."""
    both = study.raised, study.lowered
    return outcome._replace(
        gradients=sum(side.gradients for side in both), forwards=sum(side.forwards for side in both)
    )


def reversal(study: Study, name: str) -> Outcome:
    """The same scores in reversed order."""
    return study.attack(name, np.sort(study.scores)[::-1][_places(study.scores)])


def mirror(study: Study, name: str) -> Outcome:
    """Scores mirrored at the middle of the range."""
    return study.attack(name, study.scale.low + study.scale.high - study.scores)


def uniform(study: Study, name: str) -> Outcome:
    """A reversed order, evenly spread over the range."""
    steps = _places(study.scores) / max(len(study.scores) - 1, 1)
    return study.attack(name, study.scale.high - steps * (study.scale.high - study.scale.low))


def permutation(study: Study, name: str) -> Outcome:
    """The same scores in random order."""
    return study.attack(name, np.random.default_rng(study.job.seed).permutation(study.scores))


def frontier(study: Study, outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """The trade-off between a low SROCC and a large change, in reach of attacks; without points that others beat."""
    points: list[dict[str, Any]] = [
        {"family": "reach", "label": f"{weight:g}", "change_weight": f"{weight:g}"} | trade_off(study.scores, targets)
        for outcome in outcomes
        if outcome.reach is not None
        for weight, targets in zip(CHANGE_WEIGHTS, study.within(outcome.reach, CHANGE_WEIGHTS))
    ]
    points.sort(key=lambda point: (-point["mae"], point["srocc"]))
    best = [p for i, p in enumerate(points) if all(p["srocc"] < other["srocc"] for other in points[:i])]
    return best[::-1]


def _places(scores: Vector) -> np.ndarray:
    return scipy.stats.rankdata(scores, "ordinal") - 1


METHODS: Mapping[str, Method] = {
    "sma": Method("SMA as published", "attack", sma),
    "reach": Method("SMA within reach, lowest SROCC", "attack", lowest_within_reach),
    "reach_wide": Method("SMA within reach, change of SMA or more", "attack", wide_within_reach),
    "threshold_middle": Method("Cut at the middle of the range", "baseline", middle_cut),
    "threshold_best": Method("Best cut", "baseline", best_cut),
    "reversal": Method("Reversed ranks", "baseline", reversal),
    "mirror": Method("Mirrored scores", "baseline", mirror),
    "uniform": Method("Reversed even grid", "baseline", uniform),
    "permutation": Method("Random permutation", "baseline", permutation),
    "away": Method("Away from the clean score", "baseline", away),
}
