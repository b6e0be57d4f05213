"""Read the tensors of a PyTorch checkpoint into numpy arrays: no torch, and no code from the file.

Two formats. Zip archives (torch >= 1.6, TorchScript included): ``<root>/data.pkl`` and one uncompressed entry
``<root>/data/<key>`` per storage. Legacy files: five pickles in a row (magic number, protocol, system, the object, the
storage keys), then for each key an int64 element count and the raw data. All numbers are little-endian.

Source: the format as written by ``torch.save``, with ``_use_new_zipfile_serialization`` on and off.
"""

import functools
import io
import os
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from weights_convert import safe_pickle
from weights_convert.pickle_names import CheckpointError
from weights_convert.tensor_tree import Storage, dtype_of, persistent, read_tree

__all__ = ["CheckpointError", "read_tensors"]

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_HTML = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<!--")
_ZIP_DAMAGE = (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, LookupError, OverflowError, struct.error)
_BIG_ENDIAN = "it was written on a big-endian machine, which this reader does not support"


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read every tensor of a checkpoint.

    Args:
      path: a ``.pth``, ``.pt`` or ``.pkl`` file: a state dict, containers of them, or a pickled module.

    Returns:
      Arrays by dotted name, in file order; nested containers and modules become parts of the name, other entries are
      dropped. A lone tensor is called ``tensor``. The arrays may be read-only and may share memory.

    Raises:
      CheckpointError: one sentence that names the file, when it is damaged, refused or no checkpoint.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
        _check_head(head)
        return _read_zip(path) if head.startswith(b"PK") else _read_legacy(Path(path).read_bytes())
    except CheckpointError as error:
        raise CheckpointError(f"{os.fspath(path)}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{os.fspath(path)}: it cannot be read ({error.strerror or error})") from None


def _check_head(head: bytes) -> None:
    """Name the usual mistakes by the first bytes of the file."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        raise CheckpointError("the file is empty")
    if text.startswith(_HTML):
        raise CheckpointError("this is an HTML page, not a checkpoint: the download probably failed")
    if text.startswith(b"version https://git-lfs"):
        raise CheckpointError("this is a Git LFS pointer, not a checkpoint: fetch the file with `git lfs pull`")
    if head[4:9] == b"\0\0\0\0{":  # the high half of a header length, and the header
        raise CheckpointError("this is a safetensors file, not a PyTorch checkpoint")
    if not head.startswith((b"PK", b"\x80")):
        raise CheckpointError("this is not a PyTorch checkpoint (neither a zip archive nor a torch pickle)")


def _read_zip(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Tensors of a zip checkpoint."""
    try:
        with zipfile.ZipFile(path) as archive:
            root = _checked_root(archive.infolist(), os.path.getsize(path))
            names = frozenset(archive.namelist())
            if f"{root}/byteorder" in names:
                with archive.open(f"{root}/byteorder") as file:
                    if file.read(16) != b"little":
                        raise CheckpointError(_BIG_ENDIAN)

            @functools.cache
            def read(storage: Storage) -> bytes:
                name = f"{root}/data/{storage.key}"
                if name not in names:
                    raise CheckpointError(f"it is damaged: its entry {name[:100]} is missing")
                return archive.read(name)

            tree = safe_pickle.load(io.BytesIO(archive.read(f"{root}/data.pkl")), persistent)
            return read_tree(tree, read, os.path.getsize(path))
    except CheckpointError:
        raise
    except _ZIP_DAMAGE as error:
        raise CheckpointError(f"its zip archive is truncated or damaged ({error})") from None


def _checked_root(entries: list[zipfile.ZipInfo], file_bytes: int) -> str:
    """The root folder of an archive, after checks that make reading its entries safe."""
    names = [entry.filename for entry in entries]
    roots = [name.partition("/")[0] for name in names if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if not roots:
        raise CheckpointError("this is a zip archive but not a PyTorch checkpoint (it has no data.pkl)")
    if len(roots) > 1 or len(set(names)) < len(names):
        raise CheckpointError("it is damaged: its zip archive holds the same entry twice")
    root = roots[0]
    used = [e for e in entries if e.filename == f"{root}/data.pkl" or e.filename.startswith(f"{root}/data/")]
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in used):
        raise CheckpointError("refused: its zip archive is compressed, which torch.save never does")
    if sum(entry.file_size for entry in used) > file_bytes:
        raise CheckpointError("refused: its zip archive claims more bytes than the file has")
    return root


def _read_legacy(data: bytes) -> dict[str, np.ndarray]:
    """Tensors of a legacy checkpoint."""
    stream, storages = io.BytesIO(data), {}

    def remember(identifier: Any) -> Any:
        value = persistent(identifier)
        if isinstance(value, Storage):
            storages[value.key] = value
        return value

    if safe_pickle.load(stream, remember) != _MAGIC:
        raise CheckpointError("this is a pickle but not a PyTorch checkpoint (its magic number is missing)")
    protocol, system = safe_pickle.load(stream, remember), safe_pickle.load(stream, remember)
    if protocol != _PROTOCOL or not isinstance(system, dict):
        raise CheckpointError(f"it is of an unknown protocol version, not {_PROTOCOL}")
    if system.get("little_endian") is not True:
        raise CheckpointError(_BIG_ENDIAN)
    tree, keys = safe_pickle.load(stream, remember), safe_pickle.load(stream, remember)
    if not isinstance(keys, list) or not all(isinstance(key, str | int) for key in keys):
        raise CheckpointError("it is damaged: its list of storages is not a list of names")
    blocks = _legacy_blocks(memoryview(data)[stream.tell() :], [str(key) for key in keys], storages)
    return read_tree(tree, lambda storage: blocks.get(storage.key, b""), len(data))


def _legacy_blocks(data: memoryview, keys: list[str], storages: dict[str, Storage]) -> dict[str, memoryview]:
    """The raw bytes of each storage: an int64 element count and the numbers, in the order of ``keys``."""
    blocks = {}
    for key in keys:
        if key not in storages:
            raise CheckpointError(f"it is damaged: no tensor refers to its storage {key[:40]}")
        count, bytes_each = storages[key].numel, dtype_of(storages[key].kind).itemsize
        if data[:8] != struct.pack("<q", count) or len(data) < 8 + count * bytes_each:
            raise CheckpointError("it is truncated or damaged: a storage is not as long as declared")
        blocks[key] = data[8 : 8 + count * bytes_each]
        data = data[8 + count * bytes_each :]
    return blocks
