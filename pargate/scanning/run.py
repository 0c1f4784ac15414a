"""Scan a checkpoint: measure what a policy limits on images, and report the verdict.

Cheap and safe steps come first: the checkpoint is inspected, the images are listed, and a policy that so few images
cannot decide is refused, all before torch is imported. Then each block of images is decoded once, and stamped for every
test that is still open.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pargate import events
from pargate.core import zeroshot
from pargate.core.found import Family, Found, FoundText, TextFamily
from pargate.core.model import Checkpoint, Vectors
from pargate.core.report import ScanReport
from pargate.core.results import Consequence, Metric, Signature, Status
from pargate.errors import InputError, OpenedOtherwise, Undecided, UnsafeCheckpoint
from pargate.export.parity import altered, made_from
from pargate.files import BlockStore, readable
from pargate.images.labelled import LabelledImages
from pargate.images.prefetch import Decoder
from pargate.models.open import inspect, opened, source_of
from pargate.models.shapes import check
from pargate.policy.resolve import Resolved
from pargate.policy.schema import Policy
from pargate.probes.base import CLEAN, FILE, PROBES, UNKNOWN, Asked, NotMeasured
from pargate.scanning.choose import open_pair, processor_threads
from pargate.scanning.embed import CachedEncoder, ModelPair
from pargate.scanning.estimate import minutes, searched_passes
from pargate.scanning.examples import examples
from pargate.scanning.found import search, trusted
from pargate.scanning.images import read_images, unlabelled
from pargate.scanning.loop import Loop, Running
from pargate.scanning.report import RunFacts, build_report, undecided_report, unsafe_report, unsigned_report
from pargate.scanning.request import ScanRequest
from pargate.scanning.signature import check as check_signature
from pargate.scanning.signature import signer_of
from pargate.scanning.texts import find
from pargate.scanning.unlearned import REMARK, told

POOL = 1000
"""Largest number of captions that retrieval searches."""


def plan(request: ScanRequest) -> tuple[str, ...]:
    """Return what a scan would measure, line by line, without opening the model.

    Raises:
        InputError, UnsafeCheckpoint: as `scan`.
    """
    _refuse_both(request)
    model = inspect(request.model, arch=request.arch)
    images, policy, notices = checked(request, model)
    asked = policy.comparisons
    lines = [
        f"model     {model.source}: {model.architecture}, {model.parameters / 1e6:.1f} M parameters, {model.format}",
        f"policy    {request.policy.source}: {len(policy.rules)} rules, {len(asked)} comparisons, "
        f"confidence {policy.confidence * 100:g}% for the whole verdict",
        f"images    {images.source}: {len(images.items)}, of which {images.selection} choose unknown targets",
        f"classes   {images.classes.source}: {len(images.classes.names)}",
    ]
    if request.compared_source:
        lines.append(f"{'reference' if request.reference_source else 'tuned    '} {source_of(request.compared_source)}")
    left_out = {rule.id for rule in policy.rules if request.leaves_out(rule)}
    compared = request.compared_source is not None
    if passes := searched_passes(policy, reference=compared):
        expected = minutes(model, policy, "cpu", processor_threads(), reference=compared).scan
        lines.append(
            f"search    {passes:,} images forward and backward; on the processor the scan takes about "
            f"{expected:.1f} min, within a factor of three"
        )
    for comparison in asked:
        trigger = comparison.trigger
        subject = "the weights file" if comparison.id == FILE else "clean images"
        if comparison.rule.families:
            what = "text" if PROBES[comparison.rule.probe].on_captions else "trigger"
            subject = f"search for a {what} of the family {comparison.direction}"
        label = f"{trigger.label} → {comparison.target}" if trigger else subject
        limits = [f"{metric} at most {limit.text}" for metric, limit in comparison.rule.max.items()]
        limits += [f"{metric} at least {limit.text}" for metric, limit in comparison.rule.min.items()]
        limits += [f"{metric} at most {limit.text} worse" for metric, limit in comparison.rule.worsening.items()]
        if comparison.rule.allow is not None:
            limits.append(f"one of {', '.join(comparison.rule.allow.formats)}")
        if comparison.rule.signed_by is not None:
            limits.append(f"signed by {comparison.rule.signed_by.brief}")
        if comparison.rule.id in left_out:
            limits = ["left out: the rule needs a reference"]
        lines.append(f"  {comparison.rule.id}: {label}: {', '.join(limits)}")
    return (*lines, *(f"note: {notice}" for notice in (*_remarks(request.policy), *notices)))


def checked(request: ScanRequest, model: Checkpoint) -> tuple[LabelledImages, Policy, tuple[str, ...]]:
    """Return the images, the policy with its files read, and notices, after every check that needs no open model.

    Raises:
        InputError, UnsafeCheckpoint: as `scan`.
    """
    check(model)
    _check_drill(request, model)
    if request.compared_source:
        trusted = inspect(request.compared_source, arch=request.arch)
        check_reference(model, trusted, tuned=bool(request.tuned), searching=request.searches)
    if request.policy.policy.signed_by is not None:
        signer_of(request.policy.policy.signed_by, request.policy.folder)
    images, notices = read_images(request)
    policy = request.policy.policy.read(request.policy.folder)
    _check_triggers(policy, model.preprocess.size, request.settings.seed)
    return images, policy, notices


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
    for _ in ("model", "reference"):  # what was opened otherwise is forgotten, and opened first the next time
        with contextlib.suppress(OpenedOtherwise):
            return _scan(request, emit, on_interrupt)
    return _scan(request, emit, on_interrupt)


def _scan(
    request: ScanRequest, emit: events.Listener, on_interrupt: Callable[[KeyboardInterrupt], None] | None
) -> ScanReport:
    began = time.monotonic()
    _refuse_both(request)
    with contextlib.ExitStack() as stack:
        emit(events.StageStarted("inspect", request.source))
        try:
            model = stack.enter_context(opened(request.model, arch=request.arch))
        except UnsafeCheckpoint as unsafe:
            return unsafe_report(request.policy, unsafe, request.source, request.started, request.settings.seed)
        _check_drill(request, model.checkpoint)
        signature = request.signature or check_signature(request.policy, model.checkpoint)
        if (refused := unsigned(request, model.checkpoint, signature)) is not None:
            return refused
        reference = None
        remarks = (*_remarks(request.policy), *altered(model.checkpoint))
        if not any(remark.id == REMARK for remark in request.policy.overrides):  # a gate has said it already
            remarks += tuple(filter(None, [told(model.checkpoint)]))
        if request.judging.previous is not None and request.judging.previous.model.sha256 == model.checkpoint.sha256:
            remarks += ("the previous report is about the same weights, so no figure can have become worse",)
        if request.compared_source:
            emit(events.StageStarted("inspect", source_of(request.compared_source)))
            reference = stack.enter_context(opened(request.compared_source, arch=request.arch))
            check_reference(
                model.checkpoint, reference.checkpoint, tuned=bool(request.tuned), searching=request.searches
            )
        decoder = stack.enter_context(Decoder(model.checkpoint.preprocess))
        emit(events.StageStarted("images", request.image_source))
        images, notices = read_images(request)
        if said := unlabelled(images):  # known before anything is measured
            emit(events.Notice(said))
        policy = request.policy.policy.read(request.policy.folder)
        _check_triggers(policy, model.checkpoint.preprocess.size, request.settings.seed)
        decoder.start(images.items, images.blocks)
        emit(events.StageStarted("open", model.checkpoint.architecture))
        store = BlockStore(request.settings.cache)
        may_be_read = partial(decoder.readable, source=images.source)
        try:
            pair = open_pair(
                model,
                reference,
                images,
                may_be_read,
                store,
                device=request.settings.device,
                precision=request.settings.precision,
            )
        except Undecided as undecided:
            context = request.judging.context(model.checkpoint.sha256)
            run = RunFacts(request.started, time.monotonic() - began, True, request.settings.seed, (*remarks, *notices),
                           request.judging.strict)  # fmt: skip
            return undecided_report(request.policy, undecided, model.checkpoint, images, run, context)
        for note in (pair.activation_note, pair.precision_note):
            if note:
                emit(events.Notice(note))
        pair = replace(pair, tuned=bool(request.tuned))
        pair, merged = tell_apart(request.policy.policy, images, pair)
        if pair.reference is None:
            remarks += tuple(_calibrated_by(policy, model.checkpoint))
        loop = prepare(request, policy, images, decoder, pair, emit, began)
        emit(events.StageStarted("measure", f"{loop.asked} comparisons"))
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
            request.started, time.monotonic() - began, complete, request.settings.seed, (*remarks, *notices, *merged),
            request.judging.strict, pictures, request.split.name if request.split else "",
            request.drilled.told if request.drilled else "", signature,
        )  # fmt: skip
        return build_report(request.policy, loop, pair, run)


def unsigned(request: ScanRequest, checkpoint: Checkpoint, signature: Signature | None) -> ScanReport | None:
    """Return the report of a model whose signature breaks a rule that can fail; None for every other model."""
    if signature is None or not signature.problem:
        return None
    run = RunFacts(request.started, 0.0, True, request.settings.seed, _remarks(request.policy), request.judging.strict,
                   signature=signature)  # fmt: skip
    found = unsigned_report(request.policy, checkpoint, run, request.judging.context(checkpoint.sha256))
    broken = any(f.status is Status.BREACH and f.consequence is Consequence.FAIL for f in found.findings)
    return found if broken else None


def signed(request: ScanRequest, checkpoint: Checkpoint) -> ScanRequest:
    """Return a request for scans of models that are made from `checkpoint`, whose signature is checked here.

    Raises:
        InputError: the signature breaks a rule that can fail.
    """
    signature = check_signature(request.policy, checkpoint)
    if signature is not None and unsigned(request, checkpoint, signature) is not None:
        raise InputError(
            f"{checkpoint.source} does not carry the signature that the policy {request.policy.policy.name} asks for: "
            f"{signature.problem}",
            "get the model with its signature from its signer",
        )
    return replace(request, signature=signature)


def _refuse_both(request: ScanRequest) -> None:
    """Raise if a trusted model and a fine-tuned copy are given.

    Raises:
        InputError: as above.
    """
    if request.tuned and request.reference_source:
        raise InputError(
            f"a reference and a fine-tuned copy ({request.tuned}) are given: only one can be compared with",
            "leave out --tuned: a trusted reference says more",
        )


def _check_drill(request: ScanRequest, model: Checkpoint) -> None:
    """Raise if the drill is of another model or policy.

    Raises:
        InputError: as above.
    """
    drilled = request.drilled
    if drilled is None:
        return
    for name, same in (
        (f"of the model {readable(drilled.model)}", drilled.model_sha256 == model.sha256),
        (f"under the policy {readable(drilled.policy)}", drilled.policy_sha256 == request.policy.sha256),
    ):
        if not same:
            raise InputError(
                f"the drill is {name}, which is not the one of this scan", "run `pargate drill` with the same inputs"
            )


def _calibrated_by(policy: Policy, checkpoint: Checkpoint) -> Iterator[str]:
    """Yield a notice for each rule whose calibration table holds the model itself."""
    for rule in policy.rules:
        if rule.table is not None and any(model.sha256 == checkpoint.sha256 for model in rule.table.models):
            yield (
                f"the calibration table of rule {rule.id} holds {checkpoint.source} itself, which is ranked among the "
                "others"
            )


def _remarks(policy: Resolved) -> tuple[str, ...]:
    """Return the remark on how a policy was found, if there is one."""
    return (policy.remark,) if policy.remark else ()


def check_reference(model: Checkpoint, reference: Checkpoint, *, tuned: bool = False, searching: bool = False) -> None:
    """Raise if a reference cannot be compared with the model, or is the model itself, exported or not.

    Args:
        model: the model.
        reference: the trusted model, or with `tuned` a fine-tuned copy, which must have the shapes of the model.
        tuned: whether the reference is a fine-tuned copy.
        searching: whether triggers are searched; a trusted model must have an image tower of the same shapes then,
            since what pulls an honest model of one architecture need not pull one of another.

    Raises:
        InputError: as above.
    """
    name = f"the reference {reference.source}"
    hint = "a reference is a trusted model of the same family, such as the parent"
    if tuned:
        name = f"the fine-tuned copy {reference.source}"
        hint = f"make a copy: pargate clean {model.source} --method finetune --steps 100 --pairs PAIRS --out COPY"
    if model.preprocess != reference.preprocess:
        raise InputError(
            f"{name} prepares images in another way than {model.source}: "
            f"{reference.preprocess} against {model.preprocess}",
            hint,
        )
    if tuned and (model.architecture, _shapes(model)) != (reference.architecture, _shapes(reference)):
        raise InputError(f"{name} has another architecture than {model.source}", hint)
    graphs = "onnx" in (model.format, reference.format)  # their tensors tell nothing, and graphs are not searched
    if searching and not graphs and _tower_shapes(model) != _tower_shapes(reference):
        raise InputError(
            f"{name} has another architecture than {model.source}, and the policy searches triggers: one that pulls "
            "an honest model need not pull one of another architecture",
            "name a trusted model of the same architecture, or a policy without the probe search",
        )
    same = {model.sha256[:32], made_from(model)} & {reference.sha256[:32], made_from(reference)} - {""}
    if same:
        raise InputError(f"{name} is the model {model.source} itself: nothing can be in excess of it", hint)


def _shapes(checkpoint: Checkpoint) -> list[tuple[int, ...]]:
    return sorted(tensor.shape for tensor in checkpoint.tensors)


def _tower_shapes(checkpoint: Checkpoint) -> list[tuple[int, ...]]:
    """Return the shapes of the image tower's tensors; files of one architecture differ in their scalars."""
    return sorted(t.shape for t in checkpoint.tensors if t.shape and ".visual." in f".{t.name}")


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
        return self.pair.reference is not None and not self.pair.tuned

    @property
    def has_tuned(self) -> bool:
        """Whether there is a fine-tuned copy of the model to compare with."""
        return self.pair.reference is not None and self.pair.tuned

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

    @property
    def gallery_digests(self) -> tuple[str, ...]:
        """The digests of the images of `gallery`, in its order."""
        return tuple(digest for block in self.loop.selection() for digest in block.digests)

    def find_text(self, family: TextFamily, phrases: Sequence[str]) -> FoundText | str:
        """Return the text of a family that moves the most captions to one class, or why none can be searched."""
        return find(self.loop, self.pair, self.texts, family, phrases)

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
    given = request.settings.max_minutes
    minutes = policy.budget.minutes if given is None else given
    loop = Loop(
        policy, images, decoder, pair.model, pair.reference, request.settings.seed, emit,
        began + 60 * minutes if minutes is not None else None,
        request.judging.context(pair.model.checkpoint.sha256),
    )  # fmt: skip
    texts = tuple(dict.fromkeys(item.caption for item in images.items if item.caption))[:POOL]
    scene = _Scene(loop, pair, request.all_controls, texts, np.unique(images.labels[images.labels >= 0]))
    probes = [PROBES[rule.probe] for rule in policy.rules]
    limited = {metric for rule in policy.rules for metric in (*rule.min, *rule.worsening)}
    if any("captions" in probe.needs for probe in probes):
        limited.add(Metric.RECALL)
    asked = Asked(CLEAN, "", None, UNKNOWN, "", frozenset(limited))
    loop.clean = PROBES["utility"].start(asked, scene)
    # Over another model the excess decides, and graphs are not searched.
    alone = pair.reference is None and pair.model.checkpoint.format != "onnx"
    ranks = {rule.id: trusted(loop, rule, rule.table) for rule in policy.rules if rule.table is not None and alone}
    for comparison in policy.comparisons:
        probe = PROBES[comparison.rule.probe]
        if not probe.measures:
            why = request.leaves_out(comparison.rule)
            asked = replace(comparison.asked, trusted=ranks.get(comparison.rule.id))
            test = NotMeasured(asked.id, asked.rule, probe.name, why) if why else probe.start(asked, scene)
            loop.running.append(Running(comparison, test, stopped=test.stopped))
    return loop
