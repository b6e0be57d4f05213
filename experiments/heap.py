"""What the C library does with memory that programs free. Nothing happens with another C library than glibc."""

import contextlib
import ctypes

_LIBRARY = "libc.so.6"
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of <malloc.h>


def keep_freed_memory() -> None:
    """Let large buffers be used again; mapping them anew costs CPUs a tenth to a half of a step's time."""
    with contextlib.suppress(OSError, AttributeError):
        set_option = ctypes.CDLL(_LIBRARY).mallopt
        set_option(_M_MMAP_MAX, 0)
        set_option(_M_TRIM_THRESHOLD, 2**31 - 1)
        set_option(_M_ARENA_MAX, 1)  # other arenas cannot hold large buffers


def give_back() -> None:
    """Return what is free now to the system: after a compilation, which takes hundreds of megabytes for a moment."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(_LIBRARY).malloc_trim(0)
