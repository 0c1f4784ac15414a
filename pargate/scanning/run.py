"""Scan: a checkpoint, a policy and carriers in, a report out.

Order: cheap before dear, safe before risky. The policy is resolved already; the checkpoint is inspected,
the carriers are listed, and what so few could never decide is refused, all before torch is imported.
Then each block of carriers is decoded once and stamped for every question that is still open.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pargate import events
from pargate.core import zeroshot
from pargate.core.found import Family, Found
from pargate.core.model import Checkpoint, Precision, Vectors
from pargate.core.names import tidy
from pargate.core.report import ScanReport
from pargate.core.results import Metric
from pargate.errors import InputError, Undecided, UnsafeCheckpoint
from pargate.export.parity import altered, made_from
from pargate.files import BlockStore
from pargate.images.classes import BUILTIN_NOUNS, DEFAULT_TEMPLATES, read_classes
from pargate.images.dataset import Split
from pargate.images.labelled import LabelledImages, label_images
from pargate.images.opening import open_images
from pargate.images.prefetch import Decoder
from pargate.images.sources.scenes import BUILTIN_SCENES
from pargate.judge import judge
from pargate.judge.waivers import Context
from pargate.models.model import Model
from pargate.models.open import inspect, opened, source_of
from pargate.models.shapes import check
from pargate.policy.resolve import Resolved
from pargate.policy.schema import Policy
from pargate.probes.base import CLEAN, FILE, PROBES, UNKNOWN, Asked
from pargate.scanning.embed import Eye, Eyes
from pargate.scanning.examples import examples
from pargate.scanning.found import search
from pargate.scanning.loop import Loop, Running
from pargate.scanning.report import RunFacts, build_report, undecided_report, unsafe_report

POOL = 1000
"""Captions that retrieval searches, at most."""


@dataclass(frozen=True, slots=True)
class ScanRequest:
    """Everything a scan depends on; paths and names as the user gave them."""

    model: str | Model
    """What the user named, or a model that is open already."""
    policy: Resolved
    started: str
    """RFC 3339, UTC: the clock is read by the caller."""
    arch: str | None = None
    """open_clip's name of the architecture, for a weights file."""
    images: str | None = None
    """Wins over the policy's."""
    classes: Path | None = None
    """Wins over the policy's."""
    reference: str | Model | None = None
    """Wins over the policy's."""
    device: str = "auto"
    precision: Literal["auto"] | Precision = "auto"
    seed: int = 0
    max_minutes: float | None = None
    """Wins over the policy's."""
    cache: Path | None = None
    today: date = date.max
    """In UTC, for waivers; the clock is read by the caller."""
    waive: bool = True
    strict: bool = False
    """Whether a waiver that accepts nothing fails the verdict."""
    previous: ScanReport | None = None
    """Of the last release, for rules that limit how much worse a model may become."""
    part: Split | None = None
    """Which part of the carriers; all of them without one."""
    all_controls: bool = False
    """Whether the control of every trigger is measured, also where the attack success alone settles the question."""
    pictures: bool = True
    """Whether the report holds small pictures of some carriers."""

    def context(self, model: str) -> Context:
        """What the verdict on the checkpoint with this SHA-256 depends on besides policy and measurements."""
        return Context(model, self.today, self.waive, self.previous.measurements if self.previous else None)

    @property
    def source(self) -> str:
        """What the user called the model."""
        return source_of(self.model)

    @property
    def image_source(self) -> str:
        """Where the carriers come from."""
        return self.images or _beside(self.policy, self.policy.policy.images.source) or BUILTIN_SCENES

    @property
    def reference_source(self) -> str | Model | None:
        """The trusted model, if there is one."""
        return self.reference or _beside(self.policy, self.policy.policy.reference)


def _beside(resolved: Resolved, source: str | None) -> str | None:
    """A path in a policy, relative to the policy's folder; schemes such as `builtin:` stay."""
    if source is None or ":" in source:
        return source
    return str(resolved.folder / source)


