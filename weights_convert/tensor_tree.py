"""From the tree that a checkpoint's pickle describes to its tensors, as numpy arrays by dotted name."""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from weights_convert.pickle_names import CheckpointError, Global, Node

_DTYPES: dict[str, Any] = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    "UntypedStorage": np.uint8,
    # Element types without a storage class of their own, as _rebuild_tensor_v3 names them.
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
}
_REBUILD = re.compile(r"torch\._utils\._rebuild_tensor(_v2|_v3)?")
_WRAPPERS = frozenset(
    {
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch.nn.parameter.Parameter",
        "torch.nn.parameter.Buffer",
        "torch.autograd.variable.Variable",
    }
)
_FROM_TYPE = frozenset({"torch._tensor._rebuild_from_type", "torch._tensor._rebuild_from_type_v2"})
_NUMPY_SCALARS = frozenset({"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"})
_MODULE_PARTS = ("_parameters", "_buffers", "_modules")
_MAX_VALUES = 5_000_000
_MAX_DEPTH = 100
_MAX_RANK = 32
_SPARE_BYTES = 64 << 20


class Storage(NamedTuple):
    """A block of raw numbers in the file: element type, key and number of elements."""

    kind: str
    key: str
    numel: int


class View(NamedTuple):
    """A tensor not yet read: a strided window on a storage, with its element type."""

    storage: Storage
    kind: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


ReadStorage = Callable[[Storage], bytes | memoryview]


def persistent(identifier: Any) -> Any:
    """A storage, or (legacy whole-module files) a class with its source text, of which only the name is kept.

    Raises:
      CheckpointError: for any other persistent id, and for views of storages (torch < 0.4).
    """
    match identifier:
        case ("module", Global() as cls, *_):
            return cls
        case ("storage", Global(name), str() | int() as key, _, int(numel), *view):
            if any(part is not None for part in view):
                raise CheckpointError("it stores views of storages (torch < 0.4), which this reader does not support")
            return Storage(name.rpartition(".")[2].removeprefix("_"), str(key), numel)
    raise CheckpointError("its pickle has a persistent id that is not a storage")


def dtype_of(kind: str) -> np.dtype:
    """Element type of a storage class or of a torch dtype.

    Raises:
      CheckpointError: for complex, quantised and other numbers that no supported model has.
    """
    if kind not in _DTYPES:
        raise CheckpointError(f"it holds numbers of type {kind[:40]}, which this reader does not support")
    return np.dtype(_DTYPES[kind])


def read_tree(tree: Any, read: ReadStorage, file_bytes: int) -> dict[str, np.ndarray]:
    """All tensors of a tree.

    Args:
      tree: result of ``safe_pickle.load``.
      read: gives the raw bytes of a storage.
      file_bytes: size of the file; tensors that need many times more (by stride 0) are refused.

    Returns:
      Arrays by dotted name, in file order; where possible they are read-only views of what ``read`` returned. Lists of
      floating-point numbers at the top level count as tensors.

    Raises:
      CheckpointError: for tensors outside of their storage, of unknown type, of equal names, or none at all.
    """
    found = _collect(tree)
    views = [view for view in found.values() if isinstance(view, View)]
    needed = sum(math.prod(view.size) * dtype_of(view.kind).itemsize for view in views)
    if needed > _SPARE_BYTES + 8 * file_bytes:
        raise CheckpointError(f"refused: its {file_bytes} bytes would expand to {needed}")
    return {name: _materialise(name, x, read) if isinstance(x, View) else x for name, x in found.items()}


def _collect(tree: Any) -> dict[str, View | np.ndarray]:
    """All tensors of a tree, and lists of numbers beside them, by dotted name; a lone one is called ``tensor``."""
    views: dict[str, View | np.ndarray] = {}
    pending: list[tuple[str, Any, int]] = [("", tree, 0)]
    visited, beside = 0, isinstance(tree, dict)
    while pending:
        name, value, depth = pending.pop()
        view = _numbers(value) if beside and depth == 1 and isinstance(value, list) else _view(value)
        if view is not None:
            if name[:-1] in views:
                raise CheckpointError(f"it has two tensors named {name[:-1]}")
            views[name[:-1] or "tensor"] = view
            continue
        parts = []
        for key, child in _children(value):
            visited += 1
            if depth == _MAX_DEPTH or visited == _MAX_VALUES:
                raise CheckpointError("its containers are nested too deeply, or contain themselves")
            if isinstance(child, dict | list | tuple | Node):
                parts.append((f"{name}{key}.", child, depth + 1))
        pending.extend(reversed(parts))
    if not any(isinstance(view, View) for view in views.values()):
        raise CheckpointError("it holds no tensors")
    return views


