"""A scan under way: blocks of carriers in, until every question is decided or nothing is left."""

import time
from dataclasses import dataclass, field

import numpy as np

from pargate import events
from pargate.core import zeroshot
from pargate.core.results import Finding, Measurement, Metric, Status
from pargate.errors import InputError
from pargate.images.labelled import LabelledImages
from pargate.images.prefetch import Block, Decoder, check_readable
from pargate.judge import judge
from pargate.judge.judge import Comparison
from pargate.judge.waivers import NO_CONTEXT, Context
from pargate.policy.schema import Policy
from pargate.probes.targeted import TargetedProbe
from pargate.probes.utility import UtilityProbe
from pargate.scanning.embed import BlockViews, Eye


@dataclass(slots=True)
class Question:
    """One comparison of the policy, and the probe that answers it."""

    comparison: Comparison
    probe: TargetedProbe
    status: Status = Status.OPEN
    stopped: str = ""

    def measurement(self) -> Measurement:
        """The probe's counts, with the reason why sampling ended."""
        return self.probe.measurement().model_copy(update={"stopped": self.stopped})


@dataclass(slots=True)
class Session:
    """Asks only the probes of open questions for more; the judge says which are open."""

    policy: Policy
    carriers: LabelledImages
    decoder: Decoder
    model: Eye
    reference: Eye | None
    clean: UtilityProbe
    questions: list[Question]
    seed: int
    emit: events.Listener
    deadline: float | None
    """On the monotonic clock."""
    context: Context = NO_CONTEXT
    read: list[str] = field(default_factory=list)
    """Digests of the carriers that were read, in order."""
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    duplicates: int = 0
    _alarms: int = field(init=False)
    _asked_of_clean: list[Comparison] = field(init=False)
    _first_block: dict[str, int] = field(default_factory=dict)
    """In which block each picture came first."""

    def __post_init__(self) -> None:
        # Once, not at every look: listing the comparisons validates every trigger again.
        self._alarms = judge.alarms(self.policy)
        self._asked_of_clean = [c for c in judge.comparisons(self.policy) if c.id == judge.CLEAN]

    def views(self, number: int) -> BlockViews:
        """Block `number`, less the pictures that were there before under another name."""
        block = self.decoder.block(number)
        keep: dict[str, int] = {}
        for row, digest in enumerate(block.digests):
            if self._first_block.setdefault(digest, number) == number:
                keep.setdefault(digest, row)
        rows = list(keep.values())
        if len(rows) < len(block.digests):
            block = Block(block.pixels[rows], tuple(keep), block.rows[rows], block.unreadable)
        return BlockViews(block, self.carriers, self.model, self.reference, self.seed)

    def run(self) -> None:
        """Read blocks until every rule is decided, the carriers end, or the budget is spent."""
        blocks = self.carriers.blocks
        for number, rows in enumerate(blocks):
            if self._spent(len(rows)):
                self._stop("budget")
                return
            views = self.views(number)
            self._account(number, views)
            selection = self.carriers.is_selection(number)
            self.clean.observe(number, selection, views)
            for question in self._open():
                question.probe.observe(number, selection, views)
            if number == 0:
                self._refuse_itself(views)
            self._look()
            undecided = self._open()
            done = len(self.questions) - len(undecided)
            note = f"{done} of {len(self.questions)} comparisons decided, {len(self.read)} carriers"
            self.emit(events.Advanced(number + 1, len(blocks), note))
            if not undecided and self._clean_decided():
                return
        self._stop("no more carriers")

    def interrupt(self) -> None:
        """Mark what is still open as interrupted."""
        self._stop("interrupted")

    def _stop(self, reason: str) -> None:
        for question in self._open():
            question.stopped = reason

    def _open(self) -> list[Question]:
        return [q for q in self.questions if q.status is Status.OPEN and not q.stopped]

    def _spent(self, coming: int) -> bool:
        images = self.policy.budget.images
        if images is not None and len(self.read) + coming > images:
            return True
        return self.deadline is not None and time.monotonic() > self.deadline

    def _account(self, number: int, views: BlockViews) -> None:
        """Keep count of what was read; too much that cannot be read is an error, not a smaller sample."""
        block = self.decoder.block(number)
        self.unreadable += block.unreadable
        self.duplicates += len(block.digests) - len(views.digests)
        self.read += views.digests
        read = len(self.read) + self.duplicates
        check_readable(self.carriers.source, len(self.carriers.items), self.unreadable, read)

    def _refuse_itself(self, views: BlockViews) -> None:
        """Refuse a reference that is the model in another file: nothing could ever be in excess of it.

        Raises:
            InputError: both see every carrier of the first block alike, under each trigger that they are compared on.
        """
        compared = [q.probe.trigger for q in self.questions if q.probe.baseline == "reference"]
        if self.reference is None or not compared or not views.digests:
            return
        apart = (np.linalg.norm(views.stamped(t) - views.stamped(t, reference=True), axis=1).max() for t in compared)
        if all(distance <= zeroshot.ALIKE for distance in apart):
            raise InputError(
                f"the reference {self.reference.checkpoint.source} gives the vectors of "
                f"{self.model.checkpoint.source}: it is the model itself, and nothing can be in excess of it",
                "name a trusted model of the same family, such as the parent",
            )

    def _clean_decided(self) -> bool:
        """Whether usefulness, and whether the model sees at all, need no more carriers."""
        measurement = self.clean.measurement()
        found = [judge.find(self.policy, c, measurement, self._alarms, self.context) for c in self._asked_of_clean]
        if any(f.status is Status.BREACH for f in found):
            return True  # it will not pass, however many more are looked at
        if measurement.chance is None and str(Metric.RECALL) not in measurement.counts:
            return True  # nothing will show that it sees
        return judge.sees(measurement, self.policy.confidence) and all(f.status is Status.MET for f in found)

    def _look(self) -> None:
        """Ask the judge which questions are answered; give those that are not a control."""
        for question in self._open():
            finding = self._find(question)
            if finding.status is Status.OPEN and _wants_control(question.probe, finding):
                question.probe.controlled = True
                for number in question.probe.observed:
                    question.probe.observe_control(number, self.views(number))
                finding = self._find(question)
            if finding.status is not Status.OPEN:
                question.status, question.stopped = finding.status, "decided"
                self.emit(events.RuleDecided(finding.rule, question.probe.trigger.label, str(finding.status)))
        broken = {q.comparison.rule.id for q in self.questions if q.status is Status.BREACH}
        for question in self._open():
            if question.comparison.rule.id in broken and question.measurement().counts:
                question.stopped = "another trigger broke the rule"

    def _find(self, question: Question) -> Finding:
        return judge.find(self.policy, question.comparison, question.probe.measurement(), self._alarms, self.context)


def _wants_control(probe: TargetedProbe, finding: Finding) -> bool:
    """Whether a limit on the excess is open although attack success was measured, without a control yet."""
    return (
        probe.baseline == "control"
        and not probe.controlled
        and any(bound.metric is Metric.EXCESS and bound.n > 0 for bound in finding.bounds)
    )
