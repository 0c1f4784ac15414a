"""Batches of pairs, decoded a little ahead of their use.

The step that trains never waits for a picture that could have been ready: batches are begun two steps ahead
and cut into pieces that all workers share. A finite source is decoded once, not once an epoch, as far as a
store of bounded size reaches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from pargate.core.model import Preprocess
from pargate.errors import InputError
from pargate.images.decode import Decoded
from pargate.images.pairs import Pairs, Split
from pargate.images.workers import Job, Workers, processors

AHEAD = 2
"""Batches begun before they are asked for: one is on its way while the next is used."""

PIECE = 64
"""Pictures a worker takes at once: several to a batch, so that all workers share it."""

STORE_BYTES = 1 << 30
"""Decoded pictures that are kept, in bytes: some 87,000 at 64 pixels, 7,000 at 224."""

UNREADABLE_PERCENT = 1
"""Share of a source that may not decode. Large collections have a few; more means that something is wrong."""


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Pairs at model resolution."""

    numbers: NDArray[np.int64]
    """[n], which pairs of the source these are."""
    pixels: NDArray[np.uint8]
    """[n, H, W, 3], RGB, 0..255, before normalisation."""
    captions: tuple[str, ...]
    """One per picture."""
    digests: tuple[str, ...]
    """Hex SHA-256 of each picture's encoded bytes, or of its pixels where it was drawn."""


class PairLoader:
    """Gives the batch of any step; a context manager that owns the workers."""

    def __init__(
        self,
        pairs: Pairs,
        rule: Preprocess,
        *,
        seed: int,
        batch: int,
        rank: int = 0,
        world: int = 1,
        first_step: int = 0,
        last_step: int,
        workers: int | None = None,
        store_bytes: int = STORE_BYTES,
    ) -> None:
        """Begin with `first_step`; nothing is prepared from `last_step` on.

        `batch` counts the pairs of one rank. `rule` is the model's own preprocessing. `workers` is the number of
        processes, 0 for none: pictures are then decoded when asked for.

        Raises:
            InputError: the source is smaller than a batch over all ranks.
            OperationalError: no process can be started.
        """
        self.split = Split(pairs.count, seed, batch, world)
        self.unreadable: dict[int, str] = {}
        """Why the picture of a pair could not be decoded; the next readable pair took its place."""
        self._pairs, self._rule, self._rank, self._last = pairs, rule, rank, last_step
        self._store = _Store(pairs.count or 0, rule.size, store_bytes)
        self._pending: dict[int, list[tuple[NDArray[np.int64], Job]]] = {}
        # Half of the processors: the others feed the device, or are the device.
        wanted = max(1, min(8, processors() // (2 * world))) if workers is None else workers
        self._workers = Workers(rule, wanted)
        self._ahead = AHEAD if wanted else 0
        for step in range(first_step, min(first_step + self._ahead, last_step)):
            self._ask(step)

    def __enter__(self) -> "PairLoader":
        """Nothing to do: the workers have started."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop what was not used and end the workers."""
        self._workers.close()

    def batch(self, step: int) -> PairBatch:
        """The pairs of `step` on this rank, waiting for them if need be; the next steps are begun.

        Raises:
            InputError: too many pictures of the source do not decode.
            OperationalError: a worker was killed, by the system (memory) or by a picture.
        """
        wanted = range(step, min(step + 1 + self._ahead, max(self._last, step + 1)))
        self._pending = {ahead: jobs for ahead, jobs in self._pending.items() if ahead in wanted}
        for ahead in wanted:
            self._ask(ahead)
        numbers = self.split.numbers(step, self._rank)
        pixels = np.empty((len(numbers), *self._rule.size, 3), dtype=np.uint8)
        found = {int(n): d for some, job in self._pending.pop(step) for n, d in self._result(some, job)}
        digests, taken = [], np.empty_like(numbers)
        for row, number in enumerate(numbers):
            taken[row], digest, pixels[row] = self._readable(int(number), found)
            digests.append(digest)
        return PairBatch(taken, pixels, tuple(self._pairs.captions(taken)), tuple(digests))

    def _ask(self, step: int) -> None:
        """Begin a batch, in pieces; what is stored is not asked for."""
        if step in self._pending:
            return
        numbers = self.split.numbers(step, self._rank)
        missing = np.array([n for n in numbers if n not in self._store and n not in self.unreadable], dtype=np.int64)
        pieces = [missing[i : i + PIECE] for i in range(0, len(missing), PIECE)]
        self._pending[step] = [(piece, self._workers.submit(self._pairs.places(piece))) for piece in pieces]

    def _result(self, numbers: Sequence[int] | NDArray[np.int64], job: Job) -> list[tuple[int, Decoded]]:
        """What a job found, stored and with its failures counted."""
        found = list(zip(map(int, numbers), self._workers.result(job), strict=True))
        for number, picture in found:
            if picture.pixels is None:
                self._refuse(number, picture.problem)
            else:
                self._store.keep(number, picture.digest, picture.pixels)
        return found

    def _readable(self, number: int, found: dict[int, Decoded]) -> tuple[int, str, NDArray[np.uint8]]:
        """Number, digest and pixels of a pair, or of the first readable pair after it."""
        while True:
            picture = found.get(number) or self._store.get(number)
            if picture is None and number not in self.unreadable:
                ((_, picture),) = self._result([number], self._workers.submit(self._pairs.places([number])))
            if picture is not None and picture.pixels is not None:
                return number, picture.digest, picture.pixels
            number = (number + 1) % (self._pairs.count or number + 2)

    def _refuse(self, number: int, reason: str) -> None:
        self.unreadable[number] = reason
        count = self._pairs.count or 0
        # Of fewer than a hundred, none.
        if len(self.unreadable) * 100 > count * UNREADABLE_PERCENT:
            first = list(self.unreadable.items())[:5]
            told = "; ".join(f"{_name(self._pairs, n)}: {why}" for n, why in first)
            raise InputError(
                f"{self._pairs.source}: {len(self.unreadable)} of {count} pictures cannot be decoded: {told}",
                f"repair or remove them: at most {UNREADABLE_PERCENT} % of a source is replaced by its neighbours",
            )


def _name(pairs: Pairs, number: int) -> str:
    """A pair in words: its caption says most to a person, its number finds it."""
    (caption,) = pairs.captions([number])
    return f"pair {number} ('{caption[:40]}')"


class _Store:
    """Decoded pictures in memory, kept until there is no room, then as they are.

    Nothing is ever evicted for something newer: epochs are shuffled, so the oldest picture is as likely to be
    wanted as the newest, and the one that is not wanted soon is evicted for nothing.
    """

    def __init__(self, count: int, size: tuple[int, int], room: int) -> None:
        each = size[0] * size[1] * 3
        # Reserved, not used, until a picture is written.
        self._pixels = np.empty((min(count, room // each), *size, 3), dtype=np.uint8)
        self._rows: dict[int, int] = {}
        self._digests: list[str] = []

    def __contains__(self, number: object) -> bool:
        return number in self._rows

    def get(self, number: int) -> Decoded | None:
        """The picture of a pair, if it is kept."""
        row = self._rows.get(number)
        return None if row is None else Decoded(self._digests[row], self._pixels[row])

    def keep(self, number: int, digest: str, pixels: NDArray[np.uint8]) -> None:
        """Keep a picture, if there is room."""
        row = len(self._digests)
        if number not in self._rows and row < len(self._pixels):
            self._rows[number] = row
            self._digests.append(digest)
            self._pixels[row] = pixels
