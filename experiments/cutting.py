"""Square cuts of images at given places."""

import numpy as np
from jaxtyping import Float, UInt8


def cut_at(
    pixels: UInt8[np.ndarray, "height width 3"], place: Float[np.ndarray, " 2"], side: int
) -> UInt8[np.ndarray, "{side} {side} 3"]:
    """A square crop; images that are smaller are mirrored at their right and lower border first.

    Args:
      pixels: the image.
      place: of the corner, as shares in [0, 1) of the rows and columns where it may be.
      side: of the crop.
    """
    missing = [(0, max(side - length, 0)) for length in pixels.shape[:2]]
    pixels = np.pad(pixels, (*missing, (0, 0)), "reflect")
    y, x = (int(share * (length - side + 1)) for share, length in zip(place, pixels.shape[:2]))
    return pixels[y : y + side, x : x + side]
