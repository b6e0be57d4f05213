"""LPIPS 0.1 (Zhang et al., CVPR 2018): weighted differences of the unit-length features of two images."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from nriqa_jax.image import normalize
from nriqa_jax.layers import Features
from nriqa_jax.models.alexnet import AlexNet
from nriqa_jax.models.distance import Distance
from nriqa_jax.models.vgg import VGG16
from nriqa_jax.types import Images, Scores

# Mean and standard deviation of the backbones' training images, for pixels in [-1, 1], to the published digits.
_SCALING = ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450))
_SLACK = 1e-10  # published; added to lengths of feature vectors
_CITATION = (
    "R. Zhang, P. Isola, A. A. Efros, E. Shechtman, O. Wang: The Unreasonable Effectiveness of Deep Features as a "
    "Perceptual Metric. CVPR 2018"
)


class LPIPS(nn.Module):
    """The distance with a trained weight for each feature.

    Attributes:
      net: backbone, from scaled images to several maps of features.
    """

    net: nn.Module

    @nn.compact
    def __call__(self, attacked: Images, images: Images) -> Scores:
        """The sum over the maps of the mean over positions of the weighted squared differences."""
        pairs = zip(*(self.net(normalize(2 * batch - 1, *_SCALING)) for batch in (attacked, images)), strict=True)
        distances = []
        for index, (x, y) in enumerate(pairs):
            channels = x.shape[-1]
            weights = self.param(f"lin{index}", nn.initializers.uniform(2.0 / channels), (channels,))
            distances.append(jnp.mean((_unit(x) - _unit(y)) ** 2 @ weights, axis=(1, 2)))
        return sum(distances[1:], distances[0])


def _unit(x: Features) -> Float[Array, "batch height width channels"]:
    """Feature vectors divided by their length.

    Where no feature responds, value and gradient are 0; the gradient of the published code is NaN there.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    squares = jnp.sum(x**2, axis=-1, keepdims=True)
    positive = squares > 0
    return jnp.where(positive, x / (jnp.sqrt(jnp.where(positive, squares, 1.0)) + _SLACK), 0.0)


def _lpips(name: str, net: nn.Module, min_side: int) -> Distance:
    return Distance(
        name=name,
        citation=_CITATION,
        network=LPIPS(net),
        min_side=min_side,
        code_licence="BSD-2-Clause",
        weights_licence="BSD-2-Clause (heads), not stated (backbone, trained on ImageNet)",
    )


def lpips_vgg() -> Distance:
    """LPIPS 0.1 on features of VGG-16."""
    return _lpips("lpips_vgg", VGG16((3, 8, 15, 22, 29)), 16)


def lpips_alex() -> Distance:
    """LPIPS 0.1 on features of AlexNet."""
    return _lpips("lpips_alex", AlexNet(), 31)
