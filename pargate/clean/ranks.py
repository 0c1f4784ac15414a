"""Find the rank of this process from the variables that `torchrun` sets, without torch."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from pargate.errors import InputError, PargateError, PeerEnded


@dataclass(frozen=True, slots=True)
class Place:
    """The rank of a process in its run; by default it is the only one."""

    rank: int = 0
    local_rank: int = 0
    """Rank among the processes of the machine."""
    world: int = 1


def here() -> Place:
    """Return the rank of this process; without `WORLD_SIZE` it is the only one.

    Raises:
        InputError: the variables are not numbers, or contradict each other.
    """
    world = _number("WORLD_SIZE", 1)
    if world == 1:
        return Place()
    found = Place(_number("RANK", -1), _number("LOCAL_RANK", 0), world)
    if not 0 <= found.rank < world or found.local_rank < 0:
        raise InputError(
            f"WORLD_SIZE is {world}, RANK {os.environ.get('RANK', 'missing')}, "
            f"LOCAL_RANK {os.environ.get('LOCAL_RANK', 'missing')}, which is not a rank in a run of several processes",
            "start them with torchrun, or unset WORLD_SIZE",
        )
    return found


def first_here() -> bool:
    """Return whether this process is the one of its machine that reports errors of the command."""
    try:
        return here().local_rank == 0
    except InputError:
        return True


def launched() -> bool:
    """Return whether `torchrun` started this process, and with it another process for the store."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextlib.contextmanager
def told_by_one() -> Iterator[None]:
    """Report an error of the request, which all processes of a machine have, in the first of them only.

    Raises:
        PeerEnded: instead of any error, in the other processes.
    """
    try:
        yield
    except PargateError as error:
        if not first_here():
            raise PeerEnded(error.exit_code) from error
        raise


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"{name} is '{text[:40]}', not a number", "start with torchrun, or unset it") from error
