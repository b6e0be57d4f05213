"""From a plan to the recipe of its steps: names become functions, numbers become data of the compiled step."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import optax
from jax.tree_util import Partial

from experiments import cli
from experiments.data_sets.data_set import Scale
from experiments.training.plan import Plan, Quirk, Rates, Schedule
from nriqa_jax.defenses import adversaries, optimisers, statistics
from nriqa_jax.defenses.adversaries import LossFn
from nriqa_jax.defenses.gradient_penalty import METHODS
from nriqa_jax.defenses.optimisers import Rule
from nriqa_jax.defenses.recipe import GradientPenalty, Recipe
from nriqa_jax.defenses.regimes import AdversarialTraining, CleanTraining, Consistency, Regime, Relabel
from nriqa_jax.types import Real

UNITS = ("normalised", "pixels")


class Parts(NamedTuple):
    """What the names in a plan stand for.

    Attributes:
      loss: its loss.
      optimiser: ``(learning rate, weight decay) -> optax transformation``.
      schedule: of the learning rates.
      defense: of the plan.
      relabel: labels of attacked images.
      scale: of the labels.
      backbone: prefixes of the parameters that are the network's backbone; none where it has no such part.
    """

    loss: LossFn
    optimiser: Callable[[Real, Real], optax.GradientTransformation]
    schedule: Schedule
    defense: "Defense"
    relabel: Relabel
    scale: Scale
    backbone: Sequence[str]


class Defense(NamedTuple):
    """A way to make training robust.

    Attributes:
      regime: what is trained on.
      penalty: of the gradient's norm.
      free: whether each batch is used several times, with images that change along ("free" adversarial training).
    """

    regime: Callable[[Plan, Relabel, Scale], Regime]
    penalty: Callable[[Plan], GradientPenalty | None]
    free: bool = False


def adamw(learning_rate: Real, weight_decay: Real) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019)."""
    return optax.adamw(learning_rate, weight_decay=weight_decay)


def sgd(learning_rate: Real, weight_decay: Real) -> optax.GradientTransformation:
    """Gradient descent with a momentum of 0.9, as PyTorch counts it."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum=0.9))


def recipe(plan: Plan, parts: Parts, rates: Rates) -> Recipe:
    """The recipe of a step; of the same plan, all recipes compile to one program.

    Args:
      plan: settings.
      parts: what its names stand for.
      rates: learning rates of the step.
    """
    by_part: Mapping[str, Rule] = {
        "": Partial(parts.optimiser, rates.head, plan.weight_decay),
        **{prefix: Partial(parts.optimiser, rates.backbone, plan.weight_decay) for prefix in parts.backbone},
    }
    rule = Partial(optimisers.by_part, by_part)
    return Recipe(
        loss=parts.loss,
        optimiser=Partial(optimisers.clipped, rule, plan.clip) if plan.clip > 0 else rule,
        penalty=parts.defense.penalty(plan),
        regime=parts.defense.regime(plan, parts.relabel, parts.scale),
        free_epsilon=cli.parse_epsilon(plan.epsilon) if parts.defense.free else None,
        ema_decay=plan.ema if plan.ema > 0 else None,
        statistics=statistics.published_three_passes if Quirk.THREE_PASSES in plan.quirks else statistics.of_batch,
    )


def no_penalty(plan: Plan) -> None:
    """No penalty."""
    return


def gradient_penalty(plan: Plan) -> GradientPenalty:
    """The penalty of gradient-norm training."""
    return GradientPenalty(
        weight=plan.nt_weight,
        step=plan.nt_step,
        method=METHODS[plan.nt_method],
        by_pixels=plan.nt_units == "pixels",
    )


def clean(plan: Plan, relabel: Relabel, scale: Scale) -> Regime:
    """Training on the images as they are."""
    return CleanTraining()


def adversarial(plan: Plan, relabel: Relabel, scale: Scale) -> Regime:
    """Training on attacked images, and on the clean ones beside them."""
    return AdversarialTraining(_adversary(plan), relabel)


def trades(plan: Plan, relabel: Relabel, scale: Scale) -> Regime:
    """Training on clean images, with a consistency of their scores under attack."""
    low, high = scale.range
    return Consistency(_adversary(plan, adversaries.BOTH_WAYS), plan.consistency, high - low)


def _adversary(
    plan: Plan, objectives: tuple[adversaries.Objective, ...] = (Partial(adversaries.raise_loss),)
) -> adversaries.Adversary:
    """One step to the corner of the ball, or several from anywhere in it."""
    epsilon = cli.parse_epsilon(plan.epsilon)
    start = 0.0 if plan.attack_steps == 1 else epsilon
    size = epsilon if plan.attack_steps == 1 else 2.5 * epsilon / plan.attack_steps
    return adversaries.Adversary(
        epsilon=epsilon, step_size=size, steps=plan.attack_steps, start=start, objectives=objectives
    )
