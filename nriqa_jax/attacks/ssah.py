"""SSAH: changes that are pushed out of the low frequencies of an image."""

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from nriqa_jax.attacks import update_rules
from nriqa_jax.attacks.gradient import GradientAttack
from nriqa_jax.attacks.perturbations import Radius, within
from nriqa_jax.types import Images, Losses, Objective, Theta
from nriqa_jax.windows import repeat_last


def ssah(
    objective: Objective,
    *,
    step_size: Radius = 1e-3,
    weight: Radius = 0.1,
    steps: int = 10,
    epsilon: Radius | None = None,
) -> GradientAttack:
    """Adam with a penalty on changes of low frequencies, as in the MSU benchmark (after Luo et al., CVPR 2022).

    The paper pushes features of a classifier apart; here it is any objective. The penalty is a sum over pixels and
    so weighs more on larger images.

    Args:
      objective: what to minimise, in units of the score range (`nriqa_jax.attacks.objectives.per_range`): it is
        weighed against the penalty, and Adam has an ``eps``.
      step_size: of Adam, in units of the pixel range.
      weight: of the penalty.
      steps: number of steps.
      epsilon: largest change of a pixel value; none by default.
    """
    rule = Partial(update_rules.adam_descent, step_size)
    return GradientAttack(objective, within(epsilon), rule, steps, penalty=Partial(_low_frequency_change, weight))


def low_frequencies(images: Images) -> Images:
    """The lowest band of the Haar wavelet transform, back at the size of the image: means of blocks of 2x2 pixels.

    The last row or column of an odd size is repeated to fill its blocks.
    """
    batch, height, width, channels = images.shape
    means = _block_means(images)
    rows, columns = means.shape[1:3]
    blocks = jnp.broadcast_to(means[:, :, None, :, None], (batch, rows, 2, columns, 2, channels))
    return blocks.reshape(batch, 2 * rows, 2 * columns, channels)[:, :height, :width]


def _low_frequency_change(weight: Radius, theta: Theta, attacked: Images, images: Images) -> Losses:
    del theta
    change = low_frequencies(attacked) - low_frequencies(images)
    return weight * jnp.sum(0.5 * change**2, axis=(1, 2, 3))  # smooth L1, whose linear part starts at 1


def _block_means(images: Images) -> Float[Array, "batch half_height half_width 3"]:
    batch, height, width, channels = images.shape
    images = repeat_last(repeat_last(images, 1, height % 2), 2, width % 2)
    return jnp.mean(images.reshape(batch, -(-height // 2), 2, -(-width // 2), 2, channels), axis=(2, 4))
