"""Pairs written down as WebDataset shards: drawn ones, or those of any other source, repacked.

Drawn images are encoded here; images that exist already keep their bytes. The folder appears when it is
complete.
"""

import sys
from collections import deque
from collections.abc import Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pargate.core.model import Preprocess
from pargate.errors import InputError
from pargate.events import Advanced, Listener, Notice, StageFinished, StageStarted, ignore
from pargate.files import atomic_folder
from pargate.images.dataset import Dataset, check_unchanged
from pargate.images.decode import Decoded, Locator
from pargate.images.shards import JPEG_QUALITY, Sample, encode, write_manifest, write_shards
from pargate.images.sources.scenes import FIRST_SCENE
from pargate.images.workers import Job, Workers, processors
from pargate.version import __version__

PIECE = 64
"""Images a worker draws at once."""

COUNT = 10_000
"""Pairs that are written when the source has no end and nobody says how many."""

SIZE = 224
"""Side that most models take, in pixels."""


def write_pairs(
    pairs: Dataset,
    out: Path,
    *,
    count: int | None,
    size: int | None,
    suffix: str | None,
    per_shard: int,
    seed: int,
    workers: int | None = None,
    emit: Listener = ignore,
) -> int:
    """Write the first `count` pairs of a source into the new folder `out`; how many there are.

    Drawn images are `size` pixels square and stored as `suffix` says, `.jpg` or `.png`; without, 224 and `.jpg`.

    Raises:
        InputError: `out` exists, or the source holds fewer pairs, or its images have a size already.
        OperationalError: the disk is full, or a worker was killed or cannot be started.
    """
    if count is not None and pairs.count is not None and count > pairs.count:
        raise InputError(f"{pairs.source} holds {pairs.count} pairs, not {count}", "leave out --count to take all")
    total = count or pairs.count or COUNT
    if pairs.drawn and total >= FIRST_SCENE:
        raise InputError(f"cannot draw {total} pairs", f"--count goes up to {FIRST_SCENE - 1}")
    if not pairs.drawn and size is not None:
        raise InputError(f"the images of {pairs.source} have a size, and keep it", "leave out --size")
    if not pairs.drawn and suffix is not None:
        raise InputError(f"the images of {pairs.source} keep their bytes", "leave out --format")
    settings: dict[str, Any] = {"source": pairs.source, "source_sha256": pairs.digest, "pargate": __version__}
    for notice in pairs.notices:
        emit(Notice(notice))
    emit(StageStarted("drawing" if pairs.drawn else "packing", f"{total} pairs"))
    with atomic_folder(out) as folder:
        if pairs.drawn:
            side, suffix = size or SIZE, suffix or ".jpg"
            quality = JPEG_QUALITY if suffix == ".jpg" else None
            settings |= {
                "seed": seed, "size": side, "format": suffix[1:], "quality": quality,
                "versions": {"numpy": np.__version__, "pillow": version("pillow"), "python": sys.version.split()[0]},
            }  # fmt: skip
            pool = Workers(Preprocess((side, side), (0.0,) * 3, (1.0,) * 3), _count(workers))
            try:
                samples = _drawn(pairs, total, pool, suffix)
                shards = write_shards(folder, _told(samples, total, emit), per_shard)
            finally:
                pool.close()
        else:
            shards = write_shards(folder, _told(_stored(pairs, total), total, emit), per_shard)
            check_unchanged(pairs)
        write_manifest(folder, shards, settings)
    emit(StageFinished("drawing" if pairs.drawn else "packing", f"{total} pairs"))
    return total


def _count(workers: int | None) -> int:
    return min(processors(), 16) if workers is None else workers


def _drawn(pairs: Dataset, total: int, pool: Workers, suffix: str) -> Iterator[Sample]:
    """Pairs in the order of their numbers, some pieces ahead of what is written."""
    pieces = iter(range(0, total, PIECE))
    ahead: deque[tuple[range, Job]] = deque()

    def begin(more: int) -> None:
        for first in islice(pieces, more):
            numbers = range(first, min(first + PIECE, total))
            ahead.append((numbers, pool.submit(pairs.places(numbers))))

    begin(2 * _count(None))
    while ahead:
        numbers, job = ahead.popleft()
        begin(1)
        for caption, image in zip(pairs.captions(numbers), pool.result(job), strict=True):
            yield Sample(_encoded(image, suffix), caption)


def _encoded(image: Decoded, suffix: str) -> bytes:
    assert image.pixels is not None, "what is drawn is never unreadable"
    return encode(image.pixels, suffix)


def _stored(pairs: Dataset, total: int) -> Iterator[Sample]:
    """Pairs as they are."""
    for first in range(0, total, PIECE):
        numbers = range(first, min(first + PIECE, total))
        for caption, place in zip(pairs.captions(numbers), pairs.places(numbers), strict=True):
            assert isinstance(place, Locator), "what is not drawn lies somewhere"
            try:
                content = place.read()
            except OSError as error:
                raise InputError(
                    f"cannot read {place.path}: {error.strerror}", "leave the pairs as they are meanwhile"
                ) from error
            yield Sample(content, caption)


def _told(samples: Iterator[Sample], total: int, emit: Listener) -> Iterator[Sample]:
    for done, sample in enumerate(samples, start=1):
        yield sample
        if done % PIECE == 0 or done == total:
            emit(Advanced(done, total))
