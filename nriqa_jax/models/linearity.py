"""LinearityIQA (Li et al., ACM MM 2020): a wide ResNet read at two depths, trained with the norm-in-norm loss.

The loss ignores scale and shift, so a checkpoint carries the line from the output of each head to the scale of MOS.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from nriqa_jax.layers import BatchNorm, Dense, Features, relu
from nriqa_jax.models import cards, protocols
from nriqa_jax.models.card import Card
from nriqa_jax.models.model import Model, Preprocess, Views
from nriqa_jax.models.resnet import ResNet, resnet18, resnet34, resnet50, resnext101
from nriqa_jax.resize import resize_pil
from nriqa_jax.types import Images, Scores

_HEIGHT, _WIDTH = 498, 664


class LinearityIQA(nn.Module):
    """The network on normalised RGB views.

    Attributes:
      trunk: builds the ResNet; its last two layers are read.
      hidden: outputs of the three linear layers behind each of them.
      levels: of the pyramids that pool them; 1 is the mean over the map.
    """

    trunk: Callable[..., ResNet] = resnext101
    hidden: tuple[int, ...] = (1024, 256, 64)
    levels: tuple[int, int] = (1, 1)

    def __call__(self, views: Float[Array, "n height width 3"]) -> Scores:
        """One score per view."""
        return self.heads(views)[:, 0]

    @nn.compact
    def heads(self, views: Float[Array, "n height width 3"]) -> Float[Array, "n 3"]:
        """Scores of the head that sees both layers, of that of the last but one, and of that of the last."""
        maps = self.trunk(name="features")(views)[-2:]
        pooled = [pyramid(x, levels) for x, levels in zip(maps, self.levels)]
        f6, f7 = (reduced(x, self.hidden, name) for x, name in zip(pooled, ("dr6", "dr7")))
        inputs = {"regression": jnp.concatenate([f6, f7], axis=-1), "regr6": f6, "regr7": f7}
        q = jnp.concatenate([Dense(1, name=name)(x) for name, x in inputs.items()], axis=-1)
        k = self.variable("calibration", "k", jnp.ones, (3,)).value
        b = self.variable("calibration", "b", jnp.zeros, (3,)).value
        return k * q + b


def pyramid(x: Features, levels: int) -> Float[Array, "batch features"]:
    """Means over ever smaller windows, channel by channel as PyTorch flattens them.

    Level ``p`` has windows of ``size // p``, side by side from the top left; there are more than ``p`` of them along a
    side that ``p`` does not divide, if they fit.
    """
    batch, *sides, channels = x.shape
    parts = []
    for level in range(1, levels + 1):
        height, width = (side // level for side in sides)
        rows, columns = sides[0] // height, sides[1] // width
        tiles = x[:, : rows * height, : columns * width].reshape(batch, rows, height, columns, width, channels)
        parts.append(jnp.moveaxis(jnp.mean(tiles, axis=(2, 4)), -1, 1).reshape(batch, -1))
    return jnp.concatenate(parts, axis=-1)


def reduced(x: Float[Array, "n features"], hidden: tuple[int, ...], name: str) -> Float[Array, "n out"]:
    """Linear layers with batch norms and, as published, no activation but the last. Call inside a compact module."""
    for index, width in enumerate(hidden):
        x = Dense(width, name=f"{name}_{2 * index}")(x)
        x = BatchNorm(name=f"{name}_{2 * index + 1}")(x)
    return relu(x)


def _published_views(images: Images) -> Views:
    return protocols.whole(resize_pil(images, _HEIGHT, _WIDTH), protocols.IMAGENET)


PUBLISHED = Preprocess(
    name="published",
    version=1,
    views=_published_views,
    min_side=1,
    description=f"the image squashed to {_HEIGHT} rows and {_WIDTH} columns as by Pillow (bilinear), as the authors' "
    "--resize does",
)
MSU = protocols.native("msu", protocols.IMAGENET, "the whole image at its own size, as MSU's benchmark scores it")


def _model(name: str, card: Card, trunk: Callable[..., ResNet]) -> Model:
    return Model(
        name=name,
        card=card,
        network=LinearityIQA(trunk),
        preprocess=PUBLISHED,
        protocols=(PUBLISHED, MSU),
        view_shape=(224, 224, 3),
    )


def linearity() -> Model:
    """LinearityIQA as released, with a ResNeXt-101 32x8d; scores 0..100, higher is better."""
    return _model("linearity", cards.LINEARITY, resnext101)


def linearity_resnet18() -> Model:
    """LinearityIQA with a ResNet-18."""
    return _model("linearity_resnet18", cards.LINEARITY_RESNET18, resnet18)


def linearity_resnet34() -> Model:
    """LinearityIQA with a ResNet-34."""
    return _model("linearity_resnet34", cards.LINEARITY_RESNET34, resnet34)


def linearity_resnet50() -> Model:
    """LinearityIQA with a ResNet-50."""
    return _model("linearity_resnet50", cards.LINEARITY_RESNET50, resnet50)
