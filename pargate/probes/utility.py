"""Usefulness on clean images: zero-shot accuracy, and recall of an image's own caption."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pargate.core import zeroshot
from pargate.core.model import Vectors
from pargate.core.results import NOT_FINITE, TOP_CAPTIONS, TOP_LABEL, Count, Measurement, Metric
from pargate.probes.base import CLEAN, PROBES, Asked, Probe, Scene, Test, Views, Words
from pargate.probes.retrieval import NEAREST


@dataclass(slots=True)
class UtilityTest(Test):
    """Counts correct predictions, on the selection images too, since nothing is chosen."""

    head: Vectors
    """Zero-shot head, [classes, d]."""
    chance: float | None
    """Accuracy of guessing: 1 / number of classes that occur. None without labels."""
    texts: tuple[str, ...] = ()
    """Captions to search."""
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
        """Count one block."""
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
        # Equal cosines count as nearer, so that a model with one embedding for everything recalls nothing.
        others: NDArray[np.int64] = (similar >= own[:, None]).sum(axis=1) - 1
        return int(((others < NEAREST) & np.isfinite(own)).sum())

    def measurement(self) -> Measurement:
        """Return the counts so far."""
        counts = {
            str(Metric.ACCURACY): Count(n=self._labelled, successes=self._right),
            "top_class": _most(self._predicted, 1),
            TOP_LABEL: _most(self._labels, 1),
        }
        if self.text_vectors is not None:
            counts[str(Metric.RECALL)] = Count(n=self._searched, successes=self._found)
            counts[TOP_CAPTIONS] = _most(self._captions, NEAREST)
        return Measurement(
            id=CLEAN,
            rule="",
            probe=Utility.name,
            counts=counts,
            chance=self.chance,
            excluded={NOT_FINITE: self._broken} if self._broken else {},
        )


def _most(found: Counter[int], kinds: int) -> Count:
    """Return the count of the `kinds` most frequent values, among all."""
    return Count(n=found.total(), successes=sum(count for _, count in found.most_common(kinds)))


@PROBES.add("utility")
class Utility(Probe):
    """Counts how often the model is right on images without a trigger."""

    name = "utility"
    minima: ClassVar[Mapping[str, Words]] = {
        "accuracy": Words(
            "The share of labelled images that are predicted as their class, without a trigger.",
            "Users notice a loss of accuracy first.",
            "Compare it with the model that this one was made from. A fall is what training or cleaning cost.",
        ),
        "recall": Words(
            "The share of images whose own caption is among the five nearest.",
            "Recall measures the usefulness of a model for search.",
            "Give images with captions. Without them recall is not measured, and the rule stays open.",
        ),
    }
    of_chance = frozenset({"accuracy"})
    measures = CLEAN
    about = Words(
        "Counts how often the model is right on images without a trigger.",
        "If the model recognises nothing, the other measurements mean nothing.",
        "First check that the images are labelled and of the model's own domain, and the classes those that it was "
        "made for (`--images`, `--classes`). If they are, the weights, the architecture or the preprocessing are "
        "wrong, or the model lost too much in training or cleaning.",
    )

    @classmethod
    def start(cls, asked: Asked, scene: Scene) -> UtilityTest:
        """Return the test of every scan; it searches captions if a rule limits recall, or without labels."""
        present = len(scene.present)
        searched = present < 2 or "recall" in asked.metrics
        texts = scene.texts if searched else ()
        return UtilityTest(
            scene.head(), 1 / present if present > 1 else None, texts, scene.text_vectors() if texts else None
        )
