"""Scan a checkpoint: measure what a policy limits on images, and report the verdict.

Cheap and safe steps come first: the checkpoint is inspected, the images are listed, and a policy that so few images
cannot decide is refused, all before torch is imported. Then each block of images is decoded once, and stamped for every
test that is still open.
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
from pargate.scanning.embed import CachedEncoder, ModelPair
from pargate.scanning.examples import examples
from pargate.scanning.found import search
from pargate.scanning.loop import Loop, Running
from pargate.scanning.report import RunFacts, build_report, undecided_report, unsafe_report
from pargate.scanning.unlearned import REMARK, told

POOL = 1000
"""Largest number of captions that retrieval searches."""


@dataclass(frozen=True, slots=True)
class ScanRequest:
    """The inputs and settings of a scan; paths and names are as the user gave them."""

    model: str | Model
    """Path or name of the checkpoint, or an open model."""
    policy: Resolved
    started: str
    """Time at which the scan started: RFC 3339, UTC."""
    arch: str | None = None
    """Name that open_clip gives the architecture, for a weights file."""
    images: str | None = None
    """Source of the images; it overrides the policy's."""
    classes: Path | None = None
    """File of class names; it overrides the policy's."""
    reference: str | Model | None = None
    """Trusted model; it overrides the policy's."""
    device: str = "auto"
    precision: Literal["auto"] | Precision = "auto"
    seed: int = 0
    max_minutes: float | None = None
    """Time budget; it overrides the policy's."""
    cache: Path | None = None
    today: date = date.max
    """Date in UTC, by which waivers expire."""
    waive: bool = True
    strict: bool = False
    """Whether a waiver without effect fails the verdict."""
    previous: ScanReport | None = None
    """Report of the last release, for rules that limit how much worse a model may become."""
    split: Split | None = None
    """Split of the images; None for all of them."""
    all_controls: bool = False
    """Whether the control of every trigger is measured, even if the attack success alone decides the comparison."""
    pictures: bool = True
    """Whether the report holds example images."""

    def context(self, model: str) -> Context:
        """Return what the verdict on the checkpoint `model` (its SHA-256) depends on besides the measurements."""
        return Context(model, self.today, self.waive, self.previous.measurements if self.previous else None)

    @property
    def source(self) -> str:
        """The name of the model, as the user gave it."""
        return source_of(self.model)

    @property
    def image_source(self) -> str:
        """The source of the images."""
        return self.images or _beside(self.policy, self.policy.policy.images.source) or BUILTIN_SCENES

    @property
    def reference_source(self) -> str | Model | None:
        """The trusted model, or None."""
        return self.reference or _beside(self.policy, self.policy.policy.reference)


def _beside(resolved: Resolved, source: str | None) -> str | None:
    """Return a path in a policy as relative to the policy's folder; keep schemes such as `builtin:`."""
    if source is None or ":" in source:
        return source
    return str(resolved.folder / source)


def plan(request: ScanRequest) -> tuple[str, ...]:
    """Return what a scan would measure, line by line, without opening the model.

    Raises:
        InputError, UnsafeCheckpoint: as `scan`.
    """
    model = inspect(request.model, arch=request.arch)
    check(model)
    if request.reference_source:
        check_reference(model, inspect(request.reference_source, arch=request.arch))
    images, notices = read_images(request)
    policy = request.policy.policy.read(request.policy.folder)
    asked = policy.comparisons
    lines = [
        f"model     {model.source}: {model.architecture}, {model.parameters / 1e6:.1f} M parameters, {model.format}",
        f"policy    {request.policy.source}: {len(policy.rules)} rules, {len(asked)} comparisons, "
        f"confidence {policy.confidence * 100:g}% for the whole verdict",
        f"images    {images.source}: {len(images.items)}, of which {images.selection} choose unknown targets",
        f"classes   {images.classes.source}: {len(images.classes.names)}",
    ]
    if request.reference_source:
        lines.append(f"reference {source_of(request.reference_source)}")
    _check_triggers(policy, model.preprocess.size, request.seed)
    for comparison in asked:
        trigger = comparison.trigger
        subject = "the weights file" if comparison.id == FILE else "clean images"
        if comparison.rule.families:
            subject = f"search for a trigger of the family {comparison.direction}"
        label = f"{trigger.label} → {comparison.target}" if trigger else subject
        limits = [f"{metric} at most {limit.text}" for metric, limit in comparison.rule.max.items()]
        limits += [f"{metric} at least {limit.text}" for metric, limit in comparison.rule.min.items()]
        limits += [f"{metric} at most {limit.text} worse" for metric, limit in comparison.rule.worsening.items()]
        if comparison.rule.allow is not None:
            limits.append(f"one of {', '.join(comparison.rule.allow.formats)}")
        lines.append(f"  {comparison.rule.id}: {label}: {', '.join(limits)}")
    return (*lines, *(f"note: {notice}" for notice in (*_remarks(request.policy), *notices)))


