"""The loop of a scan: read blocks of images until every comparison is decided or no image is left."""

import time
from dataclasses import dataclass, field

import numpy as np

from pargate import events
from pargate.core import zeroshot
from pargate.core.results import LEFT_OUT, Finding, Measurement, Metric, Status
from pargate.errors import InputError
from pargate.images.labelled import LabelledImages
from pargate.images.prefetch import Block, Decoder, check_readable
from pargate.judge import judge
from pargate.judge.waivers import NO_CONTEXT, Context
from pargate.policy.schema import Comparison, Policy
from pargate.probes.base import CLEAN, Test
from pargate.probes.targeted import TargetedTest
from pargate.scanning.embed import BlockViews, CachedEncoder
from pargate.triggers import Trigger


@dataclass(slots=True)
class Running:
    """One comparison of the policy, with its test."""

    comparison: Comparison
    test: Test
    observed: list[int] = field(default_factory=list)
    """Numbers of the blocks that the test observed."""
    status: Status = Status.OPEN
    stopped: str = ""

    @property
    def trigger(self) -> Trigger | None:
        """The trigger that the policy names, or that the test found."""
        return self.test.trigger if isinstance(self.test, TargetedTest) else self.comparison.trigger

    @property
    def label(self) -> str:
        """The label of the trigger, or the rule's id where it has no trigger."""
        return self.trigger.label if self.trigger else self.comparison.rule.id

    def measurement(self) -> Measurement:
        """Return the test's counts and the reason why sampling ended."""
        return self.test.measurement().model_copy(update={"stopped": self.stopped})


@dataclass(slots=True)
class Loop:
    """The loop of a scan: blocks go only to the tests of comparisons that are still open."""

    policy: Policy
    images: LabelledImages
    decoder: Decoder
    model: CachedEncoder
    reference: CachedEncoder | None
    seed: int
    emit: events.Listener
    deadline: float | None
    """End of the time budget, on the monotonic clock."""
    context: Context = NO_CONTEXT
    clean: Test = field(init=False)
    """The test on clean images."""
    running: list[Running] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    """Digests of the images that were read, in order."""
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    duplicates: int = 0
    _alarms: int = field(init=False)
    _clean_comparisons: list[Comparison] = field(init=False)
    _first_block: dict[str, int] = field(default_factory=dict)
    """Number of the block in which each image came first, by digest."""

    def __post_init__(self) -> None:
        self._alarms = judge.alarms(self.policy)
        self._clean_comparisons = [c for c in self.policy.comparisons if c.id == CLEAN]

    @property
    def asked(self) -> int:
        """Number of comparisons that the report answers: those of the policy that the scan does not leave out."""
        return len(self.policy.comparisons) - sum(q.stopped in LEFT_OUT for q in self.running)

    def views(self, number: int) -> BlockViews:
        """Return block `number` without images that an earlier block or row holds already."""
        block = self.decoder.block(number)
        keep: dict[str, int] = {}
        for row, digest in enumerate(block.digests):
            if self._first_block.setdefault(digest, number) == number:
                keep.setdefault(digest, row)
        rows = list(keep.values())
        if len(rows) < len(block.digests):
            block = Block(block.pixels[rows], tuple(keep), block.rows[rows], block.unreadable)
        return BlockViews(block, self.images, self.model, self.reference, self.seed)

    def selection(self) -> list[BlockViews]:
        """Return the blocks of the selection half."""
        numbers = range(len(self.images.blocks))
        return [self.views(number) for number in numbers if self.images.is_selection(number)]

    def run(self) -> None:
        """Read blocks until every rule is decided, the images end, or the budget is spent."""
        blocks = self.images.blocks
        for number, rows in enumerate(blocks):
            if self._spent(len(rows)):
                self._stop("budget")
                return
            views = self.views(number)
            self._account(number, views)
            selection = self.images.is_selection(number)
            self.clean.observe(number, selection, views)
            for running in self._open():
                running.test.observe(number, selection, views)
                running.observed.append(number)
            if number == 0:
                self._refuse_itself(views)
            self._look()
            clean_decided = self._clean_decided()
            undecided = len(self._open()) + (0 if clean_decided else len(self._clean_comparisons))
            note = f"{self.asked - undecided} of {self.asked} decided, {len(self.read)} images"
            self.emit(events.Advanced(number + 1, len(blocks), note))
            if clean_decided and not self._open():
                return
        self._stop("no more images")

    def interrupt(self) -> None:
        """Mark what is still open as interrupted."""
        self._stop("interrupted")

    def _stop(self, reason: str) -> None:
        for running in self._open():
            running.stopped = reason

    def _open(self) -> list[Running]:
        return [q for q in self.running if q.status is Status.OPEN and not q.stopped]

    def _spent(self, coming: int) -> bool:
        images = self.policy.budget.images
        if images is not None and len(self.read) + coming > images:
            return True
        return self.deadline is not None and time.monotonic() > self.deadline

    def _account(self, number: int, views: BlockViews) -> None:
        """Count what was read, and raise if too many images cannot be read."""
        block = self.decoder.block(number)
        self.unreadable += block.unreadable
        self.duplicates += len(block.digests) - len(views.digests)
        self.read += views.digests
        read = len(self.read) + self.duplicates
        check_readable(self.images.source, len(self.images.items), self.unreadable, read)

    def _refuse_itself(self, views: BlockViews) -> None:
        """Raise if the reference is the model in another file, since nothing could then be in excess of it.

        Raises:
            InputError: both give the same vectors for the first block, under each trigger that they are compared on.
        """
        compared = [q.test.compared for q in self.running if q.test.compared is not None]
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
        """Return whether the rules about clean images, and whether the model sees at all, need no more images."""
        measurement = self.clean.measurement()
        found = [judge.find(self.policy, c, measurement, self._alarms, self.context) for c in self._clean_comparisons]
        if any(f.status is Status.BREACH for f in found):
            return True  # more images cannot change a breach
        if measurement.chance is None and str(Metric.RECALL) not in measurement.counts:
            return True  # neither labels nor captions can show that it sees
        return judge.sees(measurement, self.policy.confidence) and all(f.status is Status.MET for f in found)

    def _look(self) -> None:
        """Close the comparisons that are decided, and add a control to tests that want one."""
        for running in self._open():
            finding = self._find(running)
            if finding.status is Status.OPEN and running.test.wants_control(finding):
                running.test.add_control(self.views)
                finding = self._find(running)
            if finding.status is not Status.OPEN:
                running.status, running.stopped = finding.status, "decided"
                self.emit(events.RuleDecided(finding.rule, running.label, str(finding.status)))
        broken = {q.comparison.rule.id for q in self.running if q.status is Status.BREACH}
        for running in self._open():
            if running.comparison.rule.id in broken and running.measurement().counts:
                running.stopped = "another trigger broke the rule"

    def _find(self, running: Running) -> Finding:
        return judge.find(self.policy, running.comparison, running.test.measurement(), self._alarms, self.context)
