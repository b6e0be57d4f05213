"""StAdv: pixels that move a little instead of changing their colours (Xiao et al., ICLR 2018).

Here ``theta`` is a flow: how many pixels down and to the right of its place each pixel is read. Every pixel of the
result is a weighted mean of four pixels of the image, so that nothing leaves the pixel range. The score loss, its
weight against the roughness of the flow and the three L-BFGS steps are those of a published benchmark on quality
models, for a score range of length 1: give objectives in units of the range, from `objectives.per_range`.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from nriqa_jax.attacks import update_rules
from nriqa_jax.attacks.gradient import GradientAttack
from nriqa_jax.attacks.lbfgs import lbfgs_descent
from nriqa_jax.attacks.perturbations import Radius, per_image
from nriqa_jax.types import Images, Keys, Losses, Objective, Perturbation, Scores, Theta

Flow = Float[Array, "batch height width 2"]

_PER_NEIGHBOUR = 1e-8  # constant in the published roughness


def stadv(
    objective: Objective,
    *,
    step_size: Radius = 2.5,
    steps: int = 3,
    smoothness: Radius = 1e-5,
    offset: Radius = 1.5,
    ceiling: Radius = 0.0,
    epsilon: Radius | None = None,
) -> GradientAttack:
    """A smooth flow of pixels instead of new colours, by L-BFGS (StAdv, Xiao et al., ICLR 2018).

    Args:
      objective: what to minimise, in units of the score range.
      step_size: of the L-BFGS steps; 1 is a full quasi-Newton step.
      steps: number of steps; curvature comes from the last two.
      smoothness: weight of the roughness of the flow.
      offset: of the score loss, see `reciprocal`.
      ceiling: of the score loss, see `reciprocal`.
      epsilon: L-infinity radius that colours may change by, if they have one.
    """
    rule = Partial(lbfgs_descent, step_size)
    loss, set_ = reciprocal(objective, offset, ceiling), limited(flows(), epsilon)
    return GradientAttack(loss, set_, rule, steps, penalty=Partial(_weighted_roughness, smoothness))


def stadv_adam(
    objective: Objective,
    *,
    step_size: Radius = 0.1,
    steps: int = 10,
    smoothness: Radius = 1e-5,
    offset: Radius = 1.5,
    ceiling: Radius = 0.0,
    epsilon: Radius | None = None,
) -> GradientAttack:
    """A smooth flow of pixels instead of new colours, by Adam (flow and loss of StAdv, Xiao et al., ICLR 2018).

    Args:
      objective: what to minimise, in units of the score range.
      step_size: of Adam, in pixels; a pixel moves by about this much in a step.
      steps: number of steps.
      smoothness: weight of the roughness of the flow.
      offset: of the score loss, see `reciprocal`.
      ceiling: of the score loss, see `reciprocal`.
      epsilon: L-infinity radius that colours may change by, if they have one.
    """
    rule = Partial(update_rules.adam_descent, step_size)
    loss, set_ = reciprocal(objective, offset, ceiling), limited(flows(), epsilon)
    return GradientAttack(loss, set_, rule, steps, penalty=Partial(_weighted_roughness, smoothness))


def reciprocal(objective: Objective, offset: Radius = 1.5, ceiling: Radius = 0.0) -> Objective:
    """The published score loss ``50 t / (f + t)``, for any objective: steep where there is far to go, then flat.

    Here ``f`` is ``ceiling - objective(scores)`` and ``t`` is ``offset``. With an objective in units of the range R,
    ``-score / R`` to raise scores, the defaults give the published loss with ``t = 1.5 R``. For models where lower is
    better it is published with ``R - score`` for the score and ``t = 0.1 R``: offset 0.1, ceiling 1 and the objective
    ``score / R``. The pole at ``f = -t`` lies outside of the range then; since objectives may have other units, the
    loss continues as its tangent from ``f = -t / 2`` on: it falls with any objective.

    Args:
      objective: what the loss grows with.
      offset: t > 0, in the unit of the objective.
      ceiling: value of the objective at which f is 0.
    """
    return Partial(_reciprocal, objective, offset, ceiling)


def flows() -> Perturbation:
    """Images whose pixels are read elsewhere, starting at no flow; only a penalty bounds it."""
    return Perturbation(Partial(_no_flow), Partial(_as_it_is), Partial(sample), Partial(_used_unbounded))


def limited(perturbation: Perturbation, epsilon: Radius | None) -> Perturbation:
    """The same changes, cut off where a pixel value would change by more than ``epsilon``; None cuts nothing.

    For sets without a projection onto an L-infinity ball. Where a change is cut off, more of it has no effect, and its
    gradient is 0. A value between that of the image and one in the pixel range stays in that range.
    """
    if epsilon is None:
        return perturbation
    return perturbation._replace(render=Partial(_cut_off, perturbation.render, epsilon))


def sample(flow: Flow, images: Images) -> Images:
    """Each pixel from where the flow points to, bilinearly; beyond the border from the border."""
    height, width = images.shape[1:3]
    top, bottom, down = _neighbours(flow[..., 0], jnp.arange(height)[:, None], height)
    left, right, across = _neighbours(flow[..., 1], jnp.arange(width)[None, :], width)
    at = jax.vmap(lambda image, row, column: image[row, column])
    above = (1.0 - across) * at(images, top, left) + across * at(images, top, right)
    below = (1.0 - across) * at(images, bottom, left) + across * at(images, bottom, right)
    return (1.0 - down) * above + down * below


def roughness(flow: Flow) -> Losses:
    """Sum of the squared differences of the flow at diagonal neighbours; outside of the image there is no flow."""
    height, width = flow.shape[1:3]
    padded = jnp.pad(flow, ((0, 0), (1, 1), (1, 1), (0, 0)))
    neighbours = (padded[:, y : y + height, x : x + width] for y, x in product((0, 2), (0, 2)))
    squares = sum((flow - neighbour) ** 2 for neighbour in neighbours)
    return jnp.sum(squares, axis=(1, 2, 3)) + 4 * height * width * _PER_NEIGHBOUR


def _neighbours(flow: Float[Array, "batch height width"], place: Int[Array, "_ _"], length: int) -> Iterator[Array]:
    """Along one axis: the positions of both pixels between which is read, and the share of the second.

    Differences from the own place are exact to more digits than positions are.
    """
    low, high = -place.astype(flow.dtype), (length - 1 - place).astype(flow.dtype)
    # The gradient of a closed interval, whose ends count as inside: pixels of the border start there.
    flow = jnp.where((flow >= low) & (flow <= high), flow, jnp.clip(jax.lax.stop_gradient(flow), low, high))
    first = jnp.clip(place + jnp.floor(flow).astype(jnp.int32), 0, max(length - 2, 0))
    yield first
    yield jnp.minimum(first + 1, length - 1)
    yield (flow - (first - place).astype(flow.dtype))[..., None]


def _weighted_roughness(weight: Radius, theta: Flow, attacked: Images, images: Images) -> Losses:
    del attacked, images
    return jnp.reshape(weight, -1) * roughness(theta)


def _reciprocal(objective: Objective, offset: Radius, ceiling: Radius, scores: Scores) -> Losses:
    x = ceiling - objective(scores) + offset
    nearest = 0.5 * offset
    return 50.0 * offset * jnp.where(x > nearest, 1.0 / jnp.maximum(x, nearest), (2.0 - x / nearest) / nearest)


def _no_flow(keys: Keys, images: Images) -> Flow:
    del keys
    return jnp.zeros((*images.shape[:3], 2), images.dtype)


def _as_it_is(theta: Theta, images: Images) -> Theta:
    del images
    return theta


def _used_unbounded(theta: Theta) -> Float[Array, " batch"]:
    return jnp.ones(len(jax.tree.leaves(theta)[0]))


def _cut_off(render: Any, epsilon: Radius, theta: Theta, images: Images) -> Images:
    radius = per_image(epsilon)
    return images + jnp.clip(render(theta, images) - images, -radius, radius)
