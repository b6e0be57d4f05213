"""The plan of a training run: all of its settings but data, model and seed, and its learning rates at any moment."""

import dataclasses
import enum
import math
from collections.abc import Callable
from typing import NamedTuple


class Quirk(enum.StrEnum):
    """What published training code does, though its paper does not say so."""

    HEAD_FROZEN = "the head is trained in the first epoch only"
    BACKBONE_RATE_KEPT = "the learning rate of the backbone never decays"
    OPTIMISER_RENEWED = "the optimiser starts anew in each epoch"
    THREE_PASSES = "three passes in training mode, each with batch statistics of its own"
    COSINE_BY_STEPS = "the learning rate falls and rises along a cosine every 50 steps"
    DECAY_COMPOUNDED = "the decay of the learning rate is applied to its decayed value in every epoch"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How a network is trained.

    Attributes:
      loss: key of the catalog's ``LOSSES``.
      epochs: passes over the data.
      batch_size: samples in a step.
      crop: side of the square crops, in pixels; 0 for whole images.
      crops: of each image in an epoch.
      flip: chance that a sample is mirrored left to right.
      resize: rows and columns, such as "498x664", that training images are squashed to first; "" for their own.
      optimiser: key of the catalog's ``OPTIMISERS``.
      learning_rate: of the backbone, at the start.
      head_factor: learning rate of all but the backbone, in units of that of the backbone.
      head_factor_epochs: how long that factor holds; 0 for always.
      freeze_backbone: train all but the backbone.
      weight_decay: of the optimiser.
      clip: largest norm of the gradient; 0 for no limit.
      ema: decay of a moving average of the weights, which is what is kept of them; 0 for none.
      schedule: key of the catalog's ``SCHEDULES``.
      decay: factor of the schedule "step".
      decay_every: epochs from one such decay to the next.
      defense: key of the catalog's ``DEFENSES``.
      nt_weight: weight of the penalty of the gradient's norm.
      nt_step: step of its finite differences, in its units.
      nt_method: key of `nriqa_jax.defenses.training.METHODS`.
      nt_units: "normalised" views, as published, or "pixels" in [0, 1].
      epsilon: radius of the attacks that are trained against, such as "4/255".
      attack_steps: their gradient steps; of "free" adversarial training, the uses of each batch.
      relabel: key of the catalog's ``RELABELLINGS``: labels of attacked images.
      consistency: weight of TRADES.
      labels: "model", mapped from the set's scale to the model's, or "raw".
      quirks: those that are reproduced.
    """

    loss: str = "huber"
    epochs: int = 20
    batch_size: int = 16
    crop: int = 224
    crops: int = 1
    flip: float = 0.5
    resize: str = ""
    optimiser: str = "adam"
    learning_rate: float = 1e-4
    head_factor: float = 1.0
    head_factor_epochs: int = 0
    freeze_backbone: bool = False
    weight_decay: float = 0.0
    clip: float = 0.0
    ema: float = 0.0
    schedule: str = "cosine"
    decay: float = 0.1
    decay_every: int = 10
    defense: str = "none"
    nt_weight: float = 1e-3
    nt_step: float = 1e-2
    nt_method: str = "finite_difference"
    nt_units: str = "normalised"
    epsilon: str = "4/255"
    attack_steps: int = 1
    relabel: str = "keep"
    consistency: float = 6.0
    labels: str = "model"
    quirks: tuple[Quirk, ...] = ()


class Moment(NamedTuple):
    """A step of a run.

    Attributes:
      step: in the run, from 0.
      epoch: that it belongs to, from 0.
      steps: of the whole run.
    """

    step: int
    epoch: int
    steps: int


class Rates(NamedTuple):
    """Learning rates of the parts of a network."""

    backbone: float
    head: float


Schedule = Callable[[Plan, Moment], float]


def constant(plan: Plan, moment: Moment) -> float:
    """One rate for all steps."""
    return 1.0


def by_steps(plan: Plan, moment: Moment) -> float:
    """A factor every so many epochs."""
    if Quirk.DECAY_COMPOUNDED in plan.quirks:
        return math.prod(plan.decay ** (epoch // plan.decay_every) for epoch in range(moment.epoch + 1))
    return plan.decay ** (moment.epoch // plan.decay_every)


def cosine(plan: Plan, moment: Moment) -> float:
    """Half a cosine over the run, to zero (Loshchilov and Hutter, ICLR 2017)."""
    length = 50 if Quirk.COSINE_BY_STEPS in plan.quirks else moment.steps
    return 0.5 * (1.0 + math.cos(math.pi * moment.step / length))


def rates(plan: Plan, schedule: Schedule, moment: Moment) -> Rates:
    """The learning rates of a step."""
    backbone = plan.learning_rate * schedule(plan, moment)
    lifted = plan.head_factor_epochs == 0 or moment.epoch < plan.head_factor_epochs
    head = backbone * (plan.head_factor if lifted else 1.0)
    if Quirk.BACKBONE_RATE_KEPT in plan.quirks:
        backbone = plan.learning_rate
    if plan.freeze_backbone:
        backbone = 0.0
    if Quirk.HEAD_FROZEN in plan.quirks and moment.epoch > 0:
        head = 0.0
    return Rates(backbone, head)
