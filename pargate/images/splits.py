"""Divide a dataset into disjoint splits, so that the images that choose a model never certify it.

The split of an image follows from the digest of its bytes, so that the same image under two names is in one split.
Drawn scenes are divided by their numbers. Image-text pairs for cleaning must share no image with the dataset of a scan.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from pargate.core.splits import sizes
from pargate.files import digest_of
from pargate.images.dataset import Dataset, Split
from pargate.images.decode import Locator
from pargate.images.workers import Place

CHUNK = 4096
"""Number of pairs whose places are compared together."""


def divide(dataset: Dataset, names: Sequence[str]) -> tuple[Split, ...]:
    """Return a split of a dataset for each name, in an order that the bytes of the images give.

    Their sizes are those of `sizes`. Every image that is not drawn is read, since only its bytes show which images are
    the same.
    """
    if dataset.drawn:
        return tuple(Split(name, i, None, digest_of([dataset.source, i])) for i, name in enumerate(names))
    by_digest: dict[str, list[str]] = {}
    for item in dataset.items():
        by_digest.setdefault(_digest(item.place, item.key), []).append(item.key)
    # Sorted by a second digest, since the provider of the images could steer that of the bytes.
    order = sorted(by_digest, key=lambda digest: hashlib.sha256(f"part {digest}".encode()).digest())
    splits, first = [], 0
    for number, (name, size) in enumerate(zip(names, sizes(len(order), len(names)), strict=True)):
        mine = order[first : first + size]
        first += size
        keys = frozenset(key for digest in mine for key in by_digest[digest])
        splits.append(Split(name, number, keys, digest_of(sorted(mine))))
    return tuple(splits)


def _digest(place: Place, key: str) -> str:
    """Return the digest of an image's bytes, or of its name if they cannot be read, which the scan reports."""
    assert isinstance(place, Locator), "images that are not drawn are in files"
    try:
        return hashlib.sha256(place.read()).hexdigest()
    except OSError:
        return hashlib.sha256(f"unreadable {key}".encode()).hexdigest()


def shared(images: Dataset, pairs: Dataset) -> str | None:
    """Return the place of an image of `pairs` that is also in `images`, or None.

    Only images of equal length are read, since a million pairs would take long.
    """
    if images.drawn or pairs.drawn or pairs.count is None:
        return None  # drawn pairs and drawn images have different numbers
    digests: dict[int, set[str]] = {}
    for item in images.items():
        if isinstance(item.place, Locator) and (size := _size(item.place)) is not None:
            digests.setdefault(size, set()).add(_digest(item.place, item.key))
    for place in _places(pairs, pairs.count):
        known = digests.get(_size(place) or -1)
        if known and hashlib.sha256(place.read()).hexdigest() in known:
            return f"{place.path}" + (f" at byte {place.offset}" if place.offset else "")
    return None


def _places(pairs: Dataset, count: int) -> Iterable[Locator]:
    for first in range(0, count, CHUNK):
        for place in pairs.places(range(first, min(first + CHUNK, count))):
            if isinstance(place, Locator):
                yield place


def _size(place: Locator) -> int | None:
    """Return the size of an image in bytes, or None if it does not exist."""
    if place.size >= 0:
        return place.size
    try:
        return Path(place.path).stat().st_size - place.offset
    except OSError:
        return None
