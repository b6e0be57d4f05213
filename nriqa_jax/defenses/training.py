"""Training quality models to be robust: one pure step that is all of the training, and what it consists of.

    recipe = Recipe(Partial(l1), Partial(adam, 2e-5, 5e-4), penalty=GradientPenalty(weight=1e-3))
    state = init_state(recipe, variables)
    step = jax.jit(partial(train_step, model), donate_argnums=1)
    state, metrics = step(recipe, state, Batch(images, labels), keys)

The step holds no state and no randomness of its own. Its real-valued settings are data: a sweep over weights compiles
once, and a schedule may change the learning rate from outside. On a mesh, with rows of the batch spread over devices
and the state on each of them, it is data-parallel with the results of one device: losses that couple images, and
statistics of batch norm, are those of the whole batch.
"""

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial
from jaxtyping import Array, Float, PyTree

from nriqa_jax.defenses.adversaries import Batch
from nriqa_jax.defenses.gradient_penalty import (
    METHODS,
    Passes,
    Slopes,
    central_difference,
    direction,
    double_backprop,
    finite_difference,
    gradient_norm_penalty,
    gradient_norms,
    mean_penalty,
)
from nriqa_jax.defenses.recipe import GradientPenalty, Recipe, TrainState, init_state
from nriqa_jax.defenses.statistics import Network, Variables
from nriqa_jax.memory import rematerialize
from nriqa_jax.types import Images, Keys, Scores

__all__ = [
    "METHODS",
    "Batch",
    "GradientPenalty",
    "Recipe",
    "TrainState",
    "gradient_norm_penalty",
    "gradient_norms",
    "init_state",
    "train_step",
]

Metrics = dict[str, Float[Array, ""]]


def train_step(
    network: Network, recipe: Recipe, state: TrainState, batch: Batch, keys: Keys
) -> tuple[TrainState, Metrics]:
    """One step of training.

    With `Recipe.free_epsilon` it is one of "free" adversarial training (Shafahi et al., NeurIPS 2019): the images are
    changed by ``state.delta``, and the same backward pass gives the gradients of the weights and of the images, along
    whose sign the change then goes on. Take several such steps (published: 4 to 10) on each batch.

    Args:
      network: what is trained; static under jit.
      recipe: how.
      state: before the step.
      batch: images in [0, 1], and labels.
      keys: one for each image.

    Returns:
      The state after the step, and numbers: ``loss`` (of the regime), ``penalty`` (without its weight), ``total`` (what
      was minimised), ``slope`` (mean norm of the scores' gradients, as estimated), ``gradient`` (norm of that of the
      weights, before clipping).

    Raises:
      ValueError: with `Recipe.free_epsilon`, for a state that was made without.
    """
    seen = _seen(network, recipe, state, batch, keys)

    def total(params: PyTree, images: Images) -> tuple[Float[Array, ""], tuple[Variables, Metrics]]:
        return _total(network, recipe, state.variables_with(params), seen._replace(images=images))

    if recipe.free_epsilon is None:
        slopes = jax.value_and_grad(total, has_aux=True)
        (_, (batch_stats, metrics)), grads = slopes(state.params, seen.images)
        return _updated(recipe, state, grads, batch_stats, metrics)
    if state.delta is None:
        raise ValueError("the state holds no change of the images; make it by the recipe of free adversarial training")
    images = jnp.clip(seen.images + state.delta, 0.0, 1.0)
    slopes = jax.value_and_grad(total, (0, 1), has_aux=True)
    (_, (batch_stats, metrics)), (grads, ascent) = slopes(state.params, images)
    delta = state.delta + recipe.free_epsilon * jnp.sign(ascent)
    state = state._replace(delta=jnp.clip(delta, -recipe.free_epsilon, recipe.free_epsilon))
    return _updated(recipe, state, grads, batch_stats, metrics)


def _seen(network: Network, recipe: Recipe, state: TrainState, batch: Batch, keys: Keys) -> Batch:
    """What the network sees of a batch; adversaries know it with its stored statistics, as it is used later."""
    variables = _laid_out(network, recipe, state.variables_with(state.params))

    def score_fn(images: Images) -> Scores:
        return network.apply_views(variables, network.views(images))

    return recipe.regime.extend(score_fn, recipe.loss, batch, keys)


def _total(
    network: Network, recipe: Recipe, variables: Variables, batch: Batch
) -> tuple[Float[Array, ""], tuple[Variables, Metrics]]:
    """What is minimised; the new batch statistics, and metrics."""
    passes = recipe.statistics(network, _laid_out(network, recipe, variables))
    if recipe.remat:
        passes = Passes(*(rematerialize(Partial(run)) for run in passes))
    found = _slopes(network, recipe, passes, batch.images)
    loss = total = recipe.regime.total(recipe.loss, found.scores, batch.labels)
    metrics = {"loss": loss}
    if recipe.penalty is not None:
        penalty = mean_penalty(found.slopes, squared=recipe.penalty.squared)
        total = loss + recipe.penalty.weight * penalty
        metrics |= {"penalty": penalty, "slope": jnp.mean(jnp.abs(found.slopes))}
    return total, (found.carry.stored, metrics | {"total": total})


def _slopes(network: Network, recipe: Recipe, passes: Passes, images: Images) -> Slopes:
    """The passes of a step: one on the clean batch, and what the penalty needs."""
    penalty, views = recipe.penalty, network.views
    if penalty is None:
        scores, carry = passes.alone(views(images))
        return Slopes(scores, jnp.zeros_like(scores), carry)
    if recipe.dtype == jnp.bfloat16 and penalty.method in (finite_difference, central_difference):
        raise ValueError("finite differences of scores drown in the rounding of bfloat16; give another method")
    if not penalty.by_pixels:
        return penalty.method(passes, views(images), direction(penalty.norm), penalty.step)
    by_pixels = Passes(
        lambda images: passes.alone(views(images)),
        lambda images: passes.first(views(images)),
        lambda images, carry: passes.further(views(images), carry),
    )
    return penalty.method(by_pixels, images, direction(penalty.norm), penalty.step)


def _updated(
    recipe: Recipe, state: TrainState, grads: PyTree, batch_stats: Variables, metrics: Metrics
) -> tuple[TrainState, Metrics]:
    updates, optimiser = recipe.optimiser().update(grads, state.optimiser, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if recipe.ema_decay is not None:
        ema = optax.incremental_update(params, ema, 1.0 - recipe.ema_decay)
    state = state._replace(params=params, batch_stats=batch_stats, optimiser=optimiser, ema=ema, step=state.step + 1)
    return state, metrics | {"gradient": jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(grads)))}


def _laid_out(network: Network, recipe: Recipe, variables: Variables) -> Variables:
    """Weights as the passes want them, in the number format to compute in; statistics keep theirs."""
    twice = recipe.penalty is not None and recipe.penalty.method is double_backprop
    variables = network.lay_out(variables, twice=twice)
    if recipe.dtype is None:
        return variables
    return {**variables, "params": jax.tree.map(lambda x: x.astype(recipe.dtype), variables["params"])}
