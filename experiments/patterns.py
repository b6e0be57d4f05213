"""Files of universal perturbations: ``.npy``, as others write them, or ``.safetensors`` with how it was made."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float

from experiments.errors import UserError
from weights_convert import store

EXTENSIONS = (".npy", ".safetensors")

Pattern = Float[np.ndarray, "rows columns 3"]


def load_pattern(path: Path) -> Pattern:
    """The pattern in a file: changes of pixel values, in units of the range [0, 1].

    Arrays may be [rows, columns, 3] or [3, rows, columns], with or without a first axis of length 1.

    Raises:
      UserError: when the file holds no such array.
    """
    check_name(path, "--pattern")
    if not path.is_file():
        raise UserError(f"--pattern={path} is not a file; give a .npy or .safetensors file of a pattern")
    array = _read_npy(path) if path.suffix == ".npy" else _read_safetensors(path)
    found = _channels_last(array)
    if found is None or not np.issubdtype(array.dtype, np.floating):
        raise UserError(
            f"--pattern={path} holds {array.dtype} of shape {array.shape}; "
            "expected real numbers of shape (rows, columns, 3) or (1, 3, rows, columns)"
        )
    if not np.all(np.abs(found) <= 1):
        raise UserError(f"--pattern={path} holds values that are no changes of pixels in [0, 1]: NaN, or beyond 1")
    return np.ascontiguousarray(found, np.float32)


def save_pattern(path: Path, pattern: Pattern, metadata: Mapping[str, Any]) -> None:
    """Write a pattern as [rows, columns, 3], completely or not at all, making its folder if needed.

    Args:
      path: a ``.npy`` or ``.safetensors`` file; only the second one can hold metadata.
      pattern: the pattern.
      metadata: how it was made.

    Raises:
      UserError: when the name ends otherwise.
    """
    check_name(path, "--out")
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_atomic(path, _as_bytes(path, pattern, metadata))


def check_name(path: Path, flag: str, extensions: Sequence[str] = EXTENSIONS) -> None:
    """Refuse a file whose name does not say what it holds.

    Raises:
      UserError: then.
    """
    if path.suffix not in extensions:
        raise UserError(f"{flag}={path} must end with {' or '.join(extensions)}")


def _as_bytes(path: Path, pattern: Pattern, metadata: Mapping[str, Any]) -> bytes:
    if path.suffix == ".safetensors":
        return store.serialize({"pattern": pattern}, metadata)
    buffer = io.BytesIO()
    np.save(buffer, pattern, allow_pickle=False)
    return buffer.getvalue()


def _read_npy(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"--pattern={path} is not a sound .npy file of numbers") from error


def _read_safetensors(path: Path) -> np.ndarray:
    try:
        arrays = safetensors.numpy.load(path.read_bytes())
    except (safetensors.SafetensorError, KeyError) as error:
        raise UserError(f"--pattern={path} is not a sound .safetensors file of numbers") from error
    if len(arrays) != 1:
        raise UserError(f"--pattern={path} holds {len(arrays)} arrays; expected one, a pattern")
    return next(iter(arrays.values()))


def _channels_last(array: np.ndarray) -> np.ndarray | None:
    """The array as [rows, columns, 3], if it is a pattern."""
    array = array[0] if array.ndim == 4 and len(array) == 1 else array
    if array.ndim != 3 or 0 in array.shape or 3 not in (array.shape[0], array.shape[2]):
        return None
    return array if array.shape[2] == 3 else np.moveaxis(array, 0, -1)
