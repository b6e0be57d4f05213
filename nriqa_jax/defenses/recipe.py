"""What a training run is made of: the recipe, whose real-valued settings are data, and the state between two steps."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from nriqa_jax.defenses.adversaries import LossFn
from nriqa_jax.defenses.gradient_penalty import Method, finite_difference
from nriqa_jax.defenses.optimisers import Rule
from nriqa_jax.defenses.regimes import CleanTraining, Regime
from nriqa_jax.defenses.statistics import Mode, Variables, of_batch
from nriqa_jax.types import Images, Real

_CLEAN = CleanTraining()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientPenalty:
    """Gradient-norm regularisation of a training step; see `gradient_norm_penalty`.

    Attributes:
      weight: of the penalty in the loss; 1e-3 for HyperIQA as published. It must fall as views grow, since the square
        of an l1 norm does so too.
      step: of the finite differences, in units of what the gradient is taken by.
      norm: 1, 2 or ``math.inf``.
      method: a value of `METHODS`.
      squared: half the mean square, as published, or the mean norm.
      by_pixels: take gradients with respect to images in [0, 1] and not to normalised views, as published.
    """

    weight: Real
    step: Real = 1e-2
    norm: float | int = dataclasses.field(default=1, metadata={"static": True})
    method: Method = dataclasses.field(default=finite_difference, metadata={"static": True})
    squared: bool = dataclasses.field(default=True, metadata={"static": True})
    by_pixels: bool = dataclasses.field(default=False, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train. Everything that is not marked static is data.

    Attributes:
      loss: ``(scores, labels) -> number``, a pytree callable such as ``Partial(huber, delta=5.0)``.
      optimiser: makes the optax transformation; see ``nriqa_jax.defenses.optimisers``.
      penalty: gradient-norm regularisation.
      regime: what is trained on, see ``nriqa_jax.defenses.regimes``.
      ema_decay: decay of a moving average of the weights, which `TrainState.variables` then gives; none by default.
      free_epsilon: radius of "free" adversarial training, in units of the pixel range [0, 1], see `train_step`; none by
        default.
      statistics: static; what batch norm does, a `Mode` of ``nriqa_jax.defenses.statistics``.
      dtype: static; number format of the network's computation, by default that of the weights, which keep theirs, as
        do statistics and scores.
      remat: static; keep only the products of the forward pass for the backward pass, to save memory.
    """

    loss: LossFn
    optimiser: Rule
    penalty: GradientPenalty | None = None
    regime: Regime = _CLEAN
    ema_decay: Real | None = None
    free_epsilon: Real | None = None
    statistics: Mode = dataclasses.field(default=of_batch, metadata={"static": True})
    dtype: Any = dataclasses.field(default=None, metadata={"static": True})
    remat: bool = dataclasses.field(default=False, metadata={"static": True})


class TrainState(NamedTuple):
    """A training run between two steps.

    Attributes:
      params: weights.
      batch_stats: moving averages of batch norm; empty without batch norm.
      constants: other collections of variables, which training leaves alone.
      optimiser: state of the optax transformation.
      ema: moving average of the weights, if the recipe has one.
      delta: change of the images that "free" adversarial training goes on from; zeros before the first step.
      step: number of steps taken.
    """

    params: PyTree
    batch_stats: PyTree
    constants: PyTree
    optimiser: PyTree
    ema: PyTree | None
    delta: Images | None
    step: Int[Array, ""]

    def variables(self) -> Variables:
        """The model as it is now, with averaged weights where there are any."""
        return self.variables_with(self.params if self.ema is None else self.ema)

    def variables_with(self, params: PyTree) -> Variables:
        """The same with other weights."""
        return {"params": params, "batch_stats": self.batch_stats, **self.constants}


def init_state(recipe: Recipe, variables: Variables, images_shape: tuple[int, ...] | None = None) -> TrainState:
    """The state before the first step.

    Args:
      recipe: how training will go.
      variables: random or converted weights, not prepared ones. They are copied: steps may give their memory away.
      images_shape: of the batches, ``(batch, height, width, 3)``; "free" adversarial training needs it.

    Raises:
      ValueError: when it is needed and not given.
    """
    if recipe.free_epsilon is not None and images_shape is None:
        raise ValueError("free adversarial training carries a change of the images along; give images_shape")
    params, others = jax.tree.map(jnp.copy, (variables["params"], {**variables}))
    constants = {name: value for name, value in others.items() if name not in ("params", "batch_stats")}
    return TrainState(
        params=params,
        batch_stats=others.get("batch_stats", {}),
        constants=constants,
        optimiser=recipe.optimiser().init(params),
        ema=None if recipe.ema_decay is None else others["params"],
        delta=None if recipe.free_epsilon is None or images_shape is None else jnp.zeros(images_shape),
        step=jnp.zeros((), jnp.int32),
    )
