"""HyperIQA (Su et al., CVPR 2020): a hyper-network writes, for each image, the weights of a small quality network."""

import itertools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nriqa_jax import image
from nriqa_jax.layers import Conv, Dense, adaptive_avg_pool, flatten_nchw
from nriqa_jax.models.model import Model, Preprocess, Views
from nriqa_jax.models.resnet import resnet50
from nriqa_jax.types import Images, Scores

_CROP = 224
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_PUBLISHED_CROPS = 25
_WIDTHS = (224, 112, 56, 28, 14, 1)  # of the target network, input to output


class HyperIQA(nn.Module):
    """The network on normalised 224x224 RGB views."""

    @nn.compact
    def __call__(self, views: Float[Array, "n 224 224 3"]) -> Scores:
        """One score per view."""
        _, *features = resnet50(name="res")(views)
        content, weights, biases = _distortion_vector(features), [], []
        hyper = features[-1]
        for index, width in enumerate((1024, 512, 112)):
            hyper = nn.relu(Conv(width, 1, name=f"conv1_{2 * index}")(hyper))
        pooled = jnp.mean(hyper, axis=(1, 2))
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(_WIDTHS), start=1):
            if fan_out > 1:
                flat = flatten_nchw(Conv(fan_in * fan_out // 49, 3, padding=1, name=f"fc{layer}w_conv")(hyper))
            else:
                flat = Dense(fan_in, name=f"fc{layer}w_fc")(pooled)
            weights.append(flat.reshape(-1, fan_out, fan_in))
            biases.append(Dense(fan_out, name=f"fc{layer}b_fc")(pooled))
        return _target_network(content, weights, biases)


def _distortion_vector(features: list[Float[Array, "n _ _ _"]]) -> Float[Array, "n 224"]:
    """The content vector: pooled and projected features of the four layers. Call inside a compact module."""
    parts = []
    for index, (x, width) in enumerate(zip(features[:3], (16, 32, 64)), start=1):
        x = Conv(width, 1, use_bias=False, name=f"lda{index}_pool")(x)
        x = adaptive_avg_pool(x, x.shape[1] // 7)
        parts.append(Dense(16, name=f"lda{index}_fc")(flatten_nchw(x)))
    parts.append(Dense(176, name="lda4_fc")(jnp.mean(features[3], axis=(1, 2))))
    return jnp.concatenate(parts, axis=-1)


def _target_network(
    x: Float[Array, "n 224"], weights: list[Float[Array, "n _ _"]], biases: list[Float[Array, "n _"]]
) -> Scores:
    """The per-image network: sigmoid layers and a linear output, as batched contractions."""
    for layer, (weight, bias) in enumerate(zip(weights, biases), start=1):
        x = jnp.einsum("noi,ni->no", weight, x) + bias
        x = nn.sigmoid(x) if layer < len(weights) else x
    return x[:, 0]


def _enlarge(images: Images) -> Float[Array, "batch _ _ 3"]:
    """Upscale images whose short side is below the crop size, keeping the aspect ratio."""
    height, width = images.shape[1:3]
    scale = _CROP / min(height, width)
    if scale <= 1:
        return images
    return image.resize_torch(images, max(_CROP, round(height * scale)), max(_CROP, round(width * scale)))


def _grid_views(images: Images) -> Views:
    return image.normalize(image.covering_crops(_enlarge(images), _CROP), _MEAN, _STD)


def _published_views(images: Images) -> Views:
    images = _enlarge(images)
    # The authors draw new corners in every run. A fixed seed keeps the distribution and makes scores repeatable.
    draw = np.random.default_rng(0).integers
    rows, columns = (draw(0, side - _CROP + 1, _PUBLISHED_CROPS) for side in images.shape[1:3])
    corners = tuple((int(y), int(x)) for y, x in zip(rows, columns))
    return image.normalize(image.crops(images, corners, _CROP), _MEAN, _STD)


GRID = Preprocess(
    name="grid",
    version=1,
    views=_grid_views,
    min_side=1,
    description="fewest evenly spread 224x224 crops that cover every pixel; smaller images are upscaled (bilinear)",
)
PUBLISHED = Preprocess(
    name="published",
    version=1,
    views=_published_views,
    min_side=1,
    description="25 random 224x224 crops as in the paper, with corners drawn once from a fixed seed per image size",
)


def hyperiqa() -> Model:
    """HyperIQA with a ResNet-50 backbone; scores 0..100, higher is better."""
    return Model(
        name="hyperiqa",
        network=HyperIQA(),
        preprocess=GRID,
        protocols=(GRID, PUBLISHED),
        view_shape=(_CROP, _CROP, 3),
        score_range=(0.0, 100.0),
        higher_is_better=True,
        native_size=(_CROP, _CROP),
        training_data="KonIQ-10k (authors' weights); LIVE Challenge (gradient-norm training weights)",
        citation="Su et al., Blindly Assess Image Quality in the Wild Guided by a Self-Adaptive Hyper Network, "
        "CVPR 2020",
        code_licence="MIT",
        weights_licence="not stated by the authors; trained on KonIQ-10k",
    )
