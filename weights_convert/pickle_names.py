"""Names in a pickle, and which of them make a file unacceptable.

Classes and functions of torch, torchvision, timm, numpy or the user's own modules are allowed, because whole-module
checkpoints are full of them; they stay text and are never imported or called. Names from modules that reach the system,
the network or the interpreter (``DENIED``), and built-in functions other than plain types, appear in no honest
checkpoint: the file is refused, even where the name is never called, so that its owner learns what it is.
"""

from dataclasses import dataclass, field
from typing import Any

_SYSTEM = """
_frozen_importlib _frozen_importlib_external _io _pickle _posixsubprocess _socket _winapi aiohttp asyncio bdb
cProfile cffi cloudpickle code codeop commands concurrent ctypes dill distutils ftplib http httpx importlib inspect
io linecache marshal msvcrt multiprocessing nt ntpath os pdb pickle pip pkgutil platform popen2 posix posixpath
profile pty pydoc requests resource runpy setuptools shelve shutil signal site smtplib socket socketserver ssl
subprocess sys tempfile threading timeit trace urllib urllib2 venv webbrowser winreg xmlrpc zipimport
"""
_PLAIN_TYPES = """
bool bytearray bytes complex dict float frozenset int list long object range set slice str tuple unicode xrange
"""
BUILTINS = frozenset({"builtins", "__builtin__", "__builtins__"})
DENIED = frozenset(_SYSTEM.split()) | BUILTINS
PLAIN_TYPES = frozenset(_PLAIN_TYPES.split())


class CheckpointError(ValueError):
    """A file that cannot be used as a checkpoint; the message is one sentence (or a table) for the user."""


@dataclass(frozen=True)
class Global:
    """A name in a pickle, such as ``torch.FloatStorage``: only its text."""

    name: str


@dataclass(eq=False)
class Node:
    """A call or an instance that a pickle asks for, kept as a description.

    Attributes:
      name: dotted name of the class or function.
      args: the arguments.
      state: what BUILD would have handed to ``__setstate__``.
      entries: items of a subclass of ``dict`` (list subclasses are not kept: no weights live there).
    """

    name: str
    args: tuple
    state: Any = None
    entries: dict = field(default_factory=dict)


def checked_global(module: str, name: str) -> Global:
    """A name, after the deny-list.

    Raises:
      CheckpointError: if the name belongs to what ``DENIED`` describes, also by a path such as ``torch`` ``os.system``.
    """
    if module in BUILTINS:
        module, allowed = "builtins", name in PLAIN_TYPES
    else:
        allowed = DENIED.isdisjoint([module.split(".")[0], *name.split(".")[:-1]])
    if not allowed:
        raise CheckpointError(
            f"refused: its pickle names {module}.{name}, which no weights need; nothing in the file was run"
        )
    return Global(f"{module}.{name}")
