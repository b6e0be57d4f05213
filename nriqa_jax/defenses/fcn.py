"""FCN, the learned filter of the purification study: three convolutions (arXiv 2404.06957).

Its size is that of the published file, 11,459 parameters; pixels see 7x7 neighbourhoods. The published network
normalises each map of each image, so that it cannot know brightness or contrast: it removes colour attacks with them,
and clean images lose much. `nonorm` and `residual` do not normalise, and the latter adds to the image.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from nriqa_jax.defenses.purifier import Deterministic
from nriqa_jax.image import clip_unit
from nriqa_jax.layers import Conv, instance_norm
from nriqa_jax.prepare import Variables
from nriqa_jax.types import Images

_SLOPE = 0.2  # of leaky ReLUs


class FCN(nn.Module):
    """The network, on images of any size; its output is not cut off at 0 and 1.

    Attributes:
      normalised: whether its second layer normalises each map of each image, as published.
      residual: whether its output is added to the image, instead of being a new one.
    """

    normalised: bool = True
    residual: bool = False

    @nn.compact
    def __call__(self, images: Images) -> Images:
        """Filter each image."""
        x = nn.leaky_relu(Conv(64, 3, padding=1, name="conv1")(images), _SLOPE)
        x = Conv(16, 3, padding=1, name="conv2")(x)
        x = instance_norm(x) if self.normalised else x
        x = Conv(3, 3, padding=1, name="conv3")(nn.leaky_relu(x, _SLOPE))
        return images + x if self.residual else jnp.tanh(x)


def ref() -> FCN:
    """The published network."""
    return FCN()


def nonorm() -> FCN:
    """The same without normalisation."""
    return FCN(normalised=False)


def residual() -> FCN:
    """Without normalisation, and added to the image: the most faithful one."""
    return FCN(normalised=False, residual=True)


def init(network: FCN, key: Array) -> Variables:
    """Random weights; a residual network starts as the identity."""
    variables = network.init(key, jnp.zeros((1, 8, 8, 3)))
    if not network.residual:
        return variables
    last = {**variables["params"]["conv3"], "kernel": jnp.zeros_like(variables["params"]["conv3"]["kernel"])}
    return {**variables, "params": {**variables["params"], "conv3": last}}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LearnedFilter(Deterministic):
    """A trained network as a purifier; its output is cut off at 0 and 1.

    Attributes:
      variables: its weights.
      network: from images to images of the same size.
    """

    variables: Variables
    network: nn.Module = dataclasses.field(metadata={"static": True})

    def purify(self, images: Images) -> Images:
        """Filter each image."""
        filtered: Any = self.network.apply(self.variables, images)
        return clip_unit(filtered)
