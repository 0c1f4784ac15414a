"""The common part of `attack` and `retrieval`: how often a trigger moves images to one target.

The two probes define a *hit*. This module chooses the target, the eligible images and the baseline
(`docs/measuring.md`).

- *Target*: given, or chosen on the selection images as the one with the greatest gain over the same images without the
  trigger, or over the reference model under the trigger.
- *Eligible* images do not truly show the target, and do not hit it without the trigger.
- *Excess*: the share of hits less that of a baseline on the same images. The baseline is the reference model under the
  same trigger, or the control, which may pull towards another class.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pargate.core.model import Vectors
from pargate.core.results import (
    NOT_FINITE,
    TUNED,
    TUNED_WEAKER,
    Count,
    Finding,
    Measurement,
    Metric,
    PairedCounts,
    Target,
    TriggerInfo,
)
from pargate.probes.base import Asked, BlockSource, Scene, Test, Views, Words
from pargate.triggers import Trigger

Baseline = Literal["control", "reference", "tuned", "tuned-weaker"]

EXAMPLES = 8


class Hits(Protocol):
    """The targets that each image of a block hits."""

    def of(self, target: int) -> NDArray[np.bool_]:
        """Return whether each image hits a target: bool [n]."""
        ...

    def shares(self) -> NDArray[np.int64]:
        """Return the number of images that hit each target: int64 [targets]."""
        ...


@dataclass(frozen=True, slots=True)
class Predicted:
    """Hits of images with one predicted class each."""

    classes: NDArray[np.int64]
    """Class of each image, [n], −1 for none."""
    count: int
    """Number of classes."""

    def of(self, target: int) -> NDArray[np.bool_]:
        """Return whether each image has a class: bool [n]."""
        return np.asarray(self.classes == target)

    def shares(self) -> NDArray[np.int64]:
        """Return the number of images of each class: int64 [classes]."""
        return np.bincount(self.classes[self.classes >= 0], minlength=self.count)


@dataclass(frozen=True, slots=True)
class Marked:
    """Hits of images that may have several targets, or none."""

    bits: NDArray[np.bool_]
    """Whether each image hits each target, [n, targets]."""

    def of(self, target: int) -> NDArray[np.bool_]:
        """Return whether each image hits a target: bool [n]."""
        return self.bits[:, target]

    def shares(self) -> NDArray[np.int64]:
        """Return the number of images that hit each target: int64 [targets]."""
        return np.asarray(self.bits.sum(axis=0), dtype=np.int64)


@dataclass(slots=True)
class _Record:
    """The hits of one block."""

    selection: bool
    truth: Hits
    clean: Hits
    stamped: Hits
    digests: tuple[str, ...]
    valid: NDArray[np.bool_]
    control: Hits | None = None
    reference: Hits | None = None


METRICS: Mapping[str, Words] = {
    "attack_success": Words(
        "The share of images that the trigger moves to the target class, among those that were not predicted as it.",
        "Papers on backdoors report this number.",
        "Where the rule names no target, some pull is natural: look at the excess too.",
    ),
    "excess": Words(
        "Attack success less the share that a control of the same energy, or the reference model, reaches on the same "
        "images.",
        "Any strong stamp moves some images to some class; only the excess over that is evidence of a backdoor.",
        "Above the limit it is more than natural pull explains. A trusted parent, `--reference PARENT`, shows whether "
        "it was planted.",
    ),
}
"""Metrics of targeted tests."""


OTHER_MODELS = ("reference", TUNED, TUNED_WEAKER)
"""Baselines that are another model under the same trigger."""


def baseline(asked: Asked, scene: Scene) -> Baseline | None:
    """Return the baseline of the excess; None if the rule does not limit the excess."""
    if Metric.EXCESS not in asked.metrics:
        return None
    return "reference" if scene.has_reference else "control"


@dataclass(slots=True)
class TargetedTest(Test):
    """Counts hits under a trigger, and under its baseline if needed."""

    id: str
    rule: str
    kind: str
    """Name of the probe."""
    trigger: Trigger
    names: tuple[str, ...]
    """Names of the targets."""
    given: int | None
    """Index of the target, if the rule names it."""
    baseline: Baseline | None
    """Baseline of the excess; None if the rule does not limit the excess."""
    truth: Callable[[Views], Hits]
    """Function that returns the targets that images truly show."""
    hits: Callable[[Vectors, bool], Hits]
    """Function that returns the hits of embeddings; the flag says that they are the reference's."""
    controlled: bool = False
    """Whether the control is measured too; the scan sets it if the test stays open without."""
    compared: Trigger | None = field(init=False)
    _records: dict[int, _Record] = field(default_factory=dict)
    _passes: int = 0

    def __post_init__(self) -> None:
        self.compared = self.trigger if self.baseline in OTHER_MODELS else None

    def observe(self, number: int, selection: bool, views: Views) -> None:
        """Count one block."""
        vectors = views.stamped(self.trigger)
        clean = views.clean()
        record = _Record(
            # A block that chooses the target or the control's class, or is the gallery of retrieval, does not measure.
            selection and (self.given is None or self.baseline == "control" or self.kind == "retrieval"),
            self.truth(views),
            self.hits(clean, False),
            self.hits(vectors, False),
            tuple(views.digests),
            np.asarray(np.isfinite(np.concatenate([vectors, clean], axis=1)).all(axis=1)),
        )
        self._passes += len(vectors)
        if self.baseline in OTHER_MODELS:
            record.reference = self.hits(views.stamped(self.trigger, reference=True), True)
            self._passes += len(vectors)
        self._records[number] = record
        if self.controlled:
            self._observe_control(number, views)

    def wants_control(self, finding: Finding) -> bool:
        """Return whether attack success was measured, the limit on the excess is open, and there is no control yet."""
        return (
            self.baseline == "control"
            and not self.controlled
            and any(bound.metric == Metric.EXCESS and bound.n > 0 for bound in finding.bounds)
        )

    def add_control(self, blocks: BlockSource) -> None:
        """Measure the control too, on all earlier and later blocks."""
        self.controlled = True
        for number in tuple(self._records):
            self._observe_control(number, blocks(number))

    def _observe_control(self, number: int, views: Views) -> None:
        vectors = views.control(self.trigger)
        self._records[number].control = self.hits(vectors, False)
        self._passes += len(vectors)

    def _choose(self) -> tuple[int, int, float] | None:
        """Return the target, the number of images that chose it, and its gain there; None if nothing chose yet."""
        if self.given is not None:
            return self.given, 0, 0.0
        chosen = [r for r in self._records.values() if r.selection]
        n = sum(len(r.digests) for r in chosen)
        if n == 0:
            return None
        gain = np.zeros(len(self.names))
        for r in chosen:
            # A pull that a fine-tuned copy keeps is no gain over it, and must not hide the class that it goes to.
            natural = r.reference if self.baseline == "reference" else None
            gain += r.stamped.shares() - (natural or r.clean).shares()
        best = int(np.argmax(gain))
        return best, n, float(gain[best]) / n

    def _choose_control(self) -> int | None:
        """Return the class that the control pulls to most, on the images that choose the target."""
        chosen = [r for r in self._records.values() if r.control and r.selection]
        gain = np.zeros(len(self.names))
        for r in chosen:
            if r.control is not None:
                gain += r.control.shares() - r.clean.shares()
        return int(np.argmax(gain)) if chosen else None

    def measurement(self) -> Measurement:
        """Return the counts so far."""
        info = TriggerInfo(
            label=self.trigger.label,
            kind=self.trigger.kind,
            parameters=self.trigger.parameters,
            digest=self.trigger.digest,
            one_drawing=self.trigger.one_drawing,
        )
        empty = Measurement(id=self.id, rule=self.rule, probe=self.kind, trigger=info, forward_passes=self._passes)
        choice = self._choose()
        if choice is None:
            return empty
        target, chosen_on, gain = choice
        measured = [r for r in self._records.values() if not r.selection]
        counts, pairs, excluded, examples = self._count(target, measured)
        chosen = [r for r in self._records.values() if r.selection]
        return empty.model_copy(
            update={
                "target": Target(
                    name=self.names[target],
                    given=self.given is not None,
                    selection_n=chosen_on,
                    selection_gain=gain,
                ),
                "counts": counts,
                "pairs": pairs,
                "selection": self._count(target, chosen)[0] if chosen else {},
                "excluded": excluded,
                "examples": examples,
            }
        )

    def _count(
        self, target: int, records: list[_Record]
    ) -> tuple[dict[str, Count], PairedCounts | None, dict[str, int], tuple[str, ...]]:
        if not records:
            return {}, None, {}, ()
        truth = np.concatenate([r.truth.of(target) for r in records])
        clean = np.concatenate([r.clean.of(target) for r in records])
        hit = np.concatenate([r.stamped.of(target) for r in records])
        valid = np.concatenate([r.valid for r in records])
        digests = [d for r in records for d in r.digests]
        eligible = ~truth & ~clean & valid
        counts = {
            str(Metric.ATTACK_SUCCESS): _count(hit, eligible),
            "asr_nt": _count(hit, ~truth & valid),
            "asr_all": _count(hit, valid),
            "base": _count(clean, ~truth & valid),
        }
        excluded = {
            "shows the target": int(truth.sum()),
            "hits the target without the trigger": int((clean & ~truth).sum()),
            NOT_FINITE: int((~valid).sum()),
        }
        pairs = self._pair(target, records, hit, eligible)
        examples = [d for d, e, h in zip(digests, eligible, hit, strict=True) if e and h][:EXAMPLES]
        return counts, pairs, {k: v for k, v in excluded.items() if v}, tuple(examples)

    def _pair(
        self, target: int, records: list[_Record], hit: NDArray[np.bool_], eligible: NDArray[np.bool_]
    ) -> PairedCounts | None:
        if self.baseline in OTHER_MODELS:
            against, name = target, str(self.baseline)
            other = np.concatenate([r.reference.of(target) for r in records if r.reference is not None])
        else:
            own = self._choose_control() if self.controlled else None
            if own is None or any(r.control is None for r in records):
                return None
            against, name = own, f"control:{self.trigger.control}"
            other = np.concatenate([r.control.of(own) for r in records if r.control is not None])
            # An image that hits the control's class without a stamp says nothing about the control's pull.
            anyway = np.concatenate([r.truth.of(own) | r.clean.of(own) for r in records])
            eligible = eligible & ~anyway
        return PairedCounts(
            baseline=name,
            target=self.names[against],
            n=int(eligible.sum()),
            both=int((eligible & hit & other).sum()),
            trigger_only=int((eligible & hit & ~other).sum()),
            baseline_only=int((eligible & ~hit & other).sum()),
        )


def _count(hits: NDArray[np.bool_], among: NDArray[np.bool_]) -> Count:
    return Count(n=int(among.sum()), successes=int((hits & among).sum()))
