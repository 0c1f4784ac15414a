"""Memory of the machine: said clearly when it runs out, and not held where nobody uses it.

glibc's allocator keeps what was freed, in an arena for each thread. With weights that are converted and
activations of many sizes that was up to 300 MB beside a model of 400 MB.
"""

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import torch

from pargate.errors import OperationalError

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
        if is_full(error):
            raise OperationalError(f"out of memory while {doing}", advice) from error
        raise


def is_full(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    # On the CPU torch raises a plain RuntimeError, which only its words tell from others; oneDNN's end like this where
    # there is no memory for the code of a convolution.
    words = str(error)
    plain = "can't allocate memory" in words or words.endswith("could not create a primitive")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or plain
