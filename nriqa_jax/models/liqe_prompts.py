"""The texts that LIQE (Zhang et al., CVPR 2023) compares an image with, as token ids of CLIP's vocabulary.

The byte-pair encoding of CLIP never joins words, so the ids of a text are those of its words: no tokenizer is needed.
"""

import itertools
from collections.abc import Iterable

import numpy as np

from nriqa_jax.models.clip import TokenIds

Ids = tuple[int, ...]

QUALITIES: dict[str, Ids] = {
    "bad": (2103,),
    "poor": (3665,),
    "fair": (2849,),
    "good": (886,),
    "perfect": (1878,),
}
SCENES: dict[str, Ids] = {
    "animal": (4668,),
    "cityscape": (40808,),
    "human": (2751,),
    "indoor": (9546,),
    "landscape": (5727,),
    "night": (930,),
    "plant": (3912,),
    "still_life": (1170, 318, 970),
    "others": (3326,),
}
DISTORTIONS: dict[str, Ids] = {
    "jpeg2000 compression": (73, 11207, 273, 271, 271, 271, 25638),
    "jpeg compression": (73, 11207, 25638),
    "noise": (9307,),
    "blur": (27976,),
    "color": (3140,),
    "contrast": (18501,),
    "overexposure": (8649, 13002, 35539),
    "underexposure": (21675, 87, 35539),
    "spatial": (22022,),
    "quantization": (31540, 3683),
    "other": (1010,),
}
_A_PHOTO: Ids = (320, 1125)
_OF_A: Ids = (539, 320)
_WITH: Ids = (593,)
_ARTIFACTS_WHICH_IS_OF: Ids = (30249, 267, 1448, 533, 539)
_QUALITY: Ids = (3027,)
_START, _END = 49406, 49407


def quality_only() -> TokenIds:
    """The five texts "a photo with {quality} quality", from bad to perfect."""
    return _padded(_A_PHOTO + _WITH + quality + _QUALITY for quality in QUALITIES.values())


def multitask() -> TokenIds:
    """The 495 texts "a photo of a {scene} with {distortion} artifacts, which is of {quality} quality".

    The quality changes slowest, the distortion fastest.
    """
    choices = itertools.product(QUALITIES.values(), SCENES.values(), DISTORTIONS.values())
    return _padded(
        _A_PHOTO + _OF_A + scene + _WITH + distortion + _ARTIFACTS_WHICH_IS_OF + quality + _QUALITY
        for quality, scene, distortion in choices
    )


def _padded(texts: Iterable[Ids]) -> TokenIds:
    """Texts between their start and end tokens, filled with zeros up to the length of the longest."""
    rows = [(_START, *text, _END) for text in texts]
    return np.array(list(zip(*itertools.zip_longest(*rows, fillvalue=0))), np.int32)
