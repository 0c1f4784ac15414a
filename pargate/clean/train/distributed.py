"""One process for each device, as `torchrun` starts them; a run without it is a group of one."""

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
"""How long one process waits for the others: longer than any of them takes to save a state."""

POLLED_S = 0.2
"""Between two looks at whether the leading process is done."""

LINGERING_S = 3.0
"""How long the process that keeps the store stays for the others to ask it, after something went wrong."""


_MADE, _TOLD, _CODE, _HEARD = "pargate/made", "pargate/told", "pargate/code", "pargate/heard"
"""Keys of the store: the leading process has made what the others wait for; how many wanted to tell what went wrong,
the exit code of the one that did, and how many know of it."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of one run."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one process that writes and speaks."""
        return self.rank == 0

    def joined(self, own: Tensor, dim: int) -> Tensor:
        """The rows of all ranks along `dim`, in the order of ranks; only those of this rank carry a gradient."""
        if self.world == 1:
            return own
        found = [torch.empty_like(own) for _ in range(self.world)]
        distributed.all_gather(found, own.detach().contiguous())
        found[self.rank] = own
        return torch.cat(found, dim)

    def summed(self, own: Tensor) -> Tensor:
        """The sum over all ranks; `own` is used up."""
        if self.world > 1:
            distributed.all_reduce(own)
        return own

    def united(self, own: Iterable[int]) -> set[int]:
        """The numbers of all ranks."""
        found = [list(own)] * self.world
        if self.world > 1:
            distributed.all_gather_object(found, found[0])
        return set().union(*found)

    def agreed(self, own: Sequence[str]) -> list[str]:
        """The words of the leading process, as many as this one's."""
        found = list(own)
        if self.world > 1:
            distributed.broadcast_object_list(found)
        return found

    def first(self, make: Callable[[], T]) -> T:
        """What `make` gives, in the leading process first, which may download or draw it for hours; then in the others.

        Raises:
            PeerEnded: in the others, once another has told what went wrong.
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
"""What gloo and NCCL say when nobody answers."""


@contextlib.contextmanager
def group(device: str) -> Iterator[tuple[Group, str]]:
    """The group that `torchrun`'s variables describe, and this process's own device; left at the end.

    What goes wrong inside is told by the first process that it happens to. A process that was killed cannot tell, so
    the first that misses it does.

    Raises:
        InputError: the variables make no sense.
        OperationalError: the variables are there, and the others are not; or another process is gone.
        PeerEnded: another process has told what went wrong.
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
            f"WORLD_SIZE is {place.world}, but the processes do not find each other: {str(error)[:160]}",
            "start them with torchrun --nproc-per-node N -m pargate clean …",
        ) from error
    try:
        with _told_once(), _missing_noticed():
            yield Group(place.rank, place.world), device
    finally:
        distributed.destroy_process_group()


@contextlib.contextmanager
def _missing_noticed() -> Iterator[None]:
    """Say what it means when talking to the others fails."""
    try:
        yield
    except RuntimeError as error:
        if any(sign in str(error).lower() for sign in _GONE):
            raise OperationalError(
                "another process of this run ended", "find out why, then start all of them again with --resume"
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
    """Where the processes leave words for one another."""
    return distributed.distributed_c10d._get_default_store()


def _told_before(own: ExitCode) -> ExitCode | None:
    """The exit code of what another process has told; None where this one is the first to tell, with its own."""
    with contextlib.suppress(RuntimeError):  # whoever keeps the store was killed, and has told nothing
        if _store().add(_TOLD, 1) == 1:
            _store().set(_CODE, str(int(own)))
        else:
            return ExitCode(int(_store().get(_CODE)))
    return None


def _let_hear() -> None:
    """Stay until all have asked who tells: without torchrun the store is in the first process."""
    with contextlib.suppress(RuntimeError):
        heard = _store().add(_HEARD, 1)
        deadline = time.monotonic() + LINGERING_S
        while distributed.get_rank() == 0 and not ranks.launched() and time.monotonic() < deadline:
            if heard == distributed.get_world_size():
                break
            time.sleep(0.05)
            heard = _store().add(_HEARD, 0)
