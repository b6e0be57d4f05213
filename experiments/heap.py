"""What the C library does with memory that programs free. Nothing happens with another C library than glibc."""

import contextlib
import ctypes

_LIBRARY = "libc.so.6"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8  # of <malloc.h>
_NEVER = -1  # a limit of a C int would be 2 GB: what is more would go back after each step
_DEFAULT_MMAP_MAX, _LARGE_BUFFER = 65_536, 32 * 2**20
_LARGE_MODEL = 256 * 2**20


def use_arenas(count: int) -> None:
    """Let threads share so many heaps, and what was freed there; must come before there are threads.

    One takes the least memory. After a compilation, which leaves it in pieces, threads of one heap wait for each other:
    a training step of ResNet-18 takes a third longer than with one more heap than cores. With many more, large buffers
    are mapped anew in each step, as only the first heap can grow to hold them.
    """
    _set_options((_M_ARENA_MAX, count))


def keep_freed_memory() -> None:
    """Let large buffers be used again; mapping them anew costs CPUs a tenth to a half of a step's time."""
    _set_options((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER))


def suit_model(weights: int) -> None:
    """Map large buffers anew after all where a model is large, and steps take seconds.

    The heap that keeps them would then be in pieces: twice the memory, and 5 % more time.

    Args:
      weights: bytes of the model's weights.
    """
    if weights > _LARGE_MODEL:
        _set_options((_M_MMAP_MAX, _DEFAULT_MMAP_MAX), (_M_MMAP_THRESHOLD, _LARGE_BUFFER))


def give_back() -> None:
    """Return what is free now to the system: after a compilation, which takes hundreds of megabytes for a moment."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(_LIBRARY).malloc_trim(0)


def _set_options(*options: tuple[int, int]) -> None:
    with contextlib.suppress(OSError, AttributeError):
        set_option = ctypes.CDLL(_LIBRARY).mallopt
        for option, value in options:
            set_option(option, value)
