"""How images become views: the steps that test protocols of several models share."""

import dataclasses
import math
from functools import partial

import numpy as np
from jaxtyping import Array, Float

from nriqa_jax import image
from nriqa_jax.models.model import Preprocess, Views, ViewsOf
from nriqa_jax.resize import resize_torch, scale_torch
from nriqa_jax.types import Images

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]


def whole(images: Images, statistics: Statistics) -> Views:
    """The normalised image as its only view."""
    return image.normalize(images, *statistics)[:, None]


def resized(images: Images, statistics: Statistics, height: int, width: int, *, antialias: bool = False) -> Views:
    """The image squashed to a size (bilinear, as in PyTorch) and normalised, as its only view."""
    return whole(resize_torch(images, height, width, antialias=antialias), statistics)


def enlarged(images: Images, size: int) -> Float[Array, "batch _ _ 3"]:
    """Images whose short side is below ``size``, upscaled to it with their aspect ratio; others as they are."""
    height, width = images.shape[1:3]
    scale = size / min(height, width)
    if scale <= 1:
        return images
    return resize_torch(images, max(size, round(height * scale)), max(size, round(width * scale)))


def grid_views(images: Images, statistics: Statistics, size: int) -> Views:
    """The fewest evenly spread crops that cover every pixel; small images are enlarged."""
    return image.normalize(image.covering_crops(enlarged(images, size), size), *statistics)


def random_views(seed: int, statistics: Statistics, size: int, count: int) -> ViewsOf:
    """A function to ``count`` crops whose corners are drawn once, from a seed, for each image size."""

    def views(images: Images) -> Views:
        images = enlarged(images, size)
        draw = np.random.default_rng(seed).integers
        rows, columns = (draw(0, side - size + 1, count) for side in images.shape[1:3])
        corners = tuple((int(y), int(x)) for y, x in zip(rows, columns))
        return image.normalize(image.crops(images, corners, size), *statistics)

    return views


def uniform_views(images: Images, statistics: Statistics, size: int, count: int) -> Views:
    """The first ``count`` crops of a regular grid from the top left, as pyiqa takes them.

    The last rows and columns of an image may be in no crop. An image whose short side is at most ``size`` is upscaled
    to one pixel more.
    """
    short = min(images.shape[1:3])
    images = images if short > size else scale_torch(images, (size + 1) / short)
    per_side = math.ceil(math.sqrt(count))
    rows, columns = ([i * ((side - size) // math.isqrt(count)) for i in range(per_side)] for side in images.shape[1:3])
    corners = tuple((row, column) for row in rows for column in columns)[:count]
    return image.normalize(image.crops(images, corners, size), *statistics)


def grid(statistics: Statistics, size: int) -> Preprocess:
    """The protocol "grid" for square views."""
    return Preprocess(
        name="grid",
        version=1,
        views=partial(grid_views, statistics=statistics, size=size),
        min_side=1,
        description=f"fewest evenly spread {size}x{size} crops that cover every pixel; smaller images are upscaled "
        "(bilinear)",
    )


def random(statistics: Statistics, size: int, count: int) -> Preprocess:
    """The protocol "random" for square views; from seed 0 unless `Model.with_protocol` is given another."""
    seeded = partial(random_views, statistics=statistics, size=size, count=count)
    return Preprocess(
        name="random",
        version=1,
        views=seeded(0),
        min_side=1,
        description=f"{count} random {size}x{size} crops from a recorded seed, the same for all images of a size",
        seeded=seeded,
        seed=0,
    )


def native(name: str, statistics: Statistics, description: str, min_side: int = 1) -> Preprocess:
    """A protocol whose only view is the whole image at its own size."""
    views = partial(whole, statistics=statistics)
    return Preprocess(name=name, version=1, views=views, min_side=min_side, description=description)


def published(drawn: Preprocess, description: str) -> Preprocess:
    """The protocol "published" of authors who draw crops anew in every run: those of "random", always from seed 0."""
    return dataclasses.replace(drawn, name="published", description=description, seeded=None)


def uniform(statistics: Statistics, size: int, count: int) -> Preprocess:
    """The protocol "pyiqa" of models that this toolbox scores on uniform crops."""
    return Preprocess(
        name="pyiqa",
        version=1,
        views=partial(uniform_views, statistics=statistics, size=size, count=count),
        min_side=1,
        description=f"the first {count} {size}x{size} crops of a regular grid from the top left, as pyiqa takes them",
    )
