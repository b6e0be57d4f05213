"""Purifiers of OpenCV, one image [height, width, 3] in [0, 1] at a time.

Its medians repeat the border instead of mirroring it. Its non-local means take 8 bits, so that they round.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

Pixels = Float[np.ndarray, "_ _ 3"]
Batch = Float[np.ndarray, "n _ _ 3"]


def one_by_one(
    purify: Callable[[Pixels], Pixels], images: Float[np.ndarray, "n _ _ 3"]
) -> Float[np.ndarray, "n _ _ 3"]:
    """A batch, image by image."""
    return np.stack([purify(image) for image in images])


def load() -> tuple[tuple[str, str], Mapping[str, Callable[[Pixels], Pixels]]]:
    """Version, where it runs, and the purifiers at the defaults of this library.

    Raises:
      ModuleNotFoundError: without OpenCV.
    """
    import cv2  # only here: nothing else needs OpenCV

    def half(image: Pixels) -> Pixels:
        return cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2))

    def non_local_means(image: Pixels) -> Pixels:
        levels = cv2.fastNlMeansDenoising(np.round(image * 255).astype(np.uint8), None, 4.0, 3, 11)
        return levels.astype(np.float32) / np.float32(255)

    purifiers: Mapping[str, Callable[[Pixels], Pixels]] = {
        "flip": lambda image: cv2.flip(image, -1),
        "resize": half,
        "upscale": lambda image: cv2.resize(half(image), image.shape[1::-1]),
        "gaussian_blur": lambda image: cv2.GaussianBlur(image, (3, 3), 0.8),
        "unsharp": lambda image: np.clip(2 * image - cv2.GaussianBlur(image, (5, 5), 1.0), 0, 1),
        "median_blur": lambda image: cv2.medianBlur(image, 3),
        "bilateral": lambda image: cv2.bilateralFilter(image, 5, 0.1, 2.0),
        "non_local_means": non_local_means,
    }
    return (cv2.__version__, f"cpu, {cv2.getNumThreads()} threads"), purifiers
