"""CNNIQA (Kang et al., CVPR 2014): a shallow network on locally normalised 32x32 grey patches."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nriqa_jax import image
from nriqa_jax.layers import Dense, conv2d, he_normal, relu
from nriqa_jax.models import cards
from nriqa_jax.models.model import Model, Preprocess, Views
from nriqa_jax.types import Images, Scores

_PATCH = 32


class CNNIQA(nn.Module):
    """The network on locally normalised grey patches."""

    @nn.compact
    def __call__(self, patches: Float[Array, "n 32 32 1"]) -> Scores:
        """One score per patch."""
        x = ExtremeResponses(50, 7, name="conv1")(patches)
        x = relu(Dense(800, name="fc1")(x))
        x = relu(Dense(800, name="fc2")(x))
        return Dense(1, name="fc3")(x)[:, 0]


class ExtremeResponses(nn.Module):
    """Convolution followed by the maximum and the minimum of each response map."""

    features: int
    window: int

    @nn.compact
    def __call__(self, patches: Float[Array, "n h w 1"]) -> Float[Array, "n twice_features"]:
        """Maxima of all maps, then minima."""
        kernel = self.param("kernel", he_normal, (self.window, self.window, 1, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        responses = _extreme_responses(patches, kernel) + bias
        return responses.reshape(len(responses), -1)


@jax.custom_jvp
def _extreme_responses(patches: Float[Array, "n h w 1"], kernel: Float[Array, "k k 1 c"]) -> Float[Array, "n 2 c"]:
    """Maxima and minima of the response maps.

    Only the windows that win carry a derivative, so it is taken through those windows alone, gathered again, without
    a pass over whole maps. The first of several equal windows wins, as in PyTorch.
    """
    maps = conv2d(patches, kernel)
    return jnp.stack([jnp.max(maps, axis=(1, 2)), jnp.min(maps, axis=(1, 2))], axis=1)


@_extreme_responses.defjvp
def _extreme_responses_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (patches, kernel), (d_patches, d_kernel) = primals, tangents
    maps = conv2d(*jax.lax.stop_gradient(primals))
    winners = [_first_extreme(maps, find) for find in (jnp.max, jnp.min)]
    rows, columns = (jnp.stack(positions, axis=1) for positions in zip(*winners))

    def respond(patches: Float[Array, "n h w 1"], kernel: Float[Array, "k k 1 c"]) -> Float[Array, "n 2 c"]:
        windows = _gather(patches[..., 0], rows, columns, len(kernel))
        return jnp.einsum("neohw,hwo->neo", windows, kernel[:, :, 0])

    tangent = respond(d_patches, kernel) + respond(patches, d_kernel)
    return _extreme_responses(patches, kernel), tangent


def _first_extreme(
    maps: Float[Array, "n h w c"], find: Callable[..., Array]
) -> tuple[Int[Array, "n c"], Int[Array, "n c"]]:
    """Row and column of the first maximum or minimum of each map, in one pass over the maps."""
    by_row = find(maps, axis=2)
    extreme = find(by_row, axis=1, keepdims=True)
    row = _first(by_row, extreme)
    line = jnp.take_along_axis(maps, row[:, None, None], axis=1)[:, 0]
    return row, _first(line, extreme)


def _first(values: Float[Array, "n m c"], wanted: Float[Array, "n 1 c"]) -> Int[Array, "n c"]:
    """First position of each wanted value; several times faster on CPUs than an argmax."""
    positions = jax.lax.broadcasted_iota(jnp.int32, values.shape, 1)
    return jnp.min(jnp.where(values == wanted, positions, values.shape[1] - 1), axis=1)


def _gather(
    x: Float[Array, "n h w"], rows: Int[Array, " n *m"], columns: Int[Array, " n *m"], size: int
) -> Float[Array, "n *m size size"]:
    """Square windows of each image at its own corners."""

    def windows(x: Float[Array, "h w"], rows: Int[Array, " k"], columns: Int[Array, " k"]) -> Float[Array, "k s s"]:
        return jax.vmap(lambda row, column: jax.lax.dynamic_slice(x, (row, column), (size, size)))(rows, columns)

    flat = jax.vmap(windows)(x, rows.reshape(len(x), -1), columns.reshape(len(x), -1))
    return flat.reshape(*rows.shape, size, size)


def _local_normalize(patches: Views) -> Views:
    """Subtract the local mean, divide by the local standard deviation plus one."""
    mean = image.box_mean(patches)
    variance = jnp.maximum(image.box_mean(patches**2) - mean**2, 0.0)
    positive = variance > 0.0  # the square root has no gradient at zero
    std = jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1.0)), 0.0)
    return (patches - mean) / (std + 1.0)


def _published_views(images: Images) -> Views:
    # The published loop stops one patch early on a side that 32 divides.
    rows, columns = (tuple(range(0, side - _PATCH, _PATCH)) for side in images.shape[1:3])
    return _local_normalize(image.grid_crops(image.luma_8bit(images), rows, columns, _PATCH))


def _grid_views(images: Images) -> Views:
    return _local_normalize(image.covering_crops(image.luma_8bit(images), _PATCH))


PUBLISHED = Preprocess(
    name="published",
    version=1,
    views=_published_views,
    min_side=_PATCH + 1,
    description="non-overlapping 32x32 patches from the top left, as in the PyTorch demo; the last rows and columns "
    "may be left out",
)
GRID = Preprocess(
    name="grid",
    version=1,
    views=_grid_views,
    min_side=_PATCH,
    description="fewest evenly spread 32x32 patches that cover every pixel",
)


def cnniqa() -> Model:
    """CNNIQA as trained on LIVE; the score is a DMOS, 0..100, lower is better."""
    return Model(
        name="cnniqa",
        card=cards.CNNIQA,
        network=CNNIQA(),
        preprocess=PUBLISHED,
        protocols=(PUBLISHED, GRID),
        view_shape=(_PATCH, _PATCH, 1),
    )
