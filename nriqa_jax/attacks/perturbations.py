"""Perturbation sets: where an attack may go, as ``init``, ``project``, ``render`` and ``used``.

Here ``theta`` is the additive change itself, of the shape of the images. The pixel range is enforced by ``project``
alone: `render` does not clip, since a clip inside the loss loses gradients at saturated pixels. A radius is one number
for all images, or one per image.
"""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from nriqa_jax.types import Images, Keys, Perturbation

Delta = Float[Array, "batch height width 3"]
Radius = Float[Array, ""] | Float[Array, " batch"] | float
_STEP_BITS = 16  # of the number of steps back


def linf(epsilon: Radius, *, random_start: bool = False) -> Perturbation:
    """No pixel value changes by more than ``epsilon``.

    Args:
      epsilon: radius, in units of the pixel range [0, 1].
      random_start: start uniformly in the ball instead of at the clean image.
    """
    start = Partial(_uniform_start, epsilon) if random_start else Partial(_zero_start)
    return Perturbation(start, Partial(_project_linf, epsilon), Partial(_add), Partial(_used_linf, epsilon))


def l2(epsilon: Radius, *, random_start: bool = False) -> Perturbation:
    """The Euclidean norm of the change, over all pixels of an image, is at most ``epsilon``.

    The projection scales into the ball, then clips to the pixel range, which only shortens the change: the result is
    feasible, though not always the nearest feasible point.

    Args:
      epsilon: radius, in units of the pixel range [0, 1].
      random_start: start in a random direction, at a uniformly drawn fraction of the radius.
    """
    start = Partial(_random_direction_start, epsilon) if random_start else Partial(_zero_start)
    return Perturbation(start, Partial(_project_l2, epsilon), Partial(_add), Partial(_used_l2, epsilon))


def rmse(epsilon: Radius, shrink: float = 0.0005) -> Perturbation:
    """The root of the mean squared change of an image is at most ``epsilon`` (MADC, Wang & Simoncelli 2008).

    The projection takes steps of one size for all changed pixels, as the published attack does, so that small changes
    vanish and large ones stay; steps are few where attack steps are small.

    Args:
      epsilon: radius, in units of the pixel range [0, 1].
      shrink: size of a step back, in the same units; at least 1/65536.
    """
    return Perturbation(
        Partial(_zero_start), Partial(_project_rmse, epsilon, shrink), Partial(_add), Partial(_used_rmse, epsilon)
    )


def linf_by_steps(epsilon: Radius, shrink: float = 0.001) -> Perturbation:
    """The L-infinity ball, with a projection that steps back until inside it (MADC of NIC-RobustBench).

    Values that are too far go back by as many steps as it takes, each on its own, and so end up to a step inside.

    Args:
      epsilon: radius, in units of the pixel range [0, 1].
      shrink: size of a step back, in the same units.
    """
    return linf(epsilon)._replace(project=Partial(_step_back_into_linf, epsilon, shrink))


def anywhere() -> Perturbation:
    """Any image: only the pixel range bounds the change. For attacks whose penalty keeps it small."""
    return Perturbation(Partial(_zero_start), Partial(_project_range), Partial(_add), Partial(_used_unbounded))


def within(epsilon: Radius | None) -> Perturbation:
    """The L-infinity ball, or any image where there is no radius."""
    return anywhere() if epsilon is None else linf(epsilon)


def starting_at(perturbation: Perturbation, versions: Images) -> Perturbation:
    """The same set of additive changes, entered at versions of the images that an earlier attack found."""
    return perturbation._replace(init=Partial(_given_start, versions))


def image_norm(delta: Delta) -> Float[Array, "batch 1 1 1"]:
    """Euclidean norm of each image of a batch, kept broadcastable."""
    return jnp.sqrt(jnp.sum(delta**2, axis=(1, 2, 3), keepdims=True))


def per_image(value: Radius) -> Float[Array, "#batch 1 1 1"]:
    """One number for all images, or one per image, broadcastable against images."""
    return jnp.reshape(value, (-1, 1, 1, 1))


def root_mean_square(delta: Delta) -> Float[Array, " batch"]:
    """Root of the mean squared change of each image."""
    return jnp.sqrt(jnp.mean(delta**2, axis=(1, 2, 3)))


def _zero_start(keys: Keys, images: Images) -> Delta:
    del keys
    return jnp.zeros_like(images)


def _given_start(versions: Images, keys: Keys, images: Images) -> Delta:
    del keys
    return versions - images


