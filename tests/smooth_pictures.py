"""Small pictures that purifiers have something to do on."""

import jax.numpy as jnp
import numpy as np
from scipy import ndimage


def smooth_pictures(height, width):
    """Four smooth 8-bit pictures with some noise, black and white included."""
    rng = np.random.default_rng(3)
    coarse = ndimage.zoom(rng.uniform(-0.2, 1.2, (4, 6, 7, 3)), (1, height / 6, width / 7, 1), order=1)
    levels = np.clip(255 * coarse[:, :height, :width] + rng.normal(0, 6, (4, height, width, 3)), 0, 255)
    return jnp.asarray(levels.astype(np.uint8), jnp.float32) / 255.0
