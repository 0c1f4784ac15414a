"""Blocks of decoded carriers, prepared in worker processes a little ahead of their use.

Memory is bounded by the few blocks in flight.
"""

import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from pargate.core.model import Preprocess
from pargate.errors import InputError
from pargate.images.sources import Item
from pargate.images.workers import Job, Scene, Workers

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


UNREADABLE_PERCENT = 1
"""Share of a source that may be unreadable: more means that something is wrong with the whole of it."""


def check_readable(source: str, total: int, unreadable: Sequence[tuple[str, str]], read: int) -> None:
    """Raise if what could not be read is too much for the rest to stand for all.

    `unreadable` holds key and reason of each such picture among the first looked at, of which `read` could be.

    Raises:
        InputError: it is more than one percent of the `total`, or more than could be read.
    """
    lost = len(unreadable)
    if lost * 100 > total * UNREADABLE_PERCENT or lost > read:
        few = lost * 100 <= total * UNREADABLE_PERCENT
        among = f"{lost} of the first {lost + read}" if few else f"{lost} of the {total}"
        share = "half" if few else f"{UNREADABLE_PERCENT}%"
        named = "; ".join(f"{key}: {reason}" for key, reason in unreadable[:5])
        raise InputError(
            f"{among} pictures in {source} cannot be read, more than {share}: {named}", "remove or replace them"
        )


class Decoder:
    """Decodes blocks of items; a context manager that owns the workers."""

    def __init__(self, rule: Preprocess, seed: int) -> None:
        """Start the workers, which resize pictures by `rule` and render scenes from `seed`.

        Raises:
            OperationalError: no process can be started.
        """
        self._rule = rule
        self._seed = seed
        self._items: Sequence[Item] = ()
        self._blocks: Sequence[NDArray[np.int64]] = ()
        self._workers = Workers(rule, max(1, min(4, (os.cpu_count() or 2) // 2)))
        self._pending: dict[int, Job] = {}
        self._kept: OrderedDict[int, Block] = OrderedDict()

    def __enter__(self) -> "Decoder":
        """Nothing to do: the workers have started."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop what was not used and end the workers."""
        self._workers.close()

    def start(self, items: Sequence[Item], blocks: Sequence[NDArray[np.int64]]) -> None:
        """Begin with the first of `blocks`, arrays of positions in `items`."""
        self._items, self._blocks = items, blocks
        for number in range(min(AHEAD, len(blocks))):
            self._ask(number)

    def _ask(self, number: int) -> None:
        if number not in self._pending:
            places = [self._items[row].place for row in self._blocks[number]]
            self._pending[number] = self._workers.submit(
                [Scene(place, self._seed) if isinstance(place, int) else place for place in places]
            )

    def readable(self, number: int, source: str) -> Block:
        """Block `number`, enough of it readable to set a model up; `source` names the items in messages.

        Raises:
            InputError: too many pictures of it cannot be read.
            OperationalError: as `block`.
        """
        block = self.block(number)
        check_readable(source, len(self._items), block.unreadable, len(block.digests))
        return block

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
        decoded = self._workers.result(self._pending.pop(number))
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
