"""MetaIQA (Zhu et al., CVPR 2020): a ResNet-18, pre-trained by meta-learning over kinds of distortion."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from nriqa_jax.layers import BatchNorm, Dense
from nriqa_jax.models import cards, protocols
from nriqa_jax.models.heads import Regression
from nriqa_jax.models.model import Model, Preprocess
from nriqa_jax.models.resnet import resnet18
from nriqa_jax.types import Scores

_SIDE = 224
_SPREAD = 0.01  # keeps random weights from saturating the sigmoid


class MetaIQA(nn.Module):
    """The network on normalised RGB views of any size.

    Attributes:
      width: of the ResNet-18 trunk.
      classes: outputs of its classifier, which are features here.
      hidden: widths of the two hidden layers.
    """

    width: int = 64
    classes: int = 1000
    hidden: tuple[int, int] = (1024, 512)

    @nn.compact
    def __call__(self, views: Float[Array, "n height width 3"]) -> Scores:
        """One score per view, in (0, 1)."""
        features = resnet18("resnet_layer", self.width)(views)[-1]
        x = Dense(self.classes, name="fc")(jnp.mean(features, axis=(1, 2)))
        for index, width in enumerate(self.hidden, start=1):
            x = BatchNorm(name=f"bn{index}")(Dense(width, name=f"fc{index}")(x))
            x = PReLU(name=f"relu{index}")(x)
        return nn.sigmoid(Regression(spread=_SPREAD, name="fc3")(x))


class PReLU(nn.Module):
    """ReLU with one learnt slope for negative values (He et al., ICCV 2015)."""

    @nn.compact
    def __call__(self, x: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """Apply the function; the slope counts at zero."""
        slope = self.param("slope", nn.initializers.constant(0.25), (1,))
        return jnp.where(x > 0, x, slope * x)


PUBLISHED = Preprocess(
    name="published",
    version=1,
    views=partial(protocols.resized, statistics=protocols.IMAGENET, height=_SIDE, width=_SIDE),
    min_side=1,
    description="the image squashed to 224x224 (bilinear, without antialias), as pyiqa does it, too",
)
MSU = protocols.native("msu", protocols.IMAGENET, "the whole image in its own size, as the MSU benchmarks feed it")


def metaiqa() -> Model:
    """MetaIQA; scores 0..1, higher is better."""
    return Model(
        name="metaiqa",
        card=cards.METAIQA,
        network=MetaIQA(),
        preprocess=PUBLISHED,
        protocols=(PUBLISHED, MSU),
        view_shape=(_SIDE, _SIDE, 3),
    )