def _numbers(values: list) -> np.ndarray | None:
    """A list of floats, Python's or numpy's, as an array; None for any other list."""
    numbers = [_float(value) for value in values]
    return np.array(numbers) if numbers and None not in numbers else None


def _float(value: Any) -> float | None:
    match value:
        case float():
            return value
        case Node(args=(Node(args=("f8", *_)), Node(args=(str(text), "latin1")))) if value.name in _NUMPY_SCALARS:
            data = text.encode("latin1", "replace")
        case Node(args=(Node(args=("f8", *_)), bytes(data))) if value.name in _NUMPY_SCALARS:
            pass
        case _:
            return None
    return float(np.frombuffer(data, "<f8")[0]) if len(data) == 8 else None


def _children(value: Any) -> Iterator[tuple[Any, Any]]:
    """Named parts of a container, a module or another object; none for a leaf."""
    if isinstance(value, dict):
        yield from ((key, child) for key, child in value.items() if isinstance(key, str | int))
    elif isinstance(value, list | tuple) and not isinstance(value, Storage):
        yield from enumerate(value)
    elif isinstance(value, Node):
        state = value.state[0] if isinstance(value.state, tuple) and value.state else value.state
        yield from _module_children(state if isinstance(state, dict) else {})
        yield from _children(value.entries)


def _module_children(state: dict) -> Iterator[tuple[Any, Any]]:
    """What ``state_dict`` would visit if this is the state of a module, else (TorchScript) every attribute."""
    parts = [state[part] for part in _MODULE_PARTS if isinstance(state.get(part), dict)]
    if not parts:
        yield from _children(state)
    hidden = state.get("_non_persistent_buffers_set")
    for part in parts:
        yield from ((key, child) for key, child in _children(part) if not isinstance(hidden, list) or key not in hidden)


def _view(value: Any) -> View | None:
    """The tensor that a node describes, through any number of wrappers; ``None`` if it is something else."""
    while isinstance(value, Node) and value.args:
        if value.name in _WRAPPERS:
            value = value.args[0]
        elif value.name in _FROM_TYPE:
            match value.args:
                case (Global(name), _, tuple() as arguments, *_):
                    value = Node(name, arguments)
                case _:
                    return None
        elif _REBUILD.fullmatch(value.name):
            return _checked_view(value.args, typed=value.name.endswith("_v3"))
        else:
            return None
    return None


def _checked_view(arguments: tuple, *, typed: bool) -> View:
    """A view from the arguments of ``_rebuild_tensor*``; whether it fits its storage is checked on reading."""
    storage, offset, size, stride = (*arguments[:4], *[None] * 4)[:4]
    rest = arguments[6:]
    size = size.args[0] if isinstance(size, Node) and size.name == "torch.Size" and size.args else size
    if isinstance(storage, Storage) and _is_count(offset) and _is_counts(size) and _is_counts(stride):
        kind = storage.kind
        if typed and rest and isinstance(rest[0], Global):
            kind, rest = rest[0].name.rpartition(".")[2], rest[1:]
        if len(size) == len(stride) <= _MAX_RANK and not any(rest):
            return View(storage, kind, offset, tuple(size), tuple(stride))
    raise CheckpointError("it is damaged: a tensor has no valid storage, offset, size and strides")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 1 << 60


def _is_counts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_count, value))


def _materialise(name: str, view: View, read: ReadStorage) -> np.ndarray:
    """The array of a view, without copying where the view is contiguous."""
    dtype, source = dtype_of(view.kind), dtype_of(view.storage.kind)
    if 0 in view.size:
        if math.prod(n for n in view.size if n) >= 1 << 60:
            raise CheckpointError(f"it is damaged: its tensor {name} has an impossible shape")
        return np.zeros(view.size, dtype)
    raw = read(view.storage)
    available = view.storage.numel * source.itemsize
    if len(raw) < available:
        raise CheckpointError(f"it is truncated or damaged: the storage of {name} is shorter than declared")
    elements = available // dtype.itemsize
    if view.offset + sum((n - 1) * s for n, s in zip(view.size, view.stride)) >= elements:
        raise CheckpointError(f"it is damaged: its tensor {name} reaches outside of its storage")
    strides = [s * dtype.itemsize if n > 1 else 0 for n, s in zip(view.size, view.stride)]
    array: np.ndarray = np.ndarray(view.size, dtype, raw, view.offset * dtype.itemsize, strides)
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)
