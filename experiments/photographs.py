"""The embedded photographs: pictures that scikit-image ships, at one size."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

SIDE = 299


def load() -> dict[str, UInt8[np.ndarray, "side side 3"]]:
    """Photographs by name, scaled and cut to squares of `SIDE` pixels.

    Raises:
      ModuleNotFoundError: without scikit-image, which ``pip install nriqa-jax[demo]`` brings.
    """
    from skimage import data  # only here: nothing else needs scikit-image

    sources = {
        "astronaut": data.astronaut(),
        "camera": data.camera(),
        "cat": data.chelsea(),
        "coffee": data.coffee(),
        "coins": data.coins(),
        "motorcycle": data.stereo_motorcycle()[0],
        "rocket": data.rocket(),
    }
    return {name: _square(np.asarray(pixels)) for name, pixels in sources.items()}


def _square(pixels: np.ndarray) -> UInt8[np.ndarray, "side side 3"]:
    picture = Image.fromarray(pixels).convert("RGB")
    return np.asarray(ImageOps.fit(picture, (SIDE, SIDE), Image.Resampling.LANCZOS))
