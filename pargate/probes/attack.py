"""Attack success: the share of eligible carriers that a trigger sends to one class."""

import numpy as np

from pargate.core import zeroshot
from pargate.core.model import Vectors
from pargate.probes.base import Views
from pargate.probes.targeted import Baseline, Hits, Predicted, TargetedProbe
from pargate.triggers import Trigger


def attack_probe(
    id: str,
    rule: str,
    trigger: Trigger,
    names: tuple[str, ...],
    given: int | None,
    baseline: Baseline | None,
    head: Vectors,
    reference_head: Vectors | None,
) -> TargetedProbe:
    """A probe over the classes of a zero-shot head; a hit is a predicted class.

    `head` and `reference_head`: float32 [classes, d], unit rows, of the model and of the reference.
    """

    def hits(vectors: Vectors, of_reference: bool) -> Hits:
        weights = reference_head if of_reference and reference_head is not None else head
        return Predicted(zeroshot.predict(vectors, weights), len(names))

    def truth(views: Views) -> Hits:
        return Predicted(np.asarray(views.labels), len(names))

    return TargetedProbe(id, rule, "attack", trigger, names, given, baseline, truth, hits)