def plan(request: ScanRequest) -> tuple[str, ...]:
    """What a scan would measure, line by line; opens no model, but refuses what a scan would refuse before that.

    Raises:
        InputError, UnsafeCheckpoint: as `scan`.
    """
    model = inspect(request.model, arch=request.arch)
    check(model)
    if request.reference_source:
        check_reference(model, inspect(request.reference_source, arch=request.arch))
    carriers, notices = read_carriers(request)
    policy = request.policy.policy.read(request.policy.folder)
    asked = policy.comparisons
    lines = [
        f"model     {model.source}: {model.architecture}, {model.parameters / 1e6:.1f} M parameters, {model.format}",
        f"policy    {request.policy.source}: {len(policy.rules)} rules, {len(asked)} comparisons, "
        f"confidence {policy.confidence * 100:g}% for the whole verdict",
        f"carriers  {carriers.source}: {len(carriers.items)}, of which {carriers.selection} choose unknown targets",
        f"classes   {carriers.classes.source}: {len(carriers.classes.names)}",
    ]
    if request.reference_source:
        lines.append(f"reference {source_of(request.reference_source)}")
    _check_triggers(policy, model.preprocess.size, request.seed)
    for comparison in asked:
        trigger = comparison.trigger
        subject = "the weights file" if comparison.id == FILE else "clean carriers"
        if comparison.rule.families:
            subject = f"search for a trigger of the family {comparison.direction}"
        label = f"{trigger.label} → {comparison.target}" if trigger else subject
        limits = [f"{metric} at most {limit.text}" for metric, limit in comparison.rule.max.items()]
        limits += [f"{metric} at least {limit.text}" for metric, limit in comparison.rule.min.items()]
        limits += [f"{metric} at most {limit.text} worse" for metric, limit in comparison.rule.worsening.items()]
        if comparison.rule.allow is not None:
            limits.append(f"one of {', '.join(comparison.rule.allow.formats)}")
        lines.append(f"  {comparison.rule.id}: {label}: {', '.join(limits)}")
    return (*lines, *(f"note: {notice}" for notice in (*_found(request.policy), *notices)))


def scan(
    request: ScanRequest,
    emit: events.Listener = events.ignore,
    on_interrupt: Callable[[KeyboardInterrupt], None] | None = None,
) -> ScanReport:
    """Measure what the policy asks, judge it, and say so in a report.

    A KeyboardInterrupt while measuring is handed to `on_interrupt`, and the report of what was measured until
    then comes back, marked as not complete; without `on_interrupt` it is raised.

    Raises:
        InputError, UnsafeCheckpoint, PolicyError, OperationalError: see `errors.py`.
    """
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        emit(events.StageStarted("inspect", request.source))
        try:
            model = stack.enter_context(opened(request.model, arch=request.arch))
        except UnsafeCheckpoint as unsafe:
            return unsafe_report(request.policy, unsafe, request.source, request.started, request.seed)
        reference = None
        remarks = (*_found(request.policy), *altered(model.checkpoint))
        if request.previous is not None and request.previous.model.sha256 == model.checkpoint.sha256:
            remarks += ("the previous report is about the same weights: no figure can have become worse",)
        if request.reference_source:
            emit(events.StageStarted("inspect", source_of(request.reference_source)))
            reference = stack.enter_context(opened(request.reference_source, arch=request.arch))
            check_reference(model.checkpoint, reference.checkpoint)
        decoder = stack.enter_context(Decoder(model.checkpoint.preprocess))
        emit(events.StageStarted("carriers", request.image_source))
        carriers, notices = read_carriers(request)
        policy = request.policy.policy.read(request.policy.folder)
        _check_triggers(policy, model.checkpoint.preprocess.size, request.seed)
        decoder.start(carriers.items, carriers.blocks)
        emit(events.StageStarted("open", model.checkpoint.architecture))
        # Only now: torch takes seconds, and everything above may already have refused.
        from pargate.scanning.choose import open_eyes

        store = BlockStore(request.cache)
        readable = partial(decoder.readable, source=carriers.source)
        try:
            eyes = open_eyes(
                model, reference, carriers, readable, store, device=request.device, precision=request.precision
            )
        except Undecided as undecided:
            context = request.context(model.checkpoint.sha256)
            run = RunFacts(request.started, time.monotonic() - began, True, request.seed, (*remarks, *notices),
                           request.strict)  # fmt: skip
            return undecided_report(request.policy, undecided, model.checkpoint, carriers, run, context)
        for note in (eyes.activation_note, eyes.precision_note):
            if note:
                emit(events.Notice(note))
        eyes, merged = tell_apart(request.policy.policy, carriers, eyes)
        loop = prepare(request, policy, carriers, decoder, eyes, emit, began)
        emit(events.StageStarted("measure", f"{len(loop.running)} comparisons"))
        complete = True
        try:
            loop.run()
        except KeyboardInterrupt as signal:
            if on_interrupt is None:
                raise
            on_interrupt(signal)
            loop.interrupt()
            complete = False
        pictures = examples(loop, eyes) if request.pictures else ()
        run = RunFacts(
            request.started, time.monotonic() - began, complete, request.seed, (*remarks, *notices, *merged),
            request.strict, pictures, request.part.name if request.part else "",
        )  # fmt: skip
        return build_report(request.policy, loop, eyes, run)


