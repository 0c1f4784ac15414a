"""Groups of suspects: by words of the caption that are frequent among them and rare in the set, then by image."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pargate.core.model import Vectors, unit
from pargate.core.results import Count

FEWEST = 3
"""Fewest suspects of a group."""

OFTEN = 3.0
"""Least factor by which words are more frequent among the suspects than in the set."""

DEVIATIONS = 6.0
"""Least excess of a group of words over its expected number, in standard deviations: there are thousands of words."""

LONGEST = 3
"""Most words of a shared phrase."""

LETTERS = 30
"""Most letters of a word; longer ones are no words."""

CLOSE = 0.02
"""Largest cosine distance of two images that count as nearly the same."""

COMPARED = 5000
"""Most suspects that are grouped by image."""


@dataclass(frozen=True)
class Group:
    """Suspects that share something."""

    shares: Literal["words", "image"]
    name: str
    members: tuple[int, ...]
    """Positions among the suspects."""
    captions: Count | None = None
    """All pairs, and those whose captions have the words."""


def phrases(caption: str) -> set[str]:
    """Return the words of a caption and its runs of up to `LONGEST` words, in lower case."""
    words = [word for word in re.findall(r"\w+", caption[:1000].casefold()) if len(word) <= LETTERS]
    return {" ".join(words[at : at + n]) for n in range(1, LONGEST + 1) for at in range(len(words) - n + 1)}


def by_words(suspects: Sequence[str], captions: Iterable[str]) -> Iterator[Group]:
    """Yield groups of suspects that share words, the most surprising first; a suspect is in one group at most.

    Args:
        suspects: their captions.
        captions: the captions of all pairs, suspects included.
    """
    told = [phrases(caption) for caption in suspects]
    among = Counter(phrase for one in told for phrase in one)
    candidates = {phrase for phrase, times in among.items() if times >= FEWEST}
    total, everywhere = 0, Counter[str]()
    for caption in captions:
        total += 1
        everywhere.update(phrases(caption) & candidates)
    free = set(range(len(told)))
    while free:
        among = Counter(phrase for at in free for phrase in told[at] & candidates)
        surprising = {
            phrase: _excess(times, len(suspects), everywhere[phrase], total)
            for phrase, times in among.items()
            if times >= FEWEST and times / len(suspects) >= OFTEN * everywhere[phrase] / total
        }
        # Of phrases of the same suspects, the longest tells most.
        best = max(surprising, key=lambda p: (round(surprising[p], 6), len(p), p), default=None)
        if best is None or surprising[best] < DEVIATIONS:
            return
        members = tuple(sorted(at for at in free if best in told[at]))
        yield Group("words", best, members, Count(n=total, successes=everywhere[best]))
        free -= set(members)


def _excess(times: int, suspects: int, everywhere: int, total: int) -> float:
    """Return by how many standard deviations `times` exceeds what is expected of random suspects."""
    expected = suspects * everywhere / total
    return float((times - expected) / np.sqrt(expected))


def by_image(images: Vectors, free: NDArray[np.int64]) -> Iterator[Group]:
    """Yield groups of suspects with nearly the same image embedding, largest first.

    Args:
        images: [n, d], embeddings of suspects that are in no other group.
        free: [n], their positions among the suspects.
    """
    from sklearn.cluster import DBSCAN

    if len(images) < FEWEST:
        return
    vectors = unit(images[:COMPARED])
    # For unit vectors, a cosine distance c is a Euclidean distance √(2c).
    labels = DBSCAN(eps=np.sqrt(2 * CLOSE), min_samples=FEWEST).fit_predict(vectors)
    for label, _ in Counter(labels[labels >= 0].tolist()).most_common():
        members = tuple(free[: len(vectors)][labels == label].tolist())
        yield Group("image", "images nearly the same to the model", members)


def grouped(captions: Sequence[str], images: Vectors, everything: Iterable[str]) -> list[Group]:
    """Return the groups of suspects: by words first, and of the rest by image.

    Args:
        captions: captions of the suspects.
        images: [n, d], embeddings of their images.
        everything: the captions of all pairs.
    """
    found = list(by_words(captions, everything))
    taken = {at for group in found for at in group.members}
    free = np.array([at for at in range(len(captions)) if at not in taken], dtype=np.int64)
    return found + list(by_image(images[free], free))
