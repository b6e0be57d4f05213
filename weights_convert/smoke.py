"""What converted weights say of a photograph: a last look after a conversion, in one sentence."""

import os

import jax
import jax.numpy as jnp
import numpy as np

from nriqa_jax.image import from_uint8
from nriqa_jax.models.distance import Distance
from nriqa_jax.models.model import Model
from weights_convert import store

_BLUR = 6.0  # pixels, which no one misses
_NOISE = 20.0  # grey levels


def scores(model: Model, path: str | os.PathLike) -> str:
    """Scores of a photograph and of a blurred copy.

    Raises:
      ModuleNotFoundError: without scikit-image, which brings the photograph.
    """
    from experiments import distortions, photographs  # here, because experiments imports this package

    photograph = photographs.load()["astronaut"]
    pictures = np.stack([photograph, distortions.gaussian_blur(photograph, _BLUR)])
    score = jax.jit(model.score_fn(model.prepare(jax.device_put(store.load_variables(path, model)))))
    clean, blurred = (float(score(from_uint8(jnp.asarray(picture[None])))[0]) for picture in pictures)
    low, high = model.score_range
    better = "higher" if model.higher_is_better else "lower"
    return f"scores ({low:g} to {high:g}, {better} is better): a photograph {clean:.4g}, strongly blurred {blurred:.4g}"


def distances(distance: Distance, path: str | os.PathLike) -> str:
    """Distance of a photograph to a noisy copy.

    Raises:
      ModuleNotFoundError: without scikit-image, which brings the photograph.
    """
    from experiments import distortions, photographs

    photograph = photographs.load()["astronaut"]
    pictures = (distortions.white_noise(photograph, _NOISE), photograph)
    variables = distance.prepare(jax.device_put(store.load_variables(path, distance)))
    noisy, clean = (from_uint8(jnp.asarray(picture[None])) for picture in pictures)
    found = float(jax.jit(distance.distance(variables))(noisy, clean)[0])
    return f"distance (0 for equal images): of a photograph to a noisy copy {found:.4g}"
