"""Decode images in processes ahead of their use: blocks of a scan, batches of image-text pairs.

Memory is bounded: few groups are in flight, and the store of decoded images has a limit.
"""

import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pargate import seeds
from pargate.core.model import Preprocess
from pargate.errors import InputError
from pargate.images.dataset import Dataset, Item
from pargate.images.decode import Decoded
from pargate.images.workers import Job, Place, Workers, processors

PIECE = 64
"""Number of images in one job of a worker; a batch has several jobs, so that all workers share it."""

BLOCKS_AHEAD = 1
"""Number of blocks that are decoded ahead."""

BATCHES_AHEAD = 2
"""Number of batches that are decoded ahead."""

KEPT_BYTES = 16 << 20
"""Largest size of the decoded blocks that are kept for further use."""

STORE_BYTES = 1 << 30
"""Largest size of the decoded images of pairs that are kept: some 87,000 at 64 pixels, 7,000 at 224."""

UNREADABLE_PERCENT = 1
"""Largest share of unreadable images in a source; large collections have a few."""


class _Prefetch:
    """Groups of images that are decoded ahead; a context manager that owns the workers."""

    def __init__(self, rule: Preprocess, workers: int) -> None:
        self._rule = rule
        self._pending: dict[int, tuple[Sequence[int], list[Job]]] = {}
        self._workers = Workers(rule, workers)

    def __enter__(self) -> Self:
        """Return this object; the workers have started already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the workers."""
        self._workers.close()

    def _begin(self, group: int, rows: Sequence[int], places: Sequence[Place]) -> None:
        """Start to decode the images of a group; `rows` are their numbers."""
        jobs = [self._workers.submit(places[first : first + PIECE]) for first in range(0, len(places), PIECE)]
        self._pending[group] = (rows, jobs)

    def _finish(self, group: int) -> list[tuple[int, Decoded]]:
        """Wait for the images of a group and return them with their numbers.

        Raises:
            OperationalError: a worker was killed, by the system (memory) or by an image.
        """
        rows, jobs = self._pending.pop(group)
        found = [image for job in jobs for image in self._workers.result(job)]
        return list(zip(rows, found, strict=True))


# --- blocks of a scan --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """Some images of a scan at model resolution, in their order."""

    pixels: NDArray[np.uint8]
    """[n, H, W, 3]."""
    digests: tuple[str, ...]
    """Hex SHA-256 of each image's encoded bytes."""
    rows: NDArray[np.int64]
    """Positions of the readable items in the set."""
    unreadable: tuple[tuple[str, str], ...]
    """Key and reason of each unreadable item of the block."""


def check_readable(source: str, total: int, unreadable: Sequence[tuple[str, str]], read: int) -> None:
    """Raise if too many images are unreadable for the others to represent the source.

    Args:
        source: name of the source, for messages.
        total: number of images in the source.
        unreadable: key and reason of each unreadable image so far.
        read: number of images that were read so far.

    Raises:
        InputError: more than one percent of the `total` are unreadable, or more than were read.
    """
    lost = len(unreadable)
    if lost * 100 > total * UNREADABLE_PERCENT or lost > read:
        few = lost * 100 <= total * UNREADABLE_PERCENT
        among = f"{lost} of the first {lost + read}" if few else f"{lost} of the {total}"
        share = "half" if few else f"{UNREADABLE_PERCENT}%"
        named = "; ".join(f"{key}: {reason}" for key, reason in unreadable[:5])
        raise InputError(
            f"{among} images in {source} cannot be read, more than {share}: {named}", "remove or replace them"
        )


