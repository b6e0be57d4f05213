"""All purifiers in one place: ``purifiers.MedianBlur(5)(images, keys)``; each is defined in the file of its kind.

A purifier is called with images and one key per image; deterministic ones ignore the keys. ``MedianBlur()`` has the
default strength, ``MedianBlur.preset(2)`` a published one, and ``compose(MedianBlur(), Unsharp())`` is one after the
other. Quirks of the published benchmark, where it is not the default, are settings: ``Upscale(target=(384, 512))``,
``batch_shared(RandomRotate())``.
"""

from nriqa_jax.defenses.bilateral import Bilateral
from nriqa_jax.defenses.gaussian import GaussianBlur, Unsharp
from nriqa_jax.defenses.geometric import Flip, RandomCrop, RandomRotate, Resize, Upscale
from nriqa_jax.defenses.jpeg import DiffJpeg, ExactJpeg
from nriqa_jax.defenses.median import MedianBlur
from nriqa_jax.defenses.noise import RandomNoise
from nriqa_jax.defenses.non_local_means import NonLocalMeans
from nriqa_jax.defenses.purifier import Gradient, Purification, batch_shared, compose
from nriqa_jax.defenses.quantization import BitDepth, ColorQuantization
from nriqa_jax.defenses.total_variation import TotalVariation
from nriqa_jax.defenses.wavelets import WaveletShrinkage

__all__ = [
    "Bilateral",
    "BitDepth",
    "ColorQuantization",
    "DiffJpeg",
    "ExactJpeg",
    "Flip",
    "GaussianBlur",
    "Gradient",
    "MedianBlur",
    "NonLocalMeans",
    "Purification",
    "RandomCrop",
    "RandomNoise",
    "RandomRotate",
    "Resize",
    "TotalVariation",
    "Unsharp",
    "Upscale",
    "WaveletShrinkage",
    "batch_shared",
    "compose",
]
