"""Carriers divided into disjoint parts, so that what chooses never certifies.

A picture's part follows from the digest of its bytes: the same picture under two names is in one part. Drawn scenes
are divided by their numbers, of which there is no end. And whether pairs for cleaning share a picture with carriers:
then the examination would be known before it is held.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pargate.files import digest_of
from pargate.images.decode import Locator
from pargate.images.pairs import Pairs
from pargate.images.sources import BUILTIN_SCENES, FIRST_SCENE, SCENES, Item, list_items
from pargate.images.synthetic import SyntheticPairs

CHUNK = 4096
"""Pairs whose places are looked at together."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a source of carriers."""

    name: str
    number: int
    keys: frozenset[str] | None
    """Names of the items in it; None for drawn scenes."""
    digest: str
    """Hex SHA-256 over what is in it."""

    def take(self, items: Sequence[Item]) -> list[Item]:
        """The items of the source that are in this part, in its order."""
        if self.keys is None:
            first = self.number * SCENES
            return [Item(f"{first + i:06d}", FIRST_SCENE + first + i) for i in range(SCENES)]
        return [item for item in items if item.key in self.keys]


def divide(source: str, names: Sequence[str]) -> tuple[Part, ...]:
    """A source in as many parts as there are names, of one size up to a picture.

    Reads every picture of the source, since only the bytes tell which are the same.

    Raises:
        InputError: as `list_items`.
    """
    items = list_items(source)
    if source == BUILTIN_SCENES:
        return tuple(Part(name, i, None, digest_of([source, i])) for i, name in enumerate(names))
    by_digest: dict[str, list[str]] = {}
    for item in items:
        by_digest.setdefault(_digest(item), []).append(item.key)
    # In the order of a second digest: that of the bytes could be steered by whoever gives the pictures.
    order = sorted(by_digest, key=lambda digest: hashlib.sha256(f"part {digest}".encode()).digest())
    parts = []
    for number, name in enumerate(names):
        mine = order[number :: len(names)]
        keys = frozenset(key for digest in mine for key in by_digest[digest])
        parts.append(Part(name, number, keys, digest_of(sorted(mine))))
    return tuple(parts)


def _digest(item: Item) -> str:
    """Of a picture's bytes; of its name where they cannot be read, which the scan will say."""
    assert not isinstance(item.place, int)  # scenes are drawn, not listed
    try:
        return hashlib.sha256(item.place.read()).hexdigest()
    except OSError:
        return hashlib.sha256(f"unreadable {item.key}".encode()).hexdigest()


def shared(source: str, pairs: Pairs) -> str | None:
    """Where a picture of `pairs` is that is also a carrier of `source`; None where there is none.

    Only pictures of equal length are read: most sources share none, and a million pairs would take long.
    """
    if source == BUILTIN_SCENES or isinstance(pairs, SyntheticPairs) or pairs.count is None:
        return None  # the numbers of drawn pairs end before those of drawn carriers begin
    carriers: dict[int, set[str]] = {}
    for item in list_items(source):
        if isinstance(item.place, Locator) and (size := _size(item.place)) is not None:
            carriers.setdefault(size, set()).add(_digest(item))
    for place in _places(pairs, pairs.count):
        digests = carriers.get(_size(place) or -1)
        if digests and hashlib.sha256(place.read()).hexdigest() in digests:
            return f"{place.path}" + (f" at byte {place.offset}" if place.offset else "")
    return None


def _places(pairs: Pairs, count: int) -> Iterable[Locator]:
    for first in range(0, count, CHUNK):
        for place in pairs.places(range(first, min(first + CHUNK, count))):
            if isinstance(place, Locator):
                yield place


def _size(place: Locator) -> int | None:
    """Bytes of a picture."""
    if place.size >= 0:
        return place.size
    try:
        return Path(place.path).stat().st_size - place.offset
    except OSError:
        return None
