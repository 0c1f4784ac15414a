"""Which process of a run this is, by the variables that `torchrun` sets. Light: no torch."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from pargate.errors import InputError, PargateError, PeerEnded


@dataclass(frozen=True, slots=True)
class Place:
    """A process among those of its run; by default the only one."""

    rank: int = 0
    local_rank: int = 0
    """Among the processes of its machine."""
    world: int = 1


def here() -> Place:
    """This process's place; where no `WORLD_SIZE` says that there are others, it is alone.

    Raises:
        InputError: the variables are no numbers, or do not go together.
    """
    world = _number("WORLD_SIZE", 1)
    if world == 1:
        return Place()
    found = Place(_number("RANK", -1), _number("LOCAL_RANK", 0), world)
    if not 0 <= found.rank < world or found.local_rank < 0:
        raise InputError(
            f"WORLD_SIZE is {world}, RANK {os.environ.get('RANK', 'missing')}, "
            f"LOCAL_RANK {os.environ.get('LOCAL_RANK', 'missing')}: no place in a run of several processes",
            "start them with torchrun, or unset WORLD_SIZE",
        )
    return found


def first_here() -> bool:
    """Whether this process says what is wrong with a command that all processes of its machine were given."""
    try:
        return here().local_rank == 0
    except InputError:
        return True


def launched() -> bool:
    """Whether `torchrun` itself started this process: then a process of its own keeps the store."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextlib.contextmanager
def told_by_one() -> Iterator[None]:
    """What is wrong with a request is wrong in all processes of a machine: the first of them says so.

    Raises:
        PeerEnded: in the place of any error, in the others.
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
