"""Memory of the process: fewer arenas, freed memory returned, and clear errors when memory runs out.

glibc keeps freed memory in an arena for each thread: up to 300 MB beside a model of 400 MB.
"""

import contextlib
import ctypes
import gc
import sys
from collections.abc import Iterator

from pargate.errors import OperationalError, is_out_of_memory

_ARENA_MAX = -8
"""M_ARENA_MAX of glibc's malloc.h."""


def share_one_arena() -> None:
    """Make all threads allocate from one arena; call it before they start."""
    with contextlib.suppress(AttributeError, OSError):  # another C library than glibc
        if sys.platform == "linux":
            ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)


def give_back() -> None:
    """Return the allocator's free memory to the system."""
    with contextlib.suppress(AttributeError, OSError):
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Let Python's cyclic collector rest meanwhile; for code that makes many objects and no cycles."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextlib.contextmanager
def guard(doing: str, advice: str) -> Iterator[None]:
    """Turn an out-of-memory error on any device into an `OperationalError`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise OperationalError(f"out of memory while {doing}", advice) from error
        raise