def _found(policy: Resolved) -> tuple[str, ...]:
    """What to say about how a policy was found."""
    return (policy.remark,) if policy.remark else ()


def check_reference(model: Checkpoint, reference: Checkpoint) -> None:
    """Refuse a reference that cannot be compared with, or is the model itself, exported or not.

    Raises:
        InputError: it is.
    """
    hint = "a reference is a trusted model of the same family, such as the parent"
    if model.preprocess != reference.preprocess:
        raise InputError(
            f"the reference {reference.source} reads images otherwise than {model.source}: "
            f"{reference.preprocess} against {model.preprocess}",
            hint,
        )
    same = {model.sha256[:32], made_from(model)} & {reference.sha256[:32], made_from(reference)} - {""}
    if same:
        raise InputError(
            f"the reference {reference.source} is the model {model.source} itself: nothing can be in excess of it", hint
        )


def read_carriers(request: ScanRequest) -> tuple[LabelledImages, tuple[str, ...]]:
    """The carriers, with every class that a rule names among the classes; refuses too few of them."""
    policy = request.policy.policy
    names, source = class_names(request)
    asked = [t for rule in policy.rules if PROBES[rule.probe].targets_classes for t in rule.target if t != UNKNOWN]
    wanted = policy.images.digest
    dataset = open_images(request.image_source, seed=request.seed, cache=request.cache)
    if wanted is not None and (found_digest := f"sha256:{dataset.digest}") != wanted:
        raise InputError(
            f"{request.image_source} holds other images than the policy {policy.name} names: {found_digest}",
            "give those images, or have the policy changed",
        )
    carriers = label_images(
        dataset if request.part is None else dataset.take(request.part),
        source,
        names,
        asked,
        policy.classes.templates or DEFAULT_TEMPLATES,
        request.seed,
    )
    known = carriers.labels[carriers.labels >= 0]
    wanting = [rule.probe for rule in policy.rules if "captions" in PROBES[rule.probe].needs]
    if wanting and not any(item.caption for item in carriers.items):
        raise InputError(
            f"{carriers.source} has no captions, which the probe {wanting[0]} needs",
            f"give a CSV with the column caption, tars with .txt, or {BUILTIN_SCENES}",
        )
    total, labelled = len(carriers.items), len(known)
    where = f"the part `{request.part.name}` of {carriers.source}" if request.part else carriers.source
    if total < policy.images.min:
        raise InputError(
            f"{where} holds {total} images, the policy {policy.name} asks for at least {policy.images.min}",
            "give more images with --images, or another policy with --policy",
        )
    problem = judge.best_case(policy, total, carriers.selection, labelled, len(np.unique(known)))
    if problem:
        raise InputError(
            f"{where} holds {total} images: {problem}",
            "give more images with --images, or another policy with --policy",
        )
    notices = list(carriers.notices)
    if len(np.unique(known)) < 2:
        what = "labels of two classes" if labelled else "labels"
        notices.append(
            f"{carriers.source} has no {what}, so usefulness cannot be decided"
            + ("" if any(item.caption for item in carriers.items) else ", and no captions, so nothing can pass")
            + f": give class folders, a CSV with the column label, tars with .cls, or {BUILTIN_SCENES}"
        )
    for rule in policy.rules:
        if Metric.ATTACK_SUCCESS in rule.max and UNKNOWN in rule.target:
            notices.append(
                f"rule {rule.id} limits the attack success towards an unknown target: natural pull is not subtracted; "
                "a limit on the excess does that"
            )
    return carriers, tuple(notices)


def class_names(request: ScanRequest) -> tuple[tuple[str, ...] | None, str]:
    """Names of the classes and where they come from; None where neither user nor policy says."""
    given = request.policy.policy.classes.names
    if request.classes is not None:
        return read_classes(request.classes), str(request.classes)
    if given is None or given == BUILTIN_NOUNS:
        return None, BUILTIN_NOUNS
    if isinstance(given, str):
        return read_classes(request.policy.folder / given), given
    return tuple(map(tidy, given)), f"policy {request.policy.policy.name}"


def _check_triggers(policy: Policy, size: tuple[int, int], seed: int) -> None:
    """Raise if a trigger does not fit images of `size`."""
    for rule in policy.rules:
        for trigger in rule.parsed:
            trigger.draw(size, [], seed)


