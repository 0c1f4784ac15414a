"""Memory of the machine: said clearly when it runs out, and not held where nobody uses it.

glibc's allocator keeps what was freed, in an arena for each thread. With weights that are converted and
activations of many sizes that was up to 300 MB beside a model of 400 MB.
"""

import contextlib
import ctypes
import sys
from collections.abc import Iterator

from pargate.errors import OperationalError, is_out_of_memory

_ARENA_MAX = -8
"""M_ARENA_MAX of glibc's malloc.h."""


def share_one_arena() -> None:
    """Let all threads allocate from one place; of use before they start."""
    with contextlib.suppress(AttributeError, OSError):  # another C library than glibc
        if sys.platform == "linux":
            ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)


def give_back() -> None:
    """Return to the system what the allocator holds and nobody uses."""
    with contextlib.suppress(AttributeError, OSError):
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def guard(doing: str, advice: str) -> Iterator[None]:
    """Turn memory that ran out, on whichever device, into an `OperationalError` that says what was done."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise OperationalError(f"out of memory while {doing}", advice) from error
        raise
