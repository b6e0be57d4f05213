"""Attacks that carry over to other models: Nesterov steps, random views, variance tuning, ensembles of surrogates.

All are MI-FGSM with another gradient. Defaults are those of the common PyTorch implementation for images in [0, 1],
but for random views: they are drawn for each image instead of each batch, and scale both sides of the image.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from nriqa_jax.attacks import update_rules
from nriqa_jax.attacks.gradient import GradientAttack
from nriqa_jax.attacks.korhonen import Map, edge_energy
from nriqa_jax.attacks.perturbations import Delta, Radius, linf, per_image
from nriqa_jax.types import Images, Keys, Objective, ScoreFn, Scores

Number = float | Float[Array, ""]
Mask = Callable[[Images], Map]

EPSILON, STEP, STEPS = 8 / 255, 2 / 255, 10
_SMALLEST = 0.9  # side of a random view, as a share of the image's


class Placement(NamedTuple):
    """Where a view puts each image on its canvas: lengths and positions in pixels, rows and columns."""

    sizes: Int[Array, "batch 2"]
    corners: Int[Array, "batch 2"]


def nifgsm(
    objective: Objective, *, epsilon: Radius = EPSILON, step_size: Radius = STEP, steps: int = STEPS, decay: float = 1.0
) -> GradientAttack:
    """NI-FGSM: momentum, with the gradient at the point where it leads to (Lin et al., ICLR 2020)."""
    rule = Partial(update_rules.momentum_sign_descent, step_size, decay)
    look_ahead = Partial(_after_momentum, step_size, decay)
    return GradientAttack(objective, linf(epsilon), rule, steps, look_ahead=look_ahead)


def difgsm(
    objective: Objective, *, epsilon: Radius = EPSILON, step_size: Radius = STEP, steps: int = STEPS, decay: float = 0.0
) -> GradientAttack:
    """DI-FGSM: gradients through randomly shrunk and padded images (Xie et al., CVPR 2019)."""
    rule = Partial(update_rules.momentum_sign_descent, step_size, decay)
    return GradientAttack(objective, linf(epsilon), rule, steps, view=Partial(random_view))


def tifgsm(
    objective: Objective, *, epsilon: Radius = EPSILON, step_size: Radius = STEP, steps: int = STEPS, decay: float = 0.0
) -> GradientAttack:
    """TI-FGSM: DI-FGSM with gradients smoothed by a 15x15 Gaussian (Dong et al., CVPR 2019)."""
    rule = Partial(_smoothed_momentum_descent, step_size, decay)
    return GradientAttack(objective, linf(epsilon), rule, steps, view=Partial(random_view))


def vmifgsm(
    objective: Objective,
    *,
    epsilon: Radius = EPSILON,
    step_size: Radius = STEP,
    steps: int = STEPS,
    decay: float = 1.0,
    neighbours: int = 5,
    reach: float = 1.5,
) -> GradientAttack:
    """VMI-FGSM: gradients tuned by their variance around the last point (Wang & He, CVPR 2021).

    Args:
      objective: what to minimise.
      epsilon: L-infinity radius.
      step_size: of a step.
      steps: number of steps.
      decay: of the momentum.
      neighbours: random points around each iterate.
      reach: largest distance of a neighbour, in radii.
    """
    rule = Partial(_variance_tuned_descent, step_size, decay, reach, jnp.arange(neighbours), epsilon)
    return GradientAttack(objective, linf(epsilon), rule, steps, passes=1 + neighbours)


def random_view(images: Images, keys: Keys) -> Float[Array, "batch 1 height width 3"]:
    """Every other image as it is, the others shrunk to 90 % or more at a random place on a black canvas."""
    return place(images, jax.vmap(lambda key: _draw_placement(key, images.shape[1:3]))(keys))[:, None]


def place(images: Images, placement: Placement) -> Images:
    """Images resized bilinearly onto black canvases of their own size."""

    def one(image: Array, size: Array, corner: Array) -> Array:
        scale = size / jnp.array(image.shape[:2])
        return jax.image.scale_and_translate(
            image, image.shape, (0, 1), scale, corner.astype(scale.dtype), "linear", antialias=False
        )

    return jax.vmap(one)(images, *placement)


def smoothed(score_fn: ScoreFn, key: Array, samples: int = 8, sigma: float = 8 / 255) -> ScoreFn:
    """The mean score of noisy copies of an image: a smooth score function, for gradients that carry over.

    The noise is drawn once and is the same for every image of a size, so that scores are a function of the image.

    Args:
      score_fn: the model.
      key: of the noise.
      samples: number of noisy copies.
      sigma: standard deviation of the noise, in units of the pixel range.
    """
    return Partial(_mean_of_noisy, score_fn, key, jnp.arange(samples), sigma)


def signed_ensemble(score_fns: Sequence[ScoreFn], mask: Mask | None = None) -> ScoreFn:
    """The mean score of several models, whose gradient is the mean of the signs of theirs (SEGA, arXiv 2509.18546).

    Signs keep a model of steep scores from outvoting the others. With `smoothed` members and a mask it is built as
    the paper's attack: a signed ensemble of Gaussian-smoothed gradients, filtered so that changes are hard to see.

    Args:
      score_fns: the models; their scores must mean the same: see `aligned`.
      mask: pytree callable ``images -> weights`` of the pixels' gradients, such as `textured()`; none by default.
    """
    return Partial(_signed_mean, tuple(score_fns), mask)


def textured(share: Number = 0.5) -> Mask:
    """A mask that leaves a share of the pixels of each image, those of most local activity, and nothing of the others.

    Changes hide beside edges and in texture, and are seen in flat areas. This stands for SEGA's own filter, whose
    formula it does not claim to be; activity is that of Korhonen & You (QoEVMA 2022). Where an image is flat, all of it
    stays. An attack of several steps sees the mask of the image that it has changed so far.

    Args:
      share: of the pixels, in (0, 1]; of equally active ones all stay.
    """
    return Partial(_most_active, share)


def aligned(
    score_fn: ScoreFn, own: tuple[float, float], wanted: tuple[float, float], *, same_direction: bool = True
) -> ScoreFn:
    """The scores of one model in the range and the direction of another.

    Args:
      score_fn: the model.
      own: its score range.
      wanted: the range to map it to.
      same_direction: whether higher means better for both or for neither.
    """
    low, high = wanted if same_direction else wanted[::-1]
    scale = (high - low) / (own[1] - own[0])
    return Partial(_affine, score_fn, scale, low - scale * own[0])


def _affine(score_fn: ScoreFn, scale: Number, offset: Number, images: Images) -> Scores:
    return scale * score_fn(images) + offset


def _mean_of_noisy(score_fn: ScoreFn, key: Array, samples: Array, sigma: Number, images: Images) -> Scores:
    noise = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), images.shape[1:], images.dtype))(samples)
    noisy = images[:, None] + sigma * noise
    return jnp.mean(score_fn(noisy.reshape(-1, *images.shape[1:])).reshape(len(images), -1), axis=1)


def _most_active(share: Number, images: Images) -> Map:
    activity = edge_energy(images)
    least = jnp.quantile(activity, 1.0 - share, axis=(1, 2, 3), keepdims=True)
    return (activity >= least).astype(images.dtype)


def _signed_mean(score_fns: tuple[ScoreFn, ...], mask: Mask | None, images: Images) -> Scores:
    fixed, directions, scores = jax.lax.stop_gradient(images), jnp.zeros_like(images), jnp.zeros(len(images))
    for score_fn in score_fns:
        member, pull = jax.vjp(score_fn, fixed)
        gradient = jnp.nan_to_num(pull(jnp.ones_like(member))[0])
        scores, directions = scores + member, directions + jnp.sign(gradient)
    directions = directions if mask is None else directions * mask(fixed)
    along = jnp.sum(jax.lax.stop_gradient(directions) * (images - fixed), axis=(1, 2, 3))  # 0, but for its gradient
    return (jax.lax.stop_gradient(scores) + along) / len(score_fns)


def _after_momentum(step_size: Radius, decay: Number, theta: Delta, state: optax.OptState) -> Delta:
    return theta - decay * per_image(step_size) * optax.tree_utils.tree_get(state, "trace")


def _draw_placement(key: Array, sides: tuple[int, ...]) -> Placement:
    coin, *draws = jax.random.split(key, 5)
    sides_ = jnp.array(sides)
    smallest = (_SMALLEST * sides_).astype(jnp.int32)
    sizes = jnp.stack([jax.random.randint(k, (), low, side) for k, low, side in zip(draws, smallest, sides)])
    sizes = jnp.where(jax.random.bernoulli(coin), sizes, sides_)
    corners = jnp.stack([jax.random.randint(k, (), 0, room + 1) for k, room in zip(draws[2:], sides_ - sizes)])
    return Placement(sizes, corners)


def _smoothed_momentum_descent(step_size: Radius, decay: Number) -> optax.GradientTransformation:
    smooth = optax.stateless(lambda gradient, _: smooth_gradient(gradient))
    return optax.chain(smooth, update_rules.momentum_sign_descent(step_size, decay))


def smooth_gradient(gradient: Delta) -> Delta:
    """Convolve with the 15x15 Gaussian of TI-FGSM: its density at 15 points from -3 to 3 sigma; zero outside."""
    taps = np.exp(-(np.linspace(-3, 3, 15) ** 2) / 2)
    rows, columns = (_convolution(side, taps / taps.sum()).astype(gradient.dtype) for side in gradient.shape[1:3])
    return jnp.einsum("ij,kl,bjlc->bikc", rows, columns, gradient, precision="highest")


def _convolution(length: int, taps: np.ndarray) -> Float[np.ndarray, "{length} {length}"]:
    """A convolution of odd length along an axis, as a matrix."""
    half = len(taps) // 2
    return sum(tap * np.eye(length, k=offset - half) for offset, tap in enumerate(taps))


def _variance_tuned_descent(
    step_size: Radius, decay: Number, reach: Number, neighbours: Int[Array, " n"], epsilon: Radius
) -> optax.GradientTransformationExtraArgs:
    def update(
        grads: Delta, variance: Delta, theta: Delta, *, keys: Keys, gradient: Any, **_: Any
    ) -> tuple[Delta, Delta]:
        def near(neighbour: Array) -> Delta:
            return gradient(theta + reach * per_image(epsilon) * noise_around(theta, keys, neighbour))

        # One after the other: together they are slower on CPUs, and take as many times the memory.
        return grads + variance, jnp.mean(jax.lax.map(near, neighbours), axis=0) - grads

    tuned = optax.GradientTransformationExtraArgs(jnp.zeros_like, update)
    return optax.chain(tuned, update_rules.momentum_sign_descent(step_size, decay))


def noise_around(theta: Delta, keys: Keys, neighbour: Array) -> Delta:
    """Uniform noise in [-1, 1] for one of the neighbours of each image."""
    own = jax.vmap(jax.random.fold_in, (0, None))(keys, neighbour)
    return jax.vmap(lambda key: jax.random.uniform(key, theta.shape[1:], theta.dtype, -1.0, 1.0))(own)
