"""Disjoint splits of a dataset, so that the images that choose never certify.

The split of an image follows from the digest of its bytes: the same image under two names is in one split. Drawn scenes
are divided by their numbers, of which there is no end. Pairs for cleaning must not share an image with the dataset
that judges: the model would know the examination beforehand.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from pargate.files import digest_of
from pargate.images.dataset import Dataset, Split
from pargate.images.decode import Locator
from pargate.images.workers import Place

CHUNK = 4096
"""Pairs whose places are looked at together."""


def divide(dataset: Dataset, names: Sequence[str]) -> tuple[Split, ...]:
    """Return as many splits of a dataset as there are names, of one size up to an image.

    Reads every image that is not drawn, since only the bytes tell which are the same.
    """
    if dataset.drawn:
        return tuple(Split(name, i, None, digest_of([dataset.source, i])) for i, name in enumerate(names))
    by_digest: dict[str, list[str]] = {}
    for item in dataset.items():
        by_digest.setdefault(_digest(item.place, item.key), []).append(item.key)
    # In the order of a second digest: that of the bytes could be steered by whoever gives the images.
    order = sorted(by_digest, key=lambda digest: hashlib.sha256(f"part {digest}".encode()).digest())
    splits = []
    for number, name in enumerate(names):
        mine = order[number :: len(names)]
        keys = frozenset(key for digest in mine for key in by_digest[digest])
        splits.append(Split(name, number, keys, digest_of(sorted(mine))))
    return tuple(splits)


def _digest(place: Place, key: str) -> str:
    """Return the digest of an image's bytes; of its name where they cannot be read, which the scan will say."""
    assert isinstance(place, Locator), "what is not drawn lies somewhere"
    try:
        return hashlib.sha256(place.read()).hexdigest()
    except OSError:
        return hashlib.sha256(f"unreadable {key}".encode()).hexdigest()


def shared(images: Dataset, pairs: Dataset) -> str | None:
    """Return where an image of `pairs` is that is also in `images`; None where there is none.

    Only images of equal length are read: most datasets share none, and a million pairs would take long.
    """
    if images.drawn or pairs.drawn or pairs.count is None:
        return None  # the numbers of drawn pairs end before those of drawn images begin
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
    """Return the bytes of an image; None where it is not there."""
    if place.size >= 0:
        return place.size
    try:
        return Path(place.path).stat().st_size - place.offset
    except OSError:
        return None
