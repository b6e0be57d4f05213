"""Models of natural images for NIQE: read from the usual parameter file, or fitted to a folder of photographs."""

import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import scipy

from experiments import records
from experiments.errors import UserError
from nriqa_jax.image import from_uint8
from nriqa_jax.metrics.niqe import BLOCK, FEATURES, Pristine, fit_pristine, pristine_of

_NAMES = ("mu_prisparam", "cov_prisparam")  # in the published files


def load(source: str) -> Pristine:
    """A model of natural images.

    Args:
      source: a ``.mat`` file with the published names, or a folder of good photographs.

    Raises:
      UserError: when it is neither, or holds something else.
    """
    path = Path(source)
    if path.is_dir():
        return _fitted(path)
    if not path.is_file():
        raise UserError(f"{source} is no file and no folder; give a .mat file of NIQE or a folder of good photographs")
    try:
        content = scipy.io.loadmat(path)
        mean, covariance = (np.asarray(content[name], np.float64) for name in _NAMES)
    except KeyError as error:
        raise UserError(f"{source} holds no {error}; a model of NIQE has {' and '.join(_NAMES)}") from None
    except Exception as error:
        raise UserError(f"{source} is not a .mat file that can be read ({error})") from error
    if mean.size != FEATURES or covariance.shape != (FEATURES, FEATURES):
        raise UserError(f"{source} has a mean {mean.shape} and a covariance {covariance.shape} of other features")
    try:
        return pristine_of(mean.reshape(-1), covariance)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None


def save(path: str | os.PathLike, pristine: Pristine) -> None:
    """Write a model as a ``.mat`` file with the published names."""
    mean, covariance = (np.asarray(value, np.float64) for value in (pristine.mean, pristine.covariance))
    scipy.io.savemat(path, dict(zip(_NAMES, (mean[None], covariance))))


def _fitted(folder: Path) -> Pristine:
    try:
        paths = [records.image_path(folder, name) for name in records.list_images(folder)]
        sizes = {path: records.read_size(path) for path in paths}
        small = [path.name for path, size in sizes.items() if min(size) < BLOCK]
        if small:
            raise UserError(f"{folder}: {small[0]} is smaller than the blocks of NIQE, {BLOCK} pixels a side")
        return fit_pristine(from_uint8(jnp.asarray(records.load_image(path)[None])) for path in paths)
    except FileNotFoundError:
        raise UserError(f"{folder} holds no image") from None
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from error
