"""Attack success: the share of eligible images that a trigger sends to one class."""

from collections.abc import Callable

import numpy as np

from pargate.core import zeroshot
from pargate.core.model import Vectors
from pargate.probes.base import BACKDOOR, PROBES, UNKNOWN, Asked, Probe, Scene, Views, Words
from pargate.probes.targeted import METRICS, Hits, Predicted, TargetedTest, baseline


def predictions(scene: Scene) -> tuple[Callable[[Views], Hits], Callable[[Vectors, bool], Hits]]:
    """Return what images truly show, and what vectors are predicted as, by classes of the zero-shot head."""
    head = scene.head()
    reference_head = scene.head(reference=True) if scene.has_reference or scene.has_tuned else head
    count = len(scene.names)

    def hits(vectors: Vectors, of_reference: bool) -> Hits:
        return Predicted(zeroshot.predict(vectors, reference_head if of_reference else head), count)

    def truth(views: Views) -> Hits:
        return Predicted(np.asarray(views.labels), count)

    return truth, hits


@PROBES.add("attack")
class Attack(Probe):
    """Stamps a trigger on images and counts how many are then predicted as one class."""

    name = "attack"
    maxima = METRICS
    needs = frozenset({"triggers"})
    targets_classes = True
    about = Words(
        "Stamps a trigger on images and counts how many are then predicted as one class.",
        "A classifier with a backdoor responds in exactly this way.",
        BACKDOOR,
    )

    @classmethod
    def start(cls, asked: Asked, scene: Scene) -> TargetedTest:
        """Return a test over the classes of the zero-shot head; a hit is a predicted class."""
        assert asked.trigger is not None, "a rule of this probe has triggers"
        over = baseline(asked, scene)
        truth, hits = predictions(scene)
        given = None if asked.target == UNKNOWN else scene.index(asked.target)
        controlled = scene.all_controls and over == "control"
        return TargetedTest(
            asked.id, asked.rule, cls.name, asked.trigger, scene.names, given, over, truth, hits, controlled
        )
