"""Blocks of decoded carriers, prepared in worker processes a little ahead of their use.

Processes, not threads: a picture that crashes a decoder kills a worker, not the gate, and decoding never
competes with the encoder for the interpreter. Memory is bounded by the few blocks in flight.
"""

import contextlib
import os
import signal
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from pargate.core.model import Preprocess
from pargate.data.images import Decoded, Locator, decode_many
from pargate.data.sources import Item
from pargate.errors import OperationalError

AHEAD = 1
"""Blocks decoded before they are asked for."""

KEPT_BYTES = 16 << 20
"""Decoded blocks that are kept for a second look, in bytes."""


@dataclass(frozen=True, slots=True)
class Block:
    """Some carriers at model resolution, in the set's order."""

    pixels: NDArray[np.uint8]
    """[n, H, W, 3]."""
    digests: tuple[str, ...]
    """Hex SHA-256 of each picture's encoded bytes."""
    rows: NDArray[np.int64]
    """Which items of the set these are: those that could be read."""
    unreadable: tuple[tuple[str, str], ...]
    """Key and reason of each item of the block that could not be."""


class Decoder:
    """Decodes blocks of items; a context manager that owns the workers."""

    def __init__(self, rule: Preprocess, seed: int) -> None:
        """Start the workers, which resize pictures by `rule` and render scenes from `seed`."""
        self._rule = rule
        self._seed = seed
        self._items: Sequence[Item] = ()
        self._blocks: Sequence[NDArray[np.int64]] = ()
        workers = max(1, min(4, (os.cpu_count() or 2) // 2))
        # Spawned, because the parent may hold threads of torch, which do not survive a fork.
        self._pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
        for _ in range(workers):
            # Nothing to decode yet, but a worker's own imports take longer than a block.
            self._submit([])
        self._pending: dict[int, Future[list[Decoded]]] = {}
        self._kept: OrderedDict[int, Block] = OrderedDict()

    def __enter__(self) -> "Decoder":
        """Nothing to do: the workers have started."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop what was not used and end the workers.

        Waits for the block that each is at: left to themselves they would race the interpreter's own end.
        """
        self._pool.shutdown(wait=True, cancel_futures=True)

    def start(self, items: Sequence[Item], blocks: Sequence[NDArray[np.int64]]) -> None:
        """Begin with the first of `blocks`, arrays of positions in `items`."""
        self._items, self._blocks = items, blocks
        for number in range(min(AHEAD, len(blocks))):
            self._ask(number)

    def _ask(self, number: int) -> None:
        if number not in self._pending:
            self._pending[number] = self._submit([self._items[row].place for row in self._blocks[number]])

    def _submit(self, places: list[Locator | int]) -> Future[list[Decoded]]:
        try:
            with _deaf_to_interrupts():
                return self._pool.submit(_work, places, self._rule, self._seed)
        except BrokenProcessPool as error:
            raise _killed() from error

    def block(self, number: int) -> Block:
        """Block `number`, waiting for it if need be; the next ones are begun.

        Raises:
            OperationalError: a worker was killed, by the system (memory) or by a picture.
        """
        if number in self._kept:
            return self._kept[number]
        for ahead in range(number, min(number + 1 + AHEAD, len(self._blocks))):
            if ahead not in self._kept:
                self._ask(ahead)
        try:
            decoded = self._pending.pop(number).result()
        except BrokenProcessPool as error:
            raise _killed() from error
        rows = self._blocks[number]
        good = [i for i, d in enumerate(decoded) if d.pixels is not None]
        read = [d.pixels for d in decoded if d.pixels is not None]
        block = Block(
            np.stack(read) if read else np.empty((0, *self._rule.size, 3), np.uint8),
            tuple(decoded[i].digest for i in good),
            rows[good],
            tuple((self._items[rows[i]].key, d.problem) for i, d in enumerate(decoded) if d.pixels is None),
        )
        self._kept[number] = block
        while sum(b.pixels.nbytes for b in self._kept.values()) > KEPT_BYTES and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return block


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Workers that start meanwhile never see Ctrl-C, which reaches the whole group and is ours to answer.

    A blocked signal is inherited; ours is only delivered a little later.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _killed() -> OperationalError:
    return OperationalError(
        "a process that decodes pictures was killed",
        "usually the system ran out of memory: free some, or use smaller pictures; the next run resumes",
    )


def _work(places: list[Locator | int], rule: Preprocess, seed: int) -> list[Decoded]:
    """Runs in a worker: one block."""
    scenes = [place for place in places if isinstance(place, int)]
    if not scenes:
        return decode_many([place for place in places if isinstance(place, Locator)], rule)
    from pargate.data.carriers import render_scenes

    return render_scenes(scenes, rule, seed)
