"""A pickle read as data: opcodes in, a tree of plain values out, and nothing of the pickle is ever run.

The standard unpickler imports the names a pickle holds and calls them. This one does neither. A name becomes a
:class:`Global` (a string), a call or an instance becomes a :class:`Node` (the name, its arguments, its state), and the
few standard containers become ``dict``, ``list`` and ``tuple``. There is no import, no ``getattr`` and no call of
anything that the file names, so a hostile pickle has nothing to hold on to.

Source: the opcode documentation of the ``pickletools`` module of the standard library.
"""

import io
import pickletools
from collections.abc import Callable
from typing import Any

from weights_convert.pickle_names import CheckpointError, Global, Node, checked_global

MAX_OPCODES = 5_000_000  # hundreds of times a large checkpoint; bounds time and memory on a hostile one

_DICTS = frozenset({"collections.OrderedDict", "collections.defaultdict", "collections.Counter", "builtins.dict"})
_LISTS = frozenset({"builtins.list", "builtins.tuple", "builtins.set", "builtins.frozenset"})
_DAMAGE = (ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError, RecursionError)


def load(stream: io.BytesIO, persistent: Callable[[Any], Any]) -> Any:
    """Read one pickle.

    Args:
      stream: positioned at its first byte; left just behind its last one.
      persistent: turns a persistent id, itself plain data, into a value.

    Returns:
      A tree of ``dict``, ``list``, ``tuple``, scalars, ``Global``, ``Node`` and whatever ``persistent`` returns.

    Raises:
      CheckpointError: for a refused name and for a damaged pickle.
    """
    machine = _Machine(persistent)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count == MAX_OPCODES:
                raise CheckpointError(f"its pickle has more than {MAX_OPCODES} instructions")
            machine.step(opcode.name, argument)
        return machine.stack.pop()
    except CheckpointError:
        raise
    except _DAMAGE as error:
        raise CheckpointError(f"it is truncated or damaged, or not a checkpoint ({_line(error)})") from None


def _line(error: BaseException) -> str:
    """The first line of an error, short."""
    return (str(error).splitlines() or [type(error).__name__])[0][:100]


_LITERALS = """
INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES
BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8
""".split()  # noqa: SIM905 (one word each is easier to read)
_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}


class _Machine:
    """The stack machine of pickle, with nodes in place of calls."""

    def __init__(self, persistent: Callable[[Any], Any]) -> None:
        self.stack: list = []
        self.below: list[list] = []  # one stack for each open mark
        self.memo: dict[int, Any] = {}
        self.persistent = persistent

    def step(self, name: str, argument: Any) -> None:
        """Perform one instruction."""
        if name in _LITERALS:
            self._push(argument)
        elif name in _NEW:
            self._push(_NEW[name]())
        elif not (self._move(name, argument) or self._collect(name) or self._build(name, argument)):
            raise CheckpointError(f"its pickle uses the instruction {name}, which no checkpoint needs")

    def _push(self, value: Any) -> None:
        """Put a value on the stack that is current once the value is computed."""
        self.stack.append(value)

    def _take(self, count: int) -> list:
        """Remove and return the last values of the stack."""
        if len(self.stack) < count:
            raise ValueError("stack underflow")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def _marked(self) -> list:
        """Remove and return the values since the last mark."""
        values, self.stack = self.stack, self.below.pop()
        return values

    def _move(self, name: str, argument: Any) -> bool:
        """Instructions on the stack and the memo; False for any other."""
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                self.below.append(self.stack)
                self.stack = []
            case "POP_MARK":
                self._marked()
            case "POP":
                self._take(1) if self.stack else self._marked()
            case "DUP":
                self._push(self.stack[-1])
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                self._push(self.memo[argument])
            case _:
                return False
        return True

    def _collect(self, name: str) -> bool:
        """Instructions that fill containers; False for any other."""
        match name:
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self._push(tuple(self._take(int(name[-1]))))
            case "TUPLE" | "FROZENSET":
                self._push(tuple(self._marked()))
            case "LIST":
                self._push(self._marked())
            case "DICT":
                self._push(_pairs(self._marked()))
            case "APPEND":
                _extend(self.stack[-2], self._take(1))
            case "APPENDS" | "ADDITEMS":
                values = self._marked()
                _extend(self.stack[-1], values)
            case "SETITEM":
                _update(self.stack[-3], self._take(2))
            case "SETITEMS":
                values = self._marked()
                _update(self.stack[-1], values)
            case _:
                return False
        return True

    def _build(self, name: str, argument: Any) -> bool:
        """Instructions that name, call or fill objects; False for any other."""
        match name:
            case "GLOBAL":
                self._push(checked_global(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                self._push(checked_global(*self._take(2)))
            case "BINPERSID":
                self._push(self.persistent(self._take(1)[0]))
            case "REDUCE" | "NEWOBJ":
                self._push(_call(*self._take(2)))
            case "NEWOBJ_EX":
                callee, arguments, _ = self._take(3)
                self._push(_call(callee, arguments))
            case "INST":
                self._push(_call(checked_global(*argument.split(" ", 1)), tuple(self._marked())))
            case "OBJ":
                callee, *values = self._marked()
                self._push(_call(callee, tuple(values)))
            case "BUILD":
                _set_state(self.stack[-2], self._take(1)[0])
            case _:
                return False
        return True


def _call(callee: Any, arguments: Any) -> Any:
    """What REDUCE and its relatives leave on the stack: a standard container, or a node."""
    if not isinstance(callee, Global) or not isinstance(arguments, tuple):
        raise ValueError("a call of something that is not a name")
    if callee.name in _DICTS:
        items = arguments[-1] if arguments else ()
        if isinstance(items, dict):
            return dict(items)
        return _pairs([x for pair in items for x in pair] if isinstance(items, list | tuple) else [])
    if callee.name in _LISTS:
        return list(arguments[0]) if arguments else []
    if callee.name == "copyreg._reconstructor" and arguments and isinstance(arguments[0], Global):
        return Node(arguments[0].name, arguments[1:])
    return Node(callee.name, arguments)


def _set_state(target: Any, state: Any) -> None:
    """BUILD: kept for nodes; attributes of a container (as a state dict's ``_metadata``) are dropped."""
    if isinstance(target, Node):
        target.state = state
    elif not isinstance(target, dict | list):
        raise ValueError(f"a state for a {type(target).__name__}")


def _extend(target: Any, values: list) -> None:
    """APPEND, APPENDS and ADDITEMS."""
    if isinstance(target, list):
        target.extend(values)
    elif not isinstance(target, Node):
        raise ValueError(f"items for a {type(target).__name__}")


def _update(target: Any, values: list) -> None:
    """SETITEM and SETITEMS."""
    if isinstance(target, Node):
        target.entries.update(_pairs(values))
    elif isinstance(target, dict):
        target.update(_pairs(values))
    else:
        raise ValueError(f"entries for a {type(target).__name__}")


def _pairs(values: list) -> dict:
    """A dict from keys and values in turn. Only scalars are hashed: a deep tuple would exhaust the C stack."""
    keys = [key if isinstance(key, str | int | float | bytes | None) else Node("key", (key,)) for key in values[::2]]
    return dict(zip(keys, values[1::2], strict=True))