def scan(
    request: ScanRequest,
    emit: events.Listener = events.ignore,
    on_interrupt: Callable[[KeyboardInterrupt], None] | None = None,
) -> ScanReport:
    """Measure what the policy limits, judge it, and return the report.

    A KeyboardInterrupt while measuring is passed to `on_interrupt`, and the report of what was measured until then is
    returned, marked as not complete. Without `on_interrupt` it is raised.

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
        remarks = (*_remarks(request.policy), *altered(model.checkpoint))
        if not any(remark.id == REMARK for remark in request.policy.overrides):  # a gate has said it already
            remarks += tuple(filter(None, [told(model.checkpoint)]))
        if request.previous is not None and request.previous.model.sha256 == model.checkpoint.sha256:
            remarks += ("the previous report is about the same weights, so no figure can have become worse",)
        if request.reference_source:
            emit(events.StageStarted("inspect", source_of(request.reference_source)))
            reference = stack.enter_context(opened(request.reference_source, arch=request.arch))
            check_reference(model.checkpoint, reference.checkpoint)
        decoder = stack.enter_context(Decoder(model.checkpoint.preprocess))
        emit(events.StageStarted("images", request.image_source))
        images, notices = read_images(request)
        policy = request.policy.policy.read(request.policy.folder)
        _check_triggers(policy, model.checkpoint.preprocess.size, request.seed)
        decoder.start(images.items, images.blocks)
        emit(events.StageStarted("open", model.checkpoint.architecture))
        # Imported late: torch takes seconds, and every check above may already have failed.
        from pargate.scanning.choose import open_pair

        store = BlockStore(request.cache)
        readable = partial(decoder.readable, source=images.source)
        try:
            pair = open_pair(
                model, reference, images, readable, store, device=request.device, precision=request.precision
            )
        except Undecided as undecided:
            context = request.context(model.checkpoint.sha256)
            run = RunFacts(request.started, time.monotonic() - began, True, request.seed, (*remarks, *notices),
                           request.strict)  # fmt: skip
            return undecided_report(request.policy, undecided, model.checkpoint, images, run, context)
        for note in (pair.activation_note, pair.precision_note):
            if note:
                emit(events.Notice(note))
        pair, merged = tell_apart(request.policy.policy, images, pair)
        loop = prepare(request, policy, images, decoder, pair, emit, began)
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
        pictures = examples(loop, pair) if request.pictures else ()
        run = RunFacts(
            request.started, time.monotonic() - began, complete, request.seed, (*remarks, *notices, *merged),
            request.strict, pictures, request.split.name if request.split else "",
        )  # fmt: skip
        return build_report(request.policy, loop, pair, run)


def _remarks(policy: Resolved) -> tuple[str, ...]:
    """Return the remark on how a policy was found, if there is one."""
    return (policy.remark,) if policy.remark else ()


def check_reference(model: Checkpoint, reference: Checkpoint) -> None:
    """Raise if a reference cannot be compared with the model, or is the model itself, exported or not.

    Raises:
        InputError: as above.
    """
    hint = "a reference is a trusted model of the same family, such as the parent"
    if model.preprocess != reference.preprocess:
        raise InputError(
            f"the reference {reference.source} prepares images in another way than {model.source}: "
            f"{reference.preprocess} against {model.preprocess}",
            hint,
        )
    same = {model.sha256[:32], made_from(model)} & {reference.sha256[:32], made_from(reference)} - {""}
    if same:
        raise InputError(
            f"the reference {reference.source} is the model {model.source} itself: nothing can be in excess of it", hint
        )


def read_images(request: ScanRequest) -> tuple[LabelledImages, tuple[str, ...]]:
    """Return the images with their classes, among them each class that a rule names, and notices about them.

    Raises:
        InputError: the images are other ones than the policy names, too few, or without the captions that it needs.
    """
    policy = request.policy.policy
    names, source = class_names(request)
    asked = [t for rule in policy.rules if PROBES[rule.probe].targets_classes for t in rule.target if t != UNKNOWN]
    wanted = policy.images.digest
    dataset = open_images(request.image_source, seed=request.seed, cache=request.cache)
    if wanted is not None and (found_digest := f"sha256:{dataset.digest}") != wanted:
        raise InputError(
            f"{request.image_source} holds other images than the policy {policy.name} names: {found_digest}",
            "give those images, or change the policy",
        )
    images = label_images(
        dataset if request.split is None else dataset.take(request.split),
        source,
        names,
        asked,
        policy.classes.templates or DEFAULT_TEMPLATES,
        request.seed,
    )
    known = images.labels[images.labels >= 0]
    wanting = [rule.probe for rule in policy.rules if "captions" in PROBES[rule.probe].needs]
    if wanting and not any(item.caption for item in images.items):
        raise InputError(
            f"{images.source} has no captions, which the probe {wanting[0]} needs",
            f"give a CSV with the column caption, tars with .txt, or {BUILTIN_SCENES}",
        )
    total, labelled = len(images.items), len(known)
    where = f"the split `{request.split.name}` of {images.source}" if request.split else images.source
    if total < policy.images.min:
        raise InputError(
            f"{where} holds {total} images, and the policy {policy.name} needs at least {policy.images.min}",
            "give more images with --images, or another policy with --policy",
        )
    problem = judge.best_case(policy, total, images.selection, labelled, len(np.unique(known)))
    if problem:
        raise InputError(
            f"{where} holds {total} images: {problem}",
            "give more images with --images, or another policy with --policy",
        )
    notices = list(images.notices)
    if len(np.unique(known)) < 2:
        what = "labels of two classes" if labelled else "labels"
        notices.append(
            f"{images.source} has no {what}, so usefulness cannot be decided"
            + ("" if any(item.caption for item in images.items) else ", and no captions, so nothing can pass")
            + f": give class folders, a CSV with the column label, tars with .cls, or {BUILTIN_SCENES}"
        )
    for rule in policy.rules:
        if Metric.ATTACK_SUCCESS in rule.max and UNKNOWN in rule.target:
            notices.append(
                f"rule {rule.id} limits the attack success towards an unknown target: natural pull is not subtracted; "
                "a limit on the excess does that"
            )
    return images, tuple(notices)


def class_names(request: ScanRequest) -> tuple[tuple[str, ...] | None, str]:
    """Return the names of the classes and their source; no names where neither user nor policy gives them."""
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


def tell_apart(policy: Policy, images: LabelledImages, pair: ModelPair) -> tuple[ModelPair, tuple[str, ...]]:
    """Merge classes that a model cannot tell apart; return the models and notices about these classes.

    Otherwise chance decides between two such classes, or the later never wins and every rule about it holds.

    Raises:
        InputError: a rule is about such a class, or an image shows it.
    """
    names = images.classes.names
    asking = [rule for rule in policy.rules if PROBES[rule.probe].targets_classes]
    targets = {target for rule in asking for target in rule.target if target != UNKNOWN}
    concerned = {images.classes.index(target) for target in targets} | set(images.labels.tolist())
    notices: list[str] = []

    def merged(cached: CachedEncoder, head: Vectors) -> Vectors:
        same = zeroshot.alike(head)
        for later, first in same.items():
            if {later, first} & concerned:
                raise InputError(
                    f"{cached.checkpoint.source} cannot tell the classes '{names[first]}' and '{names[later]}' apart: "
                    "their prompts are the same tokens to it, or nearly the same vectors",
                    "remove one of them from the list, or give it another name",
                )
        if not same:
            return head
        pairs = [f"'{names[later]}' and '{names[first]}'" for later, first in same.items()]
        more = f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""
        notices.append(
            f"{cached.checkpoint.source} cannot tell apart, so they count as one: {', '.join(pairs[:3])}{more}"
        )
        head = head.copy()
        head[list(same)] = head[list(same.values())]
        return head

    head = merged(pair.model, pair.head)
    if pair.reference is None or pair.reference_head is None:
        return replace(pair, head=head), tuple(notices)
    return replace(pair, head=head, reference_head=merged(pair.reference, pair.reference_head)), tuple(notices)


@dataclass(slots=True)
class _Scene:
    """The context in which probes start; implements `probes.base.Scene`."""

    loop: Loop
    pair: ModelPair
    all_controls: bool
    texts: tuple[str, ...]
    present: NDArray[np.int64]
    _galleries: dict[bool, Vectors] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The source of the images."""
        return self.loop.images.source

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.loop.images.classes.names

    @property
    def has_reference(self) -> bool:
        """Whether there is a trusted model to compare with."""
        return self.pair.reference is not None

    def index(self, name: str) -> int | None:
        """Return the position of a class by name, in any spelling, or None."""
        return self.loop.images.classes.index(name)

    def head(self, *, reference: bool = False) -> Vectors:
        """Return the zero-shot head: float32 [classes, d]."""
        return self.pair.reference_head if reference and self.pair.reference_head is not None else self.pair.head

    def text_vectors(self, *, reference: bool = False) -> Vectors:
        """Return the vectors of the captions: float32 [texts, d]."""
        cached = self.pair.reference if reference and self.pair.reference is not None else self.pair.model
        return cached.encode_texts(self.texts)

    def gallery(self, *, reference: bool = False) -> Vectors:
        """Return the vectors of clean images of the selection half: float32 [images, d]."""
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
    images: LabelledImages,
    decoder: Decoder,
    pair: ModelPair,
    emit: events.Listener,
    began: float,
) -> Loop:
    """Return the loop over the policy's comparisons, with their tests started."""
    minutes = request.max_minutes or policy.budget.minutes
    loop = Loop(
        policy, images, decoder, pair.model, pair.reference, request.seed, emit,
        began + 60 * minutes if minutes else None,
        request.context(pair.model.checkpoint.sha256),
    )  # fmt: skip
    texts = tuple(dict.fromkeys(item.caption for item in images.items if item.caption))[:POOL]
    scene = _Scene(loop, pair, request.all_controls, texts, np.unique(images.labels[images.labels >= 0]))
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
