"""What a conversion reads: one checkpoint, or the heads and the backbone of a distance from two."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from nriqa_jax.models.distance import Distance
from weights_convert.rules import CheckpointError, Owner
from weights_convert.torch_file import read_tensors

File = str | os.PathLike


def tensors_of(path: File, model: Owner, backbone: File | None) -> dict[str, np.ndarray]:
    """Arrays by dotted name.

    Args:
      path: a PyTorch checkpoint.
      model: the model, or the distance, that it is of.
      backbone: a second checkpoint, with the backbone of a distance whose heads alone are in ``path``.

    Raises:
      CheckpointError: if a file is damaged or refused, or the two do not go together.
    """
    tensors = read_tensors(path)
    if backbone is None:
        return tensors
    if not isinstance(model, Distance):
        raise CheckpointError(f"{os.fspath(backbone)}: {model.name} has no backbone in a file of its own")
    found = read_tensors(backbone)
    if twice := sorted(tensors.keys() & found.keys()):
        raise CheckpointError(f"{os.fspath(backbone)}: the file of the heads holds '{twice[0]}', too")
    return {**tensors, **found}


def origin(path: File, backbone: File | None) -> dict[str, Any]:
    """Names and hashes of the files, for reports."""
    files = {"source": path} | ({} if backbone is None else {"backbone": backbone})
    return {
        f"{role}_{what}": value
        for role, file in files.items()
        for what, value in (("file", Path(file).name), ("sha256", hashlib.sha256(Path(file).read_bytes()).hexdigest()))
    }
