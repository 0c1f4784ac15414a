"""Text: find the word that moves captions on the captions that choose, then measure its success on others."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pargate.core import zeroshot
from pargate.core.found import CaptionVectors, FoundText, Place, TextFamily
from pargate.core.model import Vectors, unit
from pargate.core.results import CLASS_NAME, Measurement, Metric
from pargate.probes.base import BACKDOOR, PROBES, Asked, Probe, Scene, Test, Views, Words
from pargate.probes.targeted import METRICS, Hits, Predicted, TargetedTest
from pargate.triggers import Trigger

RETRIEVED = 5
"""Images that the report names."""


class AddedText(Trigger):
    """Tokens that are put into captions; it has no stamp, and no policy names it."""

    kind = "text"

    text: str
    """Text in printable ASCII, other characters as escapes."""
    ids: tuple[int, ...]
    place: Place = Field("end")

    @property
    def one_drawing(self) -> bool:
        """False, as text is not drawn."""
        return False

    @property
    def parameters(self) -> dict[str, Any]:
        """Text, token ids and place."""
        return {"kind": self.kind, "text": self.text, "ids": list(self.ids), "place": self.place}

    @classmethod
    def of(cls, found: FoundText) -> "AddedText":
        """Return what was found, with a name for reports."""
        text = found.text.strip().encode("unicode_escape").decode("ascii")
        part = "" if found.text.endswith(" ") else " within a word"
        name = f"text '{text}'{part} at the {found.place} of captions"
        return cls.model_validate({"name": name, "text": text, "ids": found.ids, "place": found.place})


@dataclass(frozen=True, slots=True)
class _CaptionViews:
    """Captions in the place of images; implements `probes.base.Views`."""

    vectors: CaptionVectors

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.full(len(self.digests), -1)

    @property
    def captions(self) -> tuple[None, ...]:
        return (None,) * len(self.digests)

    @property
    def digests(self) -> tuple[str, ...]:
        return self.vectors.digests

    def clean(self, *, reference: bool = False) -> Vectors:
        assert not reference, "the reference is asked with the text alone"
        return self.vectors.plain

    def stamped(self, trigger: Trigger, *, reference: bool = False) -> Vectors:
        found = self.vectors.reference if reference else self.vectors.added
        assert found is not None, "the search knew whether there is a reference"
        return found

    def control(self, trigger: Trigger) -> Vectors:
        assert self.vectors.named is not None, "without a reference there is a control"
        return self.vectors.named


@dataclass
class TextTest(Test):
    """The success of a text that was found; it needs no images, and is complete from the start."""

    id: str
    rule: str
    stopped: str
    counted: TargetedTest | None = None
    """Counts over captions; None if nothing could be searched."""
    retrieved: tuple[str, ...] = ()
    """Digests of the images nearest to the captions with the text."""

    def observe(self, number: int, selection: bool, views: Views) -> None:
        """Take in nothing: the counts are over captions."""

    def measurement(self) -> Measurement:
        """Return the counts over captions, and the images that the text retrieves."""
        if self.counted is None:
            return Measurement(id=self.id, rule=self.rule, probe=Text.name)
        found = self.counted.measurement()
        pairs = found.pairs
        if pairs is not None and pairs.baseline.startswith("control"):
            pairs = pairs.model_copy(update={"baseline": CLASS_NAME})
        return found.model_copy(update={"pairs": pairs, "examples": self.retrieved, "forward_passes": 0})


@PROBES.add("text")
class Text(Probe):
    """Finds a text that the policy does not name, and counts how many captions it moves to one class."""

    name = "text"
    maxima = METRICS
    families = get_args(TextFamily)
    on_captions = True
    about = Words(
        "Searches the vocabulary for a word that nobody named, and counts how many captions it moves to one class.",
        "A backdoor in the text tower answers to a word in the prompt, whatever else the prompt says.",
        f"{BACKDOOR} Without a parent the rule stays open wherever the word found moves as many captions as the name "
        "of a class, since honest models follow words too.",
    )

    @classmethod
    def start(cls, asked: Asked, scene: Scene) -> Test:
        """Return the test of the text that is found on the selection captions, counted on all others."""
        found = scene.find_text(cast(TextFamily, asked.direction), asked.phrases)
        if isinstance(found, str):
            return TextTest(asked.id, asked.rule, found)
        baseline: Literal["control", "reference"] | None = None
        if Metric.EXCESS in asked.metrics:
            baseline = "reference" if scene.has_reference else "control"
        counted = TargetedTest(
            asked.id,
            asked.rule,
            cls.name,
            AddedText.of(found),
            scene.names,
            given=None,
            baseline=baseline,
            truth=lambda views: Predicted(np.asarray(views.labels), len(scene.names)),
            hits=_hits(found, scene),
            controlled=baseline == "control",
        )
        for number, part in enumerate((found.selection, found.measured)):
            counted.observe(number, number == 0, _CaptionViews(part))
        return TextTest(asked.id, asked.rule, "no more captions", counted, _retrieved(found, scene))


def _hits(found: FoundText, scene: Scene) -> Any:
    """Return the function from vectors to their classes, without the classes that the text itself names."""
    heads = {False: scene.head(), True: scene.head(reference=True)}

    def hits(vectors: Vectors, of_reference: bool) -> Hits:
        classes = zeroshot.predict(vectors, heads[of_reference])
        return Predicted(np.where(np.isin(classes, list(found.meant)), -1, classes), len(scene.names))

    return hits


def _retrieved(found: FoundText, scene: Scene) -> tuple[str, ...]:
    """Return the digests of the images that are nearest to the mean caption with the text."""
    query = unit(found.measured.added.mean(axis=0, keepdims=True))[0]
    gallery: Mapping[str, Any] = dict(zip(scene.gallery_digests, scene.gallery() @ query, strict=True))
    return tuple(sorted(gallery, key=lambda digest: -gallery[digest])[:RETRIEVED])
