"""Usefulness on clean carriers: zero-shot accuracy, and recall of a carrier's own caption."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pargate.core import zeroshot
from pargate.core.model import Vectors
from pargate.core.results import NOT_FINITE, TOP_CAPTIONS, TOP_LABEL, Count, Measurement, Metric
from pargate.probes.base import Views
from pargate.probes.retrieval import NEAREST


@dataclass(slots=True)
class UtilityProbe:
    """Counts correct predictions; both halves of the carriers serve, since nothing is chosen."""

    id: str
    rule: str
    head: Vectors
    """[classes, d]."""
    chance: float | None
    """Accuracy of a guesser who knows which classes occur: 1 / their number. None without labels."""
    texts: tuple[str, ...] = ()
    """Captions that are searched."""
    text_vectors: Vectors | None = None
    _right: int = 0
    _labelled: int = 0
    _found: int = 0
    _searched: int = 0
    _broken: int = 0
    _predicted: Counter[int] = field(default_factory=Counter)
    _labels: Counter[int] = field(default_factory=Counter)
    _captions: Counter[int] = field(default_factory=Counter)

    def observe(self, number: int, selection: bool, views: Views) -> None:
        """Take in one block."""
        vectors = views.clean()
        predicted = zeroshot.predict(vectors, self.head)
        known = views.labels >= 0
        self._labelled += int(known.sum())
        self._right += int((predicted == views.labels)[known].sum())
        self._broken += int((predicted < 0).sum())
        self._predicted.update(predicted.tolist())
        self._labels.update(views.labels[known].tolist())
        if self.text_vectors is not None:
            own = {text: i for i, text in enumerate(self.texts)}
            rows = [(i, own[c]) for i, c in enumerate(views.captions) if c in own]
            self._searched += len(rows)
            self._captions.update(text for _, text in rows)
            self._found += self._recalled(vectors, rows)

    def _recalled(self, vectors: Vectors, rows: list[tuple[int, int]]) -> int:
        if not rows or self.text_vectors is None:
            return 0
        images, texts = np.array(rows).T
        similar = vectors[images] @ self.text_vectors.T
        own = similar[np.arange(len(rows)), texts]
        # Equals count as nearer, so that a tower that embeds everything alike recalls nothing.
        others: NDArray[np.int64] = (similar >= own[:, None]).sum(axis=1) - 1
        return int(((others < NEAREST) & np.isfinite(own)).sum())

    def measurement(self) -> Measurement:
        """Counts over everything observed."""
        counts = {
            str(Metric.ACCURACY): Count(n=self._labelled, successes=self._right),
            "top_class": _most(self._predicted, 1),
            TOP_LABEL: _most(self._labels, 1),
        }
        if self.text_vectors is not None:
            counts[str(Metric.RECALL)] = Count(n=self._searched, successes=self._found)
            counts[TOP_CAPTIONS] = _most(self._captions, NEAREST)
        return Measurement(
            id=self.id,
            rule=self.rule,
            probe="utility",
            counts=counts,
            chance=self.chance,
            excluded={NOT_FINITE: self._broken} if self._broken else {},
        )


def _most(found: Counter[int], kinds: int) -> Count:
    """Those of the most common kinds, among all."""
    return Count(n=found.total(), successes=sum(count for _, count in found.most_common(kinds)))
