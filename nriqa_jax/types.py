"""Array aliases and function types shared by the whole library.

Contract, stated once: images are NHWC RGB, float32, in [0, 1]; scores are one float32 number per image, in the
native unit of the model; keys are one typed JAX key per image. No function here or elsewhere couples two images of a
batch, so the result for an image never depends on its neighbours.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int, Key, PyTree

Images = Float[Array, "batch height width 3"]
Purified = Float[Array, "batch new_height new_width 3"]
Scores = Float[Array, " batch"]
Losses = Float[Array, " batch"]
Keys = Key[Array, " batch"]
Theta = PyTree[Array]
Real = float | int | Float[Array, ""] | Int[Array, ""]  # a setting that may be data of a compiled program


@runtime_checkable
class ScoreFn(Protocol):
    """A quality model as a function; resizing, crops and normalisation are inside it.

    Any callable of this shape works (Flax, Equinox, a lambda). Make it a pytree, as
    ``jax.tree_util.Partial(model.apply, variables)`` is, to keep weights out of the compiled program's constants.
    """

    def __call__(self, images: Images, /) -> Scores:
        """Score each image."""
        ...


@runtime_checkable
class Randomised(Protocol):
    """A score function that draws at random, such as that of a model behind a random defense.

    Called as it is, it draws by a key of its own, the same for every image, so that scores are a function of the image.
    At each step of an attack it draws anew, by the keys of the images.
    """

    def __call__(self, images: Images, /) -> Scores:
        """Score each image."""
        ...

    def drawn(self, keys: Keys) -> ScoreFn:
        """The same with other draws.

        Args:
          keys: one per image. A batch may hold several versions of each image, those of one after those of another;
            all draw differently.
        """
        ...


def drawn(score_fn: ScoreFn, keys: Keys) -> ScoreFn:
    """A score function as it is at a step of an attack: if it draws at random, by the keys of the images."""
    return score_fn.drawn(keys) if isinstance(score_fn, Randomised) else score_fn


@runtime_checkable
class Objective(Protocol):
    """What an attack minimises: one loss per image, from one score per image."""

    def __call__(self, scores: Scores, /) -> Losses:
        """Turn scores into losses."""
        ...


class Perturbation(NamedTuple):
    """A set of admissible changes of an image, as functions.

    Attributes:
      init: ``(keys, images) -> theta``, the starting point.
      project: ``(theta, images) -> theta``, the nearest (or a near) admissible point; it alone enforces the budget
        and the pixel range, so that no clipping enters the gradient.
      render: ``(theta, images) -> images``, differentiable.
      used: ``theta -> [batch]``, the share of the budget that is used, in [0, 1]; 1 where there is no budget.
    """

    init: Callable[[Keys, Images], Theta]
    project: Callable[[Theta, Images], Theta]
    render: Callable[[Theta, Images], Images]
    used: Callable[[Theta], Float[Array, " batch"]]


@runtime_checkable
class Penalty(Protocol):
    """What a change costs besides the objective: ``(theta, attacked, images) -> losses``, differentiable.

    Distances that a perturbation set cannot enforce, such as SSIM or the roughness of a flow, enter an attack so.
    """

    def __call__(self, theta: Theta, attacked: Images, images: Images, /) -> Losses:
        """The cost of each change."""
        ...


@runtime_checkable
class View(Protocol):
    """What a model is shown of attacked images at one step: some random views of each, whose losses are averaged."""

    def __call__(self, images: Images, keys: Keys, /) -> Float[Array, "batch views height width 3"]:
        """Transform each image by its own key; differentiable."""
        ...


class GradientHealth(NamedTuple):
    """How a white-box attack went, per image; what `nriqa_jax.attacks.diagnostics` judges.

    Attributes:
      budget: share of the perturbation's budget used in the end, in [0, 1].
      zero: share of exactly zero gradient entries, averaged over the steps, in [0, 1].
      nonfinite: number of NaN or infinite gradient entries over all steps (they are not followed).
    """

    budget: Float[Array, " batch"]
    zero: Float[Array, " batch"]
    nonfinite: Int[Array, " batch"]


class AttackResult(NamedTuple):
    """What every attack returns.

    Attributes:
      images: adversarial images, float32 in [0, 1], inside the budget.
      scores: their scores.
      loss_trace: the objective before each step.
      queries: forward passes of the score function spent on each image.
      health: how the gradients behaved; ``None`` for attacks that use no gradient.
    """

    images: Images
    scores: Scores
    loss_trace: Float[Array, "steps batch"]
    queries: Int[Array, " batch"]
    health: GradientHealth | None = None


@runtime_checkable
class Attack(Protocol):
    """An attack on a batch: ``(score_fn, images, keys) -> AttackResult``."""

    def __call__(self, score_fn: ScoreFn, images: Images, keys: Keys) -> AttackResult:
        """Run the attack."""
        ...


class StepwiseAttack(Attack, Protocol):
    """An attack that can also be run one step at a time: a pytree whose leaves are its real-valued settings."""

    @property
    def objective(self) -> Objective:
        """What it minimises."""
        ...

    @property
    def steps(self) -> int:
        """Number of steps."""
        ...

    def init(self, score_fn: ScoreFn, images: Images, keys: Keys) -> PyTree:
        """State before the first step."""
        ...

    def step(self, score_fn: ScoreFn, images: Images, state: PyTree) -> tuple[PyTree, Array]:
        """Next state, and the losses before the step."""
        ...

    def finish(self, score_fn: ScoreFn, images: Images, state: PyTree, loss_trace: Array) -> AttackResult:
        """Result after the last step."""
        ...


class Runner(NamedTuple):
    """How an attack that consists of others has its parts run.

    Attributes:
      attack: ``(attack, score_fn, images, keys) -> AttackResult``.
      call: ``(fn, *arrays)``, a function of arrays.
    """

    attack: Callable[[Attack, ScoreFn, Images, Keys], AttackResult]
    call: Callable[..., PyTree]


@runtime_checkable
class CompositeAttack(Attack, Protocol):
    """An attack that consists of others, which it has run one after the other, and chooses per image."""

    @property
    def objective(self) -> Objective:
        """What it minimises."""
        ...

    def run_with(self, runner: Runner, score_fn: ScoreFn, images: Images, keys: Keys) -> AttackResult:
        """Run the parts, and choose."""
        ...


@runtime_checkable
class Purifier(Protocol):
    """A defense that maps images to images in the same range; what it returns is what a model is shown.

    Height and width may change, to ones that follow from those of the images alone. A purifier that does not draw at
    random ignores the keys. Any callable of this shape works; those of `nriqa_jax.defenses` also say what their
    gradient is worth.
    """

    def __call__(self, images: Images, keys: Keys) -> Purified:
        """Purify each image."""
        ...
