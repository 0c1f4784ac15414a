"""Run one process per device, as `torchrun` starts them; a run without it is a group of one process."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from pargate.clean import ranks
from pargate.errors import ExitCode, OperationalError, PargateError, PeerEnded

PATIENCE = timedelta(minutes=15)
"""Time that a process waits for the others, which is longer than saving a state takes."""

POLLED_S = 0.2
"""Seconds between two polls of the leading process."""

LINGERING_S = 3.0
"""Time that the process with the store waits after an error, so that the others can read it."""


_MADE, _TOLD, _CODE, _HEARD = "pargate/made", "pargate/told", "pargate/code", "pargate/heard"
"""Keys of the store: the leading process is done; the number of processes with an error, the exit code of the one that
reported it, and the number of processes that read it."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of one run."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0

    def joined(self, own: Tensor, dim: int) -> Tensor:
        """Return the rows of all ranks along `dim`, in their order; only the rows of this rank have a gradient."""
        if self.world == 1:
            return own
        found = [torch.empty_like(own) for _ in range(self.world)]
        distributed.all_gather(found, own.detach().contiguous())
        found[self.rank] = own
        return torch.cat(found, dim)

    def summed(self, own: Tensor) -> Tensor:
        """Return the sum over all ranks; `own` is overwritten."""
        if self.world > 1:
            distributed.all_reduce(own)
        return own

    def united(self, own: Iterable[int]) -> set[int]:
        """Return the union of the numbers of all ranks."""
        found = [list(own)] * self.world
        if self.world > 1:
            distributed.all_gather_object(found, found[0])
        return set().union(*found)

    def agreed(self, own: Sequence[str]) -> list[str]:
        """Return the strings of the leading process, as many as in `own`."""
        found = list(own)
        if self.world > 1:
            distributed.broadcast_object_list(found)
        return found

    def first(self, make: Callable[[], T]) -> T:
        """Return the result of `make`, called in the leading process first, then in the others.

        Raises:
            PeerEnded: another process reported an error.
        """
        if self.leads:
            made = make()
            if self.world > 1:
                _store().set(_MADE, "")
            return made
        while not _store().check([_MADE]):  # not `wait`, which no signal ends
            if _store().check([_CODE]):
                raise PeerEnded(ExitCode(int(_store().get(_CODE))))
            time.sleep(POLLED_S)
        return make()

    def wait(self) -> None:
        """Go on once all processes are here."""
        if self.world > 1:
            distributed.barrier()


_GONE = ("connection closed", "connection reset", "timed out", "remote process exited", "broken pipe", "peer")
"""Parts of the messages of gloo and NCCL when a process does not answer."""


@contextlib.contextmanager
def group(device: str) -> Iterator[tuple[Group, str]]:
    """Join the group that `torchrun`'s variables describe; yield it with the device of this process.

    An error is reported by the first process that it happens to. If a process was killed, the first that misses it
    reports that.

    Raises:
        InputError: the variables are wrong.
        OperationalError: the other processes cannot be reached, or one of them ended.
        PeerEnded: another process reported an error.
    """
    place = ranks.here()
    if place.world == 1:
        yield Group(), device
        return
    if device == "cuda":
        device = f"cuda:{place.local_rank}"
        torch.cuda.set_device(device)
    try:
        distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise OperationalError(
            f"WORLD_SIZE is {place.world}, but the processes cannot connect: {str(error)[:160]}",
            "start them with torchrun --nproc-per-node N -m pargate clean …",
        ) from error
    try:
        with _told_once(), _missing_noticed():
            yield Group(place.rank, place.world), device
    finally:
        distributed.destroy_process_group()


@contextlib.contextmanager
def _missing_noticed() -> Iterator[None]:
    """Turn an error of communication into one that says that another process ended."""
    try:
        yield
    except RuntimeError as error:
        if any(sign in str(error).lower() for sign in _GONE):
            raise OperationalError(
                "another process of this run ended", "find out why, then start all processes again with --resume"
            ) from error
        raise


@contextlib.contextmanager
def _told_once() -> Iterator[None]:
    try:
        yield
    except PargateError as error:
        code = None if isinstance(error, PeerEnded) else _told_before(error.exit_code)
        _let_hear()
        if code is not None:
            raise PeerEnded(code) from error
        raise


def _store() -> Any:
    """Return the key-value store of the processes."""
    return distributed.distributed_c10d._get_default_store()


def _told_before(own: ExitCode) -> ExitCode | None:
    """Return the exit code that another process reported, or record `own` and return None."""
    with contextlib.suppress(RuntimeError):  # the process with the store was killed, and reported nothing
        if _store().add(_TOLD, 1) == 1:
            _store().set(_CODE, str(int(own)))
        else:
            return ExitCode(int(_store().get(_CODE)))
    return None


def _let_hear() -> None:
    """Wait until all processes have read the report: without torchrun the store is in the first process."""
    with contextlib.suppress(RuntimeError):
        heard = _store().add(_HEARD, 1)
        deadline = time.monotonic() + LINGERING_S
        while distributed.get_rank() == 0 and not ranks.launched() and time.monotonic() < deadline:
            if heard == distributed.get_world_size():
                break
            time.sleep(0.05)
            heard = _store().add(_HEARD, 0)