def tell_apart(policy: Policy, carriers: LabelledImages, eyes: Eyes) -> tuple[Eyes, tuple[str, ...]]:
    """The models with classes that they cannot tell apart made one, and what to say about these.

    Of two such classes the later never wins, or chance decides: a rule about it would hold by itself.

    Raises:
        InputError: a rule is about such a class, or a carrier shows it.
    """
    names = carriers.classes.names
    asking = [rule for rule in policy.rules if PROBES[rule.probe].targets_classes]
    targets = {target for rule in asking for target in rule.target if target != UNKNOWN}
    concerned = {carriers.classes.index(target) for target in targets} | set(carriers.labels.tolist())
    notices: list[str] = []

    def merged(eye: Eye, head: Vectors) -> Vectors:
        same = zeroshot.alike(head)
        for later, first in same.items():
            if {later, first} & concerned:
                raise InputError(
                    f"{eye.checkpoint.source} cannot tell the classes '{names[first]}' and '{names[later]}' apart: "
                    "their prompts are the same tokens to it, or nearly the same vectors",
                    "leave one of them out of the list, or name them otherwise",
                )
        if not same:
            return head
        pairs = [f"'{names[later]}' and '{names[first]}'" for later, first in same.items()]
        more = f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""
        notices.append(f"{eye.checkpoint.source} cannot tell apart, so they count as one: {', '.join(pairs[:3])}{more}")
        head = head.copy()
        head[list(same)] = head[list(same.values())]
        return head

    head = merged(eyes.model, eyes.head)
    if eyes.reference is None or eyes.reference_head is None:
        return replace(eyes, head=head), tuple(notices)
    return replace(eyes, head=head, reference_head=merged(eyes.reference, eyes.reference_head)), tuple(notices)


@dataclass(slots=True)
class _Scene:
    """What probes know before the first block; implements `probes.base.Scene`."""

    loop: Loop
    eyes: Eyes
    all_controls: bool
    texts: tuple[str, ...]
    present: NDArray[np.int64]
    _galleries: dict[bool, Vectors] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """Where the images come from."""
        return self.loop.carriers.source

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.loop.carriers.classes.names

    @property
    def has_reference(self) -> bool:
        """Whether there is a trusted model to compare with."""
        return self.eyes.reference is not None

    def index(self, name: str) -> int | None:
        """Return the position of a class, however it is spelled, or None."""
        return self.loop.carriers.classes.index(name)

    def head(self, *, reference: bool = False) -> Vectors:
        """Return the zero-shot head: float32 [classes, d]."""
        return self.eyes.reference_head if reference and self.eyes.reference_head is not None else self.eyes.head

    def text_vectors(self, *, reference: bool = False) -> Vectors:
        """Return float32 [texts, d]."""
        eye = self.eyes.reference if reference and self.eyes.reference is not None else self.eyes.model
        return eye.encode_texts(self.texts)

    def gallery(self, *, reference: bool = False) -> Vectors:
        """Return float32 [images, d]: clean images of the selection half."""
        if reference not in self._galleries:
            views = self.loop.selection()
            self._galleries[reference] = np.concatenate([block.clean(reference=reference) for block in views])
        return self._galleries[reference]

    def search(self, family: Family) -> Found | str:
        """Return the trigger of a family that moves the model most, or why none can be searched."""
        return search(self.loop, family)


def prepare(
    request: ScanRequest,
    policy: Policy,
    carriers: LabelledImages,
    decoder: Decoder,
    eyes: Eyes,
    emit: events.Listener,
    began: float,
) -> Loop:
    """Return the comparisons of the policy with their tests, ready to run."""
    minutes = request.max_minutes or policy.budget.minutes
    loop = Loop(
        policy, carriers, decoder, eyes.model, eyes.reference, request.seed, emit,
        began + 60 * minutes if minutes else None,
        request.context(eyes.model.checkpoint.sha256),
    )  # fmt: skip
    texts = tuple(dict.fromkeys(item.caption for item in carriers.items if item.caption))[:POOL]
    scene = _Scene(loop, eyes, request.all_controls, texts, np.unique(carriers.labels[carriers.labels >= 0]))
    probes = [PROBES[rule.probe] for rule in policy.rules]
    limited = {metric for rule in policy.rules for metric in (*rule.min, *rule.worsening)}
    if any("captions" in probe.needs for probe in probes):
        limited.add(Metric.RECALL)
    asked = Asked(CLEAN, "", None, UNKNOWN, "", frozenset(limited))
    loop.clean = PROBES["utility"].start(asked, scene)
    for comparison in policy.comparisons:
        probe = PROBES[comparison.rule.probe]
        if not probe.measures:
            test = probe.start(comparison.asked, scene)
            loop.running.append(Running(comparison, test, stopped=test.stopped))
    return loop
