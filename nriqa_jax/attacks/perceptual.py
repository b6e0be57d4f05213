"""Perceptual attacks: a change of score is bought with a visible distance, at a price that is to be chosen.

Distances are callables ``(attacked, images) -> [batch]``, differentiable and 0 for equal images; make those that have
weights pytrees. Objectives should be in units of the score range (`nriqa_jax.attacks.objectives.per_range`), or a price
means something else for every model. A published price of the *score* is one over that of the distance: no step but
those of Adam depends on the scale of the loss. The paper tries 32 prices, its code 33 with 0, and people choose the
largest change that they cannot see; `nriqa_jax.attacks.sweep` runs many prices at once.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from nriqa_jax.attacks import update_rules
from nriqa_jax.attacks.gradient import GradientAttack
from nriqa_jax.attacks.perturbations import Delta, Radius, within
from nriqa_jax.metrics import fidelity
from nriqa_jax.types import Images, Keys, Losses, Objective, Penalty, Perturbation, Scores, Theta

Distance = Callable[[Images, Images], Float[Array, " batch"]]
Descent = Callable[[Radius], optax.GradientTransformation]


def perceptual_linf(
    objective: Objective,
    *,
    step_size: Radius = 1e-3,
    weight: Radius = 1.0,
    steps: int = 200,
    epsilon: Radius | None = None,
) -> GradientAttack:
    """Change of score against the largest change of a pixel, by sign steps (Zhang et al., NeurIPS 2022).

    Args:
      objective: what to minimise, in units of the score range.
      step_size: change of each pixel value by a step, in units of the pixel range.
      weight: price of a largest change of 1, the pixel range.
      steps: number of steps.
      epsilon: largest change of a pixel value; none by default.
    """
    return perceptual(
        objective,
        Partial(chebyshev),
        weight=weight,
        step_size=step_size,
        steps=steps,
        descent=update_rules.sign_descent,
        epsilon=epsilon,
    )


def perceptual_ssim(
    objective: Objective,
    *,
    step_size: Radius = 1e-3,
    weight: Radius = 1.0,
    steps: int = 200,
    epsilon: Radius | None = None,
) -> GradientAttack:
    """Change of score against structural similarity, by steps along the unit gradient (Zhang et al., NeurIPS 2022).

    Args:
      objective: what to minimise, in units of the score range.
      step_size: Euclidean length of a step over all pixels of an image, in units of the pixel range.
      weight: price of a loss of 1 of SSIM.
      steps: number of steps.
      epsilon: largest change of a pixel value; none by default.
    """
    return perceptual(
        objective, Partial(dissimilarity), weight=weight, step_size=step_size, steps=steps, epsilon=epsilon
    )


def perceptual(
    objective: Objective,
    distance: Distance,
    *,
    step_size: Radius = 1e-3,
    weight: Radius = 1.0,
    steps: int = 200,
    descent: Descent = update_rules.unit_l2_descent,
    epsilon: Radius | None = None,
) -> GradientAttack:
    """Change of score against any distance, from a start one grey level off (Zhang et al., NeurIPS 2022).

    The paper's objective is `squared_change`: the start decides the direction.

    Args:
      objective: what to minimise, in units of the score range.
      distance: ``(attacked, images) -> [batch]``.
      weight: price of the distance.
      step_size: what ``descent`` makes of it.
      steps: number of steps.
      descent: from a step size to the rule of the steps; the paper's is `unit_l2_descent`, or `sign_descent` for
        `chebyshev`.
      epsilon: largest change of a pixel value; none by default.
    """
    noisy = _from_noise(-1, 2, epsilon)
    return GradientAttack(objective, noisy, Partial(descent, step_size), steps, penalty=_price(weight, distance))


def perceptual_code(
    objective: Objective,
    distance: Distance,
    *,
    step_size: Radius = 0.005,
    weight: Radius = 1.0,
    steps: int = 200,
    epsilon: Radius | None = None,
) -> GradientAttack:
    """Perceptual attack as its released code runs: sign steps for every distance, a start that only darkens (2022).

    The code makes its Adam anew at every step, and the first step of Adam is the sign of the gradient. Its prices are
    those of fidelity, as here. Its DISTS has the wrong sign and no gradient, and its largest change no effect; give a
    weight of 0 for what they amount to.

    Args:
      objective: what to minimise, in units of the score range.
      distance: ``(attacked, images) -> [batch]``.
      weight: price of the distance.
      step_size: change of each pixel value by a step, in units of the pixel range.
      steps: number of steps.
      epsilon: largest change of a pixel value; none by default.
    """
    noisy, rule = _from_noise(-1, 1, epsilon), Partial(update_rules.sign_descent, step_size)
    return GradientAttack(objective, noisy, rule, steps, penalty=_price(weight, distance))


def perceptual_msu(
    objective: Objective,
    distance: Distance,
    *,
    step_size: Radius = 0.005,
    weight: Radius = 1.0,
    steps: int = 10,
    epsilon: Radius | None = None,
) -> GradientAttack:
    """Perceptual attack by few steps of Adam from the clean image, as in the MSU benchmark (after Zhang et al., 2022).

    Args:
      objective: what to minimise, in units of the score range.
      distance: ``(attacked, images) -> [batch]``; DISTS in the benchmark.
      step_size: of Adam, in units of the pixel range.
      weight: price of the distance.
      steps: number of steps.
      epsilon: largest change of a pixel value; none by default.
    """
    rule = Partial(update_rules.adam_descent, step_size)
    return GradientAttack(objective, within(epsilon), rule, steps, penalty=_price(weight, distance))


def chebyshev(attacked: Images, images: Images) -> Float[Array, " batch"]:
    """Largest change of a pixel value; its gradient is shared by all values that change as much, and 0 at no change."""
    change = attacked - images
    return jnp.max(change * jnp.sign(change), axis=(1, 2, 3))


def dissimilarity(attacked: Images, images: Images) -> Float[Array, " batch"]:
    """One minus the structural similarity; images of 11 x 11 pixels or more."""
    return 1.0 - fidelity.ssim(attacked, images)


def squared_change(clean: Scores) -> Objective:
    """Move each score away from that of its clean image, up or down: minus the squared change (Zhang et al., 2022)."""
    return Partial(_minus_squared_change, clean)


def _price(weight: Radius, distance: Distance) -> Penalty:
    plain = jax.tree_util.treedef_is_leaf(jax.tree.structure(distance))  # a function, no data of a compiled attack
    return Partial(_priced, weight, Partial(distance) if plain else distance)


def _priced(weight: Radius, distance: Distance, theta: Theta, attacked: Images, images: Images) -> Losses:
    del theta
    return weight * distance(attacked, images)


def _minus_squared_change(clean: Scores, scores: Scores) -> Losses:
    return -((scores - clean) ** 2)


def _from_noise(low: int, high: int, epsilon: Radius | None) -> Perturbation:
    """Changes that start as whole grey levels, from ``low`` up to below ``high``."""
    return within(epsilon)._replace(init=Partial(_level_noise, jnp.array([low, high])))


def _level_noise(bounds: Int[Array, " 2"], keys: Keys, images: Images) -> Delta:
    """Whole grey levels, uniformly from the first bound up to below the second."""
    draw = jax.vmap(lambda key: jax.random.randint(key, images.shape[1:], bounds[0], bounds[1]))
    return draw(keys) / 255.0