class Decoder(_Prefetch):
    """Blocks of images for a scan."""

    def __init__(self, rule: Preprocess) -> None:
        """Start the workers, which resize images by `rule`.

        Raises:
            OperationalError: no process can be started.
        """
        super().__init__(rule, max(1, min(4, (os.cpu_count() or 2) // 2)))
        self._items: Sequence[Item] = ()
        self._blocks: Sequence[NDArray[np.int64]] = ()
        self._kept: OrderedDict[int, Block] = OrderedDict()

    def start(self, items: Sequence[Item], blocks: Sequence[NDArray[np.int64]]) -> None:
        """Start to decode the first of `blocks`, arrays of positions in `items`; earlier blocks are forgotten."""
        self._items, self._blocks = items, blocks
        self._pending.clear()
        self._kept.clear()
        self._ask(range(min(BLOCKS_AHEAD, len(blocks))))

    def _ask(self, numbers: range) -> None:
        for number in numbers:
            if number not in self._pending and number not in self._kept:
                rows = self._blocks[number].tolist()
                self._begin(number, rows, [self._items[row].place for row in rows])

    def readable(self, number: int, source: str) -> Block:
        """Return block `number`, and raise if too few of its images are readable; `source` is for messages.

        Raises:
            InputError: too many images of the block cannot be read.
            OperationalError: as `block`.
        """
        block = self.block(number)
        check_readable(source, len(self._items), block.unreadable, len(block.digests))
        return block

    def block(self, number: int) -> Block:
        """Wait for block `number` and return it; start to decode the next ones.

        Raises:
            OperationalError: a worker was killed, by the system (memory) or by an image.
        """
        if number in self._kept:
            return self._kept[number]
        self._ask(range(number, min(number + 1 + BLOCKS_AHEAD, len(self._blocks))))
        decoded = self._finish(number)
        read = [(row, image.digest, image.pixels) for row, image in decoded if image.pixels is not None]
        block = Block(
            np.stack([pixels for _, _, pixels in read]) if read else np.empty((0, *self._rule.size, 3), np.uint8),
            tuple(digest for _, digest, _ in read),
            np.array([row for row, _, _ in read], dtype=np.int64),
            tuple((self._items[row].key, image.problem) for row, image in decoded if image.pixels is None),
        )
        self._kept[number] = block
        while sum(b.pixels.nbytes for b in self._kept.values()) > KEPT_BYTES and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return block


# --- batches of image-text pairs ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BatchOrder:
    """The order in which steps and ranks see the pairs.

    A finite source is shuffled for every epoch, and each epoch drops the pairs that do not fill a batch over all ranks.
    An endless source is used in its order.
    """

    count: int | None
    """Number of pairs of the source; None for an endless one."""
    seed: int
    """Seed of the shuffling."""
    batch: int
    """Number of pairs per step on one rank."""
    world: int = 1
    """Number of ranks."""

    def __post_init__(self) -> None:
        whole = self.batch * self.world
        if self.batch < 1 or whole < 2:
            raise InputError(
                f"a batch of {whole} pairs is too small", "contrastive learning compares pairs: give at least two"
            )
        if self.count is not None and whole > self.count:
            each = f" on each of {self.world} processes, {whole} in all," if self.world > 1 else ""
            largest = self.count // self.world
            raise InputError(
                f"a batch of {self.batch}{each} is more than the {self.count} pairs of the source",
                f"the largest that works is {largest}" if largest * self.world > 1 else "give more pairs",
            )

    @property
    def steps_per_epoch(self) -> int | None:
        """The number of steps in an epoch, or None for an endless source."""
        return None if self.count is None else self.count // (self.batch * self.world)

    def numbers(self, step: int, rank: int = 0) -> NDArray[np.int64]:
        """Return the numbers of the pairs for `rank` in `step` (from 0): int64 [batch]."""
        whole = self.batch * self.world
        if self.count is None:
            first = step * whole + rank * self.batch
            return np.arange(first, first + self.batch, dtype=np.int64)
        epoch, within = divmod(step, self.count // whole)
        first = within * whole + rank * self.batch
        return _shuffled(self.seed, epoch, self.count)[first : first + self.batch]


@lru_cache(maxsize=2)
def _shuffled(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """Return the order of one epoch as a read-only array."""
    order = seeds.permutation(seed, f"pairs of epoch {epoch}", count)
    order.setflags(write=False)
    return order


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Image-text pairs at model resolution."""

    numbers: NDArray[np.int64]
    """[n], numbers of the pairs in their source."""
    pixels: NDArray[np.uint8]
    """[n, H, W, 3], RGB, 0..255, before normalisation."""
    captions: tuple[str, ...]
    """Captions, one per image."""
    digests: tuple[str, ...]
    """Hex SHA-256 of each image's encoded bytes, or of its pixels where it was drawn."""


class PairLoader(_Prefetch):
    """Batches of image-text pairs, one for each step.

    The images of a finite source are decoded once, as far as they fit into the store.
    """

    def __init__(
        self,
        pairs: Dataset,
        rule: Preprocess,
        order: BatchOrder,
        steps: range,
        *,
        rank: int = 0,
        workers: int | None = None,
        store_bytes: int = STORE_BYTES,
    ) -> None:
        """Start to decode the first of `steps`; nothing is decoded beyond the last.

        Args:
            pairs: the dataset.
            rule: the preprocessing of the model.
            order: the pairs of each step.
            steps: the steps that will be used.
            rank: number of this process among those that share a batch.
            workers: number of processes; with 0, this process decodes images when they are used.
            store_bytes: largest size of the decoded images that are kept.

        Raises:
            OperationalError: no process can be started.
        """
        self.order = order
        self.unreadable: dict[int, str] = {}
        """Reasons why images of pairs could not be decoded, by number; the next readable pair replaces each."""
        self._pairs, self._rank, self._last = pairs, rank, steps.stop
        self._store = _Store(pairs.count or 0, rule.size, store_bytes)
        # Half of the CPUs: the others feed the device, or are the device.
        wanted = max(1, min(8, processors() // (2 * order.world))) if workers is None else workers
        super().__init__(rule, wanted)
        self._ahead = BATCHES_AHEAD if wanted else 0
        for step in steps[: self._ahead]:
            self._ask(step)

    def batch(self, step: int) -> PairBatch:
        """Wait for the pairs of `step` on this rank and return them; start to decode the next steps.

        Raises:
            InputError: too many images of the source cannot be decoded.
            OperationalError: a worker was killed, by the system (memory) or by an image.
        """
        wanted = range(step, min(step + 1 + self._ahead, max(self._last, step + 1)))
        self._pending = {ahead: jobs for ahead, jobs in self._pending.items() if ahead in wanted}
        for ahead in wanted:
            self._ask(ahead)
        numbers = self.order.numbers(step, self._rank)
        pixels = np.empty((len(numbers), *self._rule.size, 3), dtype=np.uint8)
        found = dict(self._noted(self._finish(step)))
        digests, taken = [], np.empty_like(numbers)
        for row, number in enumerate(numbers):
            taken[row], digest, pixels[row] = self._readable(int(number), found)
            digests.append(digest)
        return PairBatch(taken, pixels, tuple(self._pairs.captions(taken)), tuple(digests))

    def _ask(self, step: int) -> None:
        """Start to decode the images of a batch that are not in the store."""
        if step in self._pending:
            return
        numbers = self.order.numbers(step, self._rank)
        missing = [int(n) for n in numbers if n not in self._store and n not in self.unreadable]
        self._begin(step, missing, self._pairs.places(missing))

    def _noted(self, found: list[tuple[int, Decoded]]) -> list[tuple[int, Decoded]]:
        """Store decoded images and count failures; return `found`."""
        for number, image in found:
            if image.pixels is None:
                self._refuse(number, image.problem)
            else:
                self._store.keep(number, image.digest, image.pixels)
        return found

    def _readable(self, number: int, found: dict[int, Decoded]) -> tuple[int, str, NDArray[np.uint8]]:
        """Return the number, digest and pixels of a pair, or of the first readable pair after it."""
        while True:
            image = found.get(number) or self._store.get(number)
            if image is None and number not in self.unreadable:
                job = self._workers.submit(self._pairs.places([number]))
                ((_, image),) = self._noted([(number, decoded) for decoded in self._workers.result(job)])
            if image is not None and image.pixels is not None:
                return number, image.digest, image.pixels
            number = (number + 1) % (self._pairs.count or number + 2)

    def _refuse(self, number: int, reason: str) -> None:
        self.unreadable[number] = reason
        count = self._pairs.count or 0
        # In a source of fewer than a hundred pairs, none may be unreadable.
        if len(self.unreadable) * 100 > count * UNREADABLE_PERCENT:
            first = list(self.unreadable.items())[:5]
            told = "; ".join(f"{_name(self._pairs, n)}: {why}" for n, why in first)
            raise InputError(
                f"{self._pairs.source}: {len(self.unreadable)} of {count} images cannot be decoded: {told}",
                f"repair or remove them: at most {UNREADABLE_PERCENT} % of a source is replaced by its neighbours",
            )


def _name(pairs: Dataset, number: int) -> str:
    """Return the description of a pair for messages: its number and caption."""
    (caption,) = pairs.captions([number])
    return f"pair {number} ('{caption[:40]}')"


class _Store:
    """Decoded images in memory, stored until the space is used up.

    Images are never evicted: epochs are shuffled, so old images are as likely to be needed again as new ones.
    """

    def __init__(self, count: int, size: tuple[int, int], room: int) -> None:
        each = size[0] * size[1] * 3
        # The system reserves this memory, but uses it only when an image is written.
        self._pixels = np.empty((min(count, room // each), *size, 3), dtype=np.uint8)
        self._rows: dict[int, int] = {}
        self._digests: list[str] = []

    def __contains__(self, number: object) -> bool:
        return number in self._rows

    def get(self, number: int) -> Decoded | None:
        """Return the image of a pair, or None."""
        row = self._rows.get(number)
        return None if row is None else Decoded(self._digests[row], self._pixels[row])

    def keep(self, number: int, digest: str, pixels: NDArray[np.uint8]) -> None:
        """Store an image, if there is room."""
        row = len(self._digests)
        if number not in self._rows and row < len(self._pixels):
            self._rows[number] = row
            self._digests.append(digest)
            self._pixels[row] = pixels
