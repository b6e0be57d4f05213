"""TinyIQA: a small quality model with embedded weights, so that everything here runs without a download.

It is a stand-in for demonstrations and tests, not a state-of-the-art metric; ``embedded/tinyiqa.md`` says how it was
trained and how well it does.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from nriqa_jax import image
from nriqa_jax.layers import Conv, Dense
from nriqa_jax.models import cards
from nriqa_jax.models.model import Model, Preprocess, Views
from nriqa_jax.types import Images, Scores

_MIN_SIDE = 32


class TinyIQA(nn.Module):
    """Four strided convolutions; the mean and the log-variance of every feature map feed a small regressor."""

    @nn.compact
    def __call__(self, x: Float[Array, "n height width 6"]) -> Scores:
        """One score per image of any size."""
        statistics = []
        for index, (width, window) in enumerate(((24, 5), (48, 3), (96, 3), (128, 3)), start=1):
            x = nn.silu(Conv(width, window, 2, window // 2, name=f"conv{index}")(x))
            statistics += [jnp.mean(x, axis=(1, 2)), jnp.log(jnp.var(x, axis=(1, 2)) + 1e-4)]
        x = nn.LayerNorm(name="norm")(jnp.concatenate(statistics, axis=-1))
        x = nn.silu(Dense(64, name="fc1")(x))
        return 50.0 + 25.0 * Dense(1, name="fc2")(x)[:, 0]


def _image_and_detail(images: Images) -> Views:
    x = image.normalize(images, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    # Noise, blur and compression live in the detail, which is small beside the content.
    return jnp.concatenate([x, 4.0 * (x - image.box_mean(x))], axis=-1)[:, None]


GRID = Preprocess(
    name="grid",
    version=1,
    views=_image_and_detail,
    min_side=_MIN_SIDE,
    description="the whole image at its own size, and its detail as three more channels",
)


def tinyiqa() -> Model:
    """TinyIQA; scores 0..100, higher is better."""
    return Model(
        name="tinyiqa",
        card=cards.TINYIQA,
        network=TinyIQA(),
        preprocess=GRID,
        protocols=(GRID,),
        view_shape=(_MIN_SIDE, _MIN_SIDE, 6),
    )