def _uniform_start(epsilon: Radius, keys: Keys, images: Images) -> Delta:
    draw = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:], images.dtype, -1.0, 1.0))
    return per_image(epsilon) * draw(keys)


def _random_direction_start(epsilon: Radius, keys: Keys, images: Images) -> Delta:
    def draw(key: Array) -> tuple[Array, Array]:
        direction, radius = jax.random.split(key)
        shape = images.shape[1:]
        return jax.random.normal(direction, shape, images.dtype), jax.random.uniform(radius, (1, 1, 1), images.dtype)

    direction, fraction = jax.vmap(draw)(keys)
    return per_image(epsilon) * fraction * direction / image_norm(direction)


def _project_linf(epsilon: Radius, theta: Delta, images: Images) -> Delta:
    radius = per_image(epsilon)
    return jnp.clip(theta, jnp.maximum(-radius, -images), jnp.minimum(radius, 1.0 - images))


def _project_l2(epsilon: Radius, theta: Delta, images: Images) -> Delta:
    theta = theta * jnp.minimum(1.0, per_image(epsilon) / jnp.maximum(image_norm(theta), 1e-12))
    return _project_range(theta, images)


def _project_rmse(epsilon: Radius, shrink: Radius, theta: Delta, images: Images) -> Delta:
    radius = jnp.reshape(epsilon, -1)

    def halve(round: Int[Array, ""], bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        few, enough = bounds
        middle = jnp.where(round == 0, 0, (few + enough) // 2)  # what is inside already stays
        inside = root_mean_square(_after_steps_back(middle, shrink, theta, images)) <= radius
        return jnp.where(inside, few, middle + 1), jnp.where(inside, middle, enough)

    # A loop of fixed length, as one that ends when the last image does would make devices wait for each other.
    none = jnp.zeros(len(theta), jnp.int32)
    most = none + jnp.ceil(1 / shrink).astype(jnp.int32) + 1  # after the first step, changes are at most 1
    _, steps = jax.lax.fori_loop(0, 1 + _STEP_BITS, halve, (none, most))
    theta = _after_steps_back(steps, shrink, theta, images)
    # Changes below one step swing around 0 for ever: within a radius that small, they are scaled.
    return _project_range(theta * per_image(jnp.minimum(1.0, radius / _positive(root_mean_square(theta)))), images)


def _after_steps_back(steps: Int[Array, " batch"], shrink: Radius, theta: Delta, images: Images) -> Delta:
    """Steps toward 0 that pass it in the end, and then swing between its two sides, within the pixel range."""

    def step(theta: Delta) -> Delta:
        return _project_range(theta - shrink * jnp.sign(theta), images)

    first = step(theta)  # which may have come from outside the pixel range
    steps = steps[:, None, None, None]
    straight = jnp.minimum(steps - 1, jnp.floor(jnp.abs(first) / shrink))
    before = first - straight * shrink * jnp.sign(first)
    past, left = step(before), steps - 1 - straight
    after = jnp.where(left == 0, before, jnp.where(left % 2 == 1, past, step(past)))
    return jnp.where(steps == 0, theta, after)


def _step_back_into_linf(epsilon: Radius, shrink: Radius, theta: Delta, images: Images) -> Delta:
    def back(steps: Array, theta: Delta) -> Delta:
        return theta - steps * shrink * jnp.sign(theta)

    def excess(theta: Delta) -> Delta:
        return jnp.maximum(jnp.abs(theta) - per_image(epsilon), 0.0)

    theta = _project_range(back(excess(theta) > 0, theta), images)  # later steps stay in the pixel range
    return _project_linf(epsilon, back(jnp.ceil(excess(theta) / shrink), theta), images)


def _positive(norms: Float[Array, " batch"]) -> Float[Array, " batch"]:
    return jnp.maximum(norms, 1e-12)


def _project_range(theta: Delta, images: Images) -> Delta:
    return jnp.clip(theta, -images, 1.0 - images)


def _add(theta: Delta, images: Images) -> Images:
    return images + theta


def _used_linf(epsilon: Radius, theta: Delta) -> Float[Array, " batch"]:
    return jnp.max(jnp.abs(theta), axis=(1, 2, 3)) / epsilon


def _used_l2(epsilon: Radius, theta: Delta) -> Float[Array, " batch"]:
    return image_norm(theta)[:, 0, 0, 0] / epsilon


def _used_rmse(epsilon: Radius, theta: Delta) -> Float[Array, " batch"]:
    return root_mean_square(theta) / epsilon


def _used_unbounded(theta: Delta) -> Float[Array, " batch"]:
    return jnp.ones(len(theta))
