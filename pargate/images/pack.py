"""Write image-text pairs as WebDataset shards: drawn ones, or those of any other source.

Drawn images are encoded here; other images keep their bytes. The folder appears when it is complete.
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
from pargate.images.decode import Locator
from pargate.images.shards import JPEG_QUALITY, Sample, encode, write_manifest, write_shards
from pargate.images.sources.scenes import FIRST_SCENE
from pargate.images.workers import Job, Workers, processors
from pargate.version import __version__

PIECE = 64
"""Number of images that a worker draws at once."""

COUNT = 10_000
"""Default number of pairs for an endless source."""

SIZE = 224
"""Default side of drawn images in pixels, the input of most models."""


def write_pairs(
    pairs: Dataset,
    out: Path,
    *,
    count: int | None,
    size: int | None,
    suffix: str | None,
    per_shard: int,
    seed: int,
    emit: Listener = ignore,
) -> int:
    """Write the first `count` image-text pairs of a source into the new folder `out`; return their number.

    Drawn images are `size` pixels square (default 224) and stored as `suffix`, `.jpg` (default) or `.png`.

    Raises:
        InputError: `out` exists, the source holds fewer pairs, or its images have a size already.
        OperationalError: the disk is full, or a worker was killed or cannot be started.
    """
    if count is not None and pairs.count is not None and count > pairs.count:
        raise InputError(f"{pairs.source} holds {pairs.count} pairs, not {count}", "omit --count to use all")
    total = count or pairs.count or COUNT
    if pairs.drawn and total >= FIRST_SCENE:
        raise InputError(f"cannot draw {total} pairs", f"--count goes up to {FIRST_SCENE - 1}")
    if not pairs.drawn and size is not None:
        raise InputError(f"the images of {pairs.source} keep their size", "omit --size")
    if not pairs.drawn and suffix is not None:
        raise InputError(f"the images of {pairs.source} keep their format", "omit --format")
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
            pool = Workers(Preprocess((side, side), (0.0,) * 3, (1.0,) * 3), _workers())
            try:
                samples = _drawn(pairs, total, pool, suffix)
                shards = write_shards(folder, _reported(samples, total, emit), per_shard)
            finally:
                pool.close()
        else:
            shards = write_shards(folder, _reported(_stored(pairs, total), total, emit), per_shard)
            check_unchanged(pairs)
        write_manifest(folder, shards, settings)
    emit(StageFinished("drawing" if pairs.drawn else "packing", f"{total} pairs"))
    return total


def _workers() -> int:
    return min(processors(), 16)


def _drawn(pairs: Dataset, total: int, pool: Workers, suffix: str) -> Iterator[Sample]:
    """Yield drawn pairs in the order of their numbers, with some pieces begun ahead."""
    pieces = iter(range(0, total, PIECE))
    ahead: deque[tuple[range, Job]] = deque()

    def begin(more: int) -> None:
        for first in islice(pieces, more):
            numbers = range(first, min(first + PIECE, total))
            ahead.append((numbers, pool.submit(pairs.places(numbers))))

    begin(2 * _workers())
    while ahead:
        numbers, job = ahead.popleft()
        begin(1)
        for caption, image in zip(pairs.captions(numbers), pool.result(job), strict=True):
            assert image.pixels is not None, "drawn images are always readable"
            yield Sample(encode(image.pixels, suffix), caption)


def _stored(pairs: Dataset, total: int) -> Iterator[Sample]:
    """Yield pairs with the bytes of their files."""
    for first in range(0, total, PIECE):
        numbers = range(first, min(first + PIECE, total))
        for caption, place in zip(pairs.captions(numbers), pairs.places(numbers), strict=True):
            assert isinstance(place, Locator), "images that are not drawn are in files"
            try:
                content = place.read()
            except OSError as error:
                raise InputError(
                    f"cannot read {place.path}: {error.strerror}", "do not change the pairs while they are packed"
                ) from error
            yield Sample(content, caption)


def _reported(samples: Iterator[Sample], total: int, emit: Listener) -> Iterator[Sample]:
    for done, sample in enumerate(samples, start=1):
        yield sample
        if done % PIECE == 0 or done == total:
            emit(Advanced(done, total))
