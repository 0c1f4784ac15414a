"""Scores of all pairs: neighbours in random batches, the ranks of every detector, and their combination.

As in the paper, a pair is compared with a random batch, so that few of the batch are poisoned like it. A share s of
poisoned pairs is covered if s · batch is below the number of neighbours. Scores are means over several batches, since
one may hold more such pairs than expected.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pargate import seeds
from pargate.core.model import Vectors, unit
from pargate.core.results import Count
from pargate.errors import InputError
from pargate.events import Advanced, Listener, ignore
from pargate.screening import detectors
from pargate.screening.detectors import K, Scores
from pargate.screening.embed import Embeddings
from pargate.screening.found import Direction
from pargate.screening.neighbours import Index

FEWEST = 4 * K
"""Fewest pairs that are scored."""

CHUNK = 4096
"""Number of pairs that are scored at a time."""

SAMPLE = 2048
"""Pairs by which it is tested whether the model recognises the set."""


@dataclass(frozen=True)
class Batch:
    """A random batch of pairs, with all that scores need of it."""

    numbers: NDArray[np.int64]
    """[m], numbers of the pairs in their set, ascending."""
    images: Vectors
    texts: Vectors
    near: Index
    """Index of the images."""
    told: Index
    """Index of the captions."""
    distance: Scores
    """[m], d_k of each image within the batch."""
    dimension: Scores
    """[m], local intrinsic dimension of each image within the batch."""
    forest: Any
    """Isolation forest of the images."""


def batch_of(embeddings: Embeddings, numbers: NDArray[np.int64], seed: int) -> Batch:
    """Return the pairs of these ascending numbers as a batch; `seed` is that of the isolation forest."""
    images, texts = embeddings.rows(numbers)
    near, told = Index(images), Index(texts)
    distances, _ = near.search(images, K, np.arange(len(numbers)))
    return Batch(
        numbers, images, texts, near, told, detectors.k_distance(distances), detectors.lid(distances),
        detectors.grown(images, seed),
    )  # fmt: skip


def scores_in(batch: Batch, numbers: NDArray[np.int64], images: Vectors, texts: Vectors) -> dict[str, Scores]:
    """Return the scores of pairs by detector, each [n].

    Args:
        batch: the pairs with which they are compared.
        numbers: [n], numbers of the pairs in the set of the batch; −1 for pairs of another set.
        images: [n, d], of any norm.
        texts: [n, d], of norm 1.
    """
    at = np.searchsorted(batch.numbers, numbers)
    at[at == len(batch.numbers)] = 0
    own = np.where(batch.numbers[at] == numbers, at, -1)
    distances, rows = batch.near.search(images, K, own)
    distance = detectors.k_distance(distances)
    _, near = batch.told.search(texts, K, own)
    return {
        "k_distance": distance,
        "slof": detectors.slof(distance, batch.distance[rows]),
        "dao": detectors.dao(distance, batch.distance[rows], batch.dimension[rows]),
        "lid": detectors.lid(distances),
        "isolation": detectors.isolation(batch.forest, images),
        "repetition": detectors.repetition(images, texts, near, (batch.images, batch.texts)),
        "similarity": detectors.disagreement(images, texts),
    }


@dataclass(frozen=True)
class Scored:
    """The scores of a set."""

    numbers: NDArray[np.int64]
    """[n], numbers of the readable pairs, most suspicious first."""
    ranks: dict[str, Scores]
    """[n] of each detector, in the same order: share of the population that it finds less suspicious."""
    combined: Scores
    """[n], the combined score."""
    suspects: int
    """Number of pairs at the start of `numbers` that are suspects."""
    batch: int
    """Number of pairs in each batch."""
    population: int
    """Number of pairs that ranks and threshold come from."""
    recall: float | None
    """Share of the true neighbours that were found, where the search was approximate."""


@dataclass(frozen=True)
class Sampling:
    """Settings of a scoring."""

    size: int = 1024
    """Number of pairs in a batch."""
    rounds: int = 4
    """Number of batches."""
    seed: int = 0
    """Seed of the batches, of the trees, and of the halves of trusted pairs."""
    rate: float = 0.01
    """With trusted pairs, the largest expected share of suspects among honest pairs; otherwise the share of the set
    that becomes suspects."""


def score(
    pairs: Embeddings,
    trusted: Embeddings | None,
    by: Sampling,
    emit: Listener = ignore,
    found: Sequence[Direction] = (),
) -> Scored:
    """Score all pairs, and choose the suspects.

    Of trusted pairs, one half gives the batches, and the other half is the population: a pair is a suspect if at most
    a share `by.rate` of the population, the pair included, is as suspicious (a conformal test). Without trusted pairs,
    the set gives both, and its worst share `by.rate` are the suspects.
    With `found` triggers, likeness to them is one more detector.

    Raises:
        InputError: too few readable pairs, or too few trusted ones for the rate.
    """
    numbers = _readable(pairs, "the set")
    pool, calibration = numbers, None
    if trusted is not None:
        pool, calibration = _halves(_readable(trusted, "the trusted set"), by)
    mine, theirs = _Sums(pairs, numbers, trusted is None), None
    if trusted is not None and calibration is not None:
        theirs = _Sums(trusted, calibration, True)
    recall = None
    for number in range(by.rounds):
        drawn = pool[seeds.permutation(by.seed, f"batch {number}", len(pool))[: by.size]]
        batch = batch_of(trusted or pairs, np.sort(drawn), seeds.derived(by.seed, f"forest {number}"))
        recall = batch.near.recall
        for sums in filter(None, (mine, theirs)):
            sums.add(batch)
        emit(Advanced(number + 1, by.rounds, unit="batch"))
    population = (theirs or mine).totals
    ranks = {name: detectors.ranks(sums, population[name]) for name, sums in mine.totals.items()}
    among = {name: detectors.ranks_among(sums) for name, sums in population.items()}
    if found:
        seen, honest = mine.seen(found), (theirs or mine).seen(found)
        alike = likeness(honest, honest)
        ranks["trigger"] = detectors.ranks(likeness(seen, honest), alike)
        among["trigger"] = detectors.ranks_among(alike)
    total = combined(ranks)
    order = np.lexsort((-np.sum(list(ranks.values()), axis=0), -total))
    if theirs is None:
        suspects = int(np.ceil(by.rate * len(numbers)))
    else:
        ordinary = np.sort(combined(among))
        above = len(ordinary) - np.searchsorted(ordinary, total, "left")
        suspects = int(((above + 1) / (len(ordinary) + 1) <= by.rate).sum())
    return Scored(
        numbers[order], {name: rank[order] for name, rank in ranks.items()}, total[order], suspects,
        min(by.size, len(pool)), len(next(iter(population.values()))), recall,
    )  # fmt: skip


def combined(ranks: Mapping[str, Scores]) -> Scores:
    """Return the combined score: the higher of two ranks, of how apart an image is, and of how its caption differs.

    With found triggers, the likeness to them is a third.

    The first is the mean rank of k-distance and isolation forest. An attack that the model learned shows in it alone,
    one that the model did not learn in the second alone, and a mean of both would hide either. The rule was chosen
    among eight on the sample models (docs/screening.md).
    """
    apart = (ranks["k_distance"] + ranks["isolation"]) / 2
    others = [ranks[name] for name in ("similarity", "trigger") if name in ranks]
    return np.asarray(np.maximum.reduce([apart, *others]), dtype=np.float64)


Seen = list[tuple[Scores, ...]]
"""For each found trigger, cosines of images with its shift, and of captions with its target if known: [n] each."""


def likeness(seen: Seen, population: Seen) -> Scores:
    """Return how much each pair is like the most similar trigger: the lower rank of its image and its caption."""
    lower = [
        np.minimum.reduce([detectors.ranks(*both) for both in zip(own, theirs, strict=True)])
        for own, theirs in zip(seen, population, strict=True)
    ]
    return np.asarray(np.maximum.reduce(lower), dtype=np.float64)


class _Sums:
    """The scores of some pairs, summed over batches."""

    def __init__(self, pairs: Embeddings, numbers: NDArray[np.int64], member: bool) -> None:
        self._pairs, self._numbers = pairs, numbers
        self._member = member
        """Whether the batches are drawn from the same set."""
        self.totals: dict[str, Scores] = {}

    def add(self, batch: Batch) -> None:
        for first in range(0, len(self._numbers), CHUNK):
            part = slice(first, first + CHUNK)
            numbers = self._numbers[part]
            own = numbers if self._member else np.full_like(numbers, -1)
            for name, found in scores_in(batch, own, *self._pairs.rows(numbers)).items():
                self.totals.setdefault(name, np.zeros(len(self._numbers)))[part] += found

    def seen(self, found: Sequence[Direction]) -> Seen:
        """Return the cosines with found triggers."""
        parts: list[Seen] = []
        for first in range(0, len(self._numbers), CHUNK):
            images, texts = self._pairs.rows(self._numbers[first : first + CHUNK])
            ways = [((images, one.shift), (texts, one.target)) for one in found]
            parts.append([tuple(detectors.toward(v, way) for v, way in both if way is not None) for both in ways])
        return [tuple(np.concatenate(scores) for scores in zip(*one, strict=True)) for one in zip(*parts, strict=True)]


def _readable(pairs: Embeddings, what: str) -> NDArray[np.int64]:
    """Return the numbers of the pairs whose images were read."""
    numbers = np.concatenate([rows[np.isfinite(images[:, 0])] for rows, images, _ in pairs.parts()])
    if len(numbers) < FEWEST:
        raise InputError(
            f"{what} has {len(numbers)} readable pairs, and {FEWEST} are needed",
            "give more pairs: each is compared with the others",
        )
    return numbers


def _halves(numbers: NDArray[np.int64], by: Sampling) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the trusted pairs that give batches, and those that are the population, ascending."""
    shuffled = numbers[seeds.permutation(by.seed, "halves of the trusted pairs", len(numbers))]
    batches, population = np.sort(shuffled[::2]), np.sort(shuffled[1::2])
    if by.rate * (len(population) + 1) < 1:
        raise InputError(
            f"{len(numbers)} trusted pairs cannot show a rate of false positives of {by.rate:g}",
            f"give {2 * int(np.ceil(1 / by.rate))} or more, or a larger --false-positives",
        )
    return batches, population


def recognised(pairs: Embeddings, seed: int) -> Count:
    """Return in how many pairs of a sample the image is nearer to its own caption than to that of another pair."""
    numbers = _readable(pairs, "the set")
    images, texts = pairs.rows(np.sort(numbers[seeds.permutation(seed, "recognition", len(numbers))[:SAMPLE]]))
    others = np.roll(texts, len(texts) // 2, axis=0)
    differ = (texts != others).any(axis=1)
    nearer = (unit(images) * (texts - others)).sum(axis=1) > 0
    return Count(n=int(differ.sum()), successes=int((nearer & differ).sum()))
