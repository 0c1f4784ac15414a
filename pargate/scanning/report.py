"""Build the report of a scan: gather facts, judge findings, and state the limits of the scan."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pargate.core.environment import host, versions
from pargate.core.model import Checkpoint
from pargate.core.report import (
    ClassesInfo,
    Coverage,
    ImagesInfo,
    ModelInfo,
    Picture,
    Run,
    ScanReport,
    Tool,
)
from pargate.core.results import (
    LEFT_OUT,
    NO_REFERENCE,
    UNSAFE_FILE,
    FileFacts,
    Finding,
    Measurement,
    Metric,
    Outcome,
    Severity,
    Signature,
    Status,
    Verdict,
)
from pargate.errors import Undecided, UnsafeCheckpoint
from pargate.files import BlockStore, digest_of, readable
from pargate.images.labelled import LabelledImages
from pargate.judge import judge
from pargate.judge.waivers import Context
from pargate.models.sources import portable_name
from pargate.policy.resolve import Resolved
from pargate.policy.schema import Policy
from pargate.probes.base import CLEAN, FILE, PROBES, UNKNOWN
from pargate.scanning.embed import CachedEncoder, ModelPair
from pargate.scanning.loop import Loop
from pargate.version import __version__


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Facts about the run itself, for the report."""

    started: str
    seconds: float
    complete: bool
    seed: int
    notices: tuple[str, ...]
    strict: bool = False
    pictures: tuple[Picture, ...] = ()
    split: str = ""
    """Name of the split of the images, empty for all of them."""
    drilled: str = ""
    """What a drill showed of the policy."""
    signature: Signature | None = None
    """Result of checking the signature that the policy asks for."""


def build_report(resolved: Resolved, loop: Loop, pair: ModelPair, run: RunFacts) -> ScanReport:
    """Judge the measurements and return the report."""
    policy = resolved.policy
    measurements = [loop.clean.measurement(), *(q.measurement() for q in loop.running)]
    measurements += _of_the_file(policy, pair.model.checkpoint, run.signature)
    findings, verdict, remarks = judge.judge(
        policy, measurements, complete=run.complete, context=loop.context, strict=run.strict
    )
    images = loop.images
    notices = (*run.notices, *_preprocessing(policy, loop, pair), *_shared_pull(measurements, findings))
    spec = pair.model.spec
    passes = pair.model.passes + (pair.reference.passes if pair.reference else 0)
    return ScanReport(
        schema="pargate/report/1",
        tool=Tool(version=__version__, libraries=versions(resolved.policy.plugins)),
        run=Run(
            id=digest_of([run.started, pair.model.checkpoint.digest, resolved.sha256, run.seed])[:16],
            started=run.started,
            seconds=round(run.seconds, 3),
            host=host(),
            device=spec.device,
            precision=spec.precision,
            precision_note=pair.precision_note,
            threads=spec.threads,
            seed=run.seed,
            complete=run.complete,
            forward_passes=passes,
            cache=_cache(pair.model.store),
        ),
        subject=readable(portable_name(pair.model.checkpoint.source)),
        model=_model(pair.model, pair.activation_note),
        reference=_model(pair.reference, "") if pair.reference else None,
        images=ImagesInfo(
            source=readable(images.source),
            listed=len(images.items),
            read=len(loop.read),
            labelled=int((images.labels >= 0).sum()),
            captioned=sum(item.caption is not None for item in images.items),
            unreadable=tuple(loop.unreadable),
            duplicates=loop.duplicates,
            digest=hashlib.sha256("\n".join(loop.read).encode()).hexdigest(),
            # `read_images` compared it with the source.
            source_digest=(policy.images.digest or "").removeprefix("sha256:"),
            part=run.split,
        ),
        classes=ClassesInfo(
            source=images.classes.source,
            count=len(images.classes.names),
            templates=images.classes.templates,
            digest=digest_of([images.classes.names, images.classes.templates]),
        ),
        policy=resolved.info(),
        measurements=tuple(measurements),
        findings=tuple(findings),
        verdict=verdict,
        coverage=_coverage(policy, loop, pair, run),
        notices=notices,
        remarks=(*resolved.overrides, *remarks),
        pictures=run.pictures,
    )


def unsafe_report(resolved: Resolved, unsafe: UnsafeCheckpoint, source: str, started: str, seed: int) -> ScanReport:
    """Return the report of a checkpoint that was refused before it was loaded."""
    finding = Finding(
        rule=UNSAFE_FILE,
        measurement=None,
        severity=Severity.CRITICAL,
        status=Status.BREACH,
        bounds=(),
        message=f"{unsafe.message}.",
    )
    return ScanReport(
        schema="pargate/report/1",
        tool=Tool(version=__version__, libraries=versions(resolved.policy.plugins)),
        run=Run(
            id=digest_of([started, source, resolved.sha256, seed])[:16],
            started=started, seconds=0.0, host=host(), device="", precision="", threads=0, seed=seed,
        ),
        subject=readable(portable_name(source)),
        model=ModelInfo(source=readable(source), sha256="", format="unsafe", size_bytes=0),
        images=ImagesInfo(source="", listed=0, read=0, labelled=0, captioned=0),
        classes=ClassesInfo(source="", count=0, templates=(), digest=""),
        policy=resolved.info(),
        measurements=(),
        findings=(finding,),
        verdict=Verdict(
            status=Outcome.FAIL, decided_by=(UNSAFE_FILE,), summary=f"The file itself is unsafe: {unsafe.message}."
        ),
        coverage=Coverage(probed=(), limits=("Nothing was measured: the file was not loaded.",)),
        remarks=resolved.overrides,
    )  # fmt: skip


def undecided_report(
    resolved: Resolved,
    undecided: Undecided,
    checkpoint: Checkpoint,
    images: LabelledImages,
    run: RunFacts,
    context: Context,
) -> ScanReport:
    """Return the report of a model whose activation is not known, so that nothing was measured."""
    judged = judge.judge(resolved.policy, [], complete=run.complete, context=context, strict=run.strict)
    said = f"{undecided.message[:1].upper()}{undecided.message[1:]}"
    verdict = judged.verdict.model_copy(update={"summary": f"{said}."})
    images_info = ImagesInfo(
        source=readable(images.source), listed=len(images.items), read=0,
        labelled=int((images.labels >= 0).sum()),
        captioned=sum(item.caption is not None for item in images.items),
    )  # fmt: skip
    classes = ClassesInfo(
        source=images.classes.source, count=len(images.classes.names), templates=images.classes.templates,
        digest=digest_of([images.classes.names, images.classes.templates]),
    )  # fmt: skip
    limit = "Nothing was measured: how the model computes is not known."
    found = _unmeasured(resolved, checkpoint, judged._replace(verdict=verdict), run, limit)
    return found.model_copy(
        update={"images": images_info, "classes": classes, "notices": (*run.notices, undecided.hint)}
    )


def unsigned_report(resolved: Resolved, checkpoint: Checkpoint, run: RunFacts, context: Context) -> ScanReport:
    """Return the report of a model without the signature that the policy asks for, which was not loaded."""
    measured = tuple(_of_the_file(resolved.policy, checkpoint, run.signature))
    judged = judge.judge(resolved.policy, measured, context=context, strict=run.strict)
    limit = "Nothing was measured: the model was not loaded, because of its signature."
    return _unmeasured(resolved, checkpoint, judged, run, limit).model_copy(
        update={"measurements": measured, "subject": readable(portable_name(checkpoint.source))}
    )


def _unmeasured(
    resolved: Resolved, checkpoint: Checkpoint, judged: judge.Judgement, run: RunFacts, limit: str
) -> ScanReport:
    """Return the report of a model on which no image was measured; `limit` says why."""
    return ScanReport(
        schema="pargate/report/1",
        tool=Tool(version=__version__, libraries=versions(resolved.policy.plugins)),
        run=Run(
            id=digest_of([run.started, checkpoint.digest, resolved.sha256, run.seed])[:16],
            started=run.started, seconds=round(run.seconds, 3), host=host(), device="", precision="", threads=0,
            seed=run.seed,
        ),
        model=ModelInfo(
            source=readable(checkpoint.source), sha256=checkpoint.sha256, format=checkpoint.format,
            architecture=checkpoint.architecture, parameters=checkpoint.parameters, size_bytes=checkpoint.size_bytes,
            image_size=checkpoint.preprocess.size, preprocessing=asdict(checkpoint.preprocess),
        ),
        images=ImagesInfo(source="", listed=0, read=0, labelled=0, captioned=0),
        classes=ClassesInfo(source="", count=0, templates=(), digest=""),
        policy=resolved.info(),
        measurements=(),
        findings=tuple(judged.findings),
        verdict=judged.verdict,
        coverage=Coverage(probed=(), limits=(limit,)),
        notices=run.notices,
        remarks=(*resolved.overrides, *judged.remarks),
    )  # fmt: skip


def _of_the_file(policy: Policy, checkpoint: Checkpoint, signature: Signature | None) -> Iterator[Measurement]:
    """Return the facts about the weights file as a measurement, if a rule needs them."""
    rule = next((rule for rule in policy.rules if "file" in PROBES[rule.probe].needs), None)
    if rule is not None:
        # A torch zip is read only if its pickle does nothing but rebuild tensors; the rule still sees a pickle.
        facts = FileFacts(
            format=checkpoint.format, pickle=checkpoint.format == "torch-zip", custom_ops=checkpoint.custom_ops,
            signature=signature,
        )  # fmt: skip
        yield Measurement(id=FILE, rule=rule.id, probe=rule.probe, facts=facts, stopped="decided")


def _preprocessing(policy: Policy, loop: Loop, pair: ModelPair) -> Iterator[str]:
    """Return notices about preprocessing that was assumed, or that may be wrong."""
    for cached in (pair.model, pair.reference):
        if cached is not None and not cached.checkpoint.preprocess_known:
            yield cached.checkpoint.assumption
    clean, spec = loop.clean.measurement(), pair.model.spec
    # Without labels and captions nothing was tested that could show it.
    if judge.guessing(clean) is not None and not judge.sees(clean, policy.confidence):
        said_by = f", from {source}" if (source := pair.model.checkpoint.preprocess_from) else ""
        yield (
            "the model recognises these images no better than by guessing, so nothing follows where no rule is broken. "
            f"The classes or the preprocessing may be wrong: it used {spec.preprocess}{said_by}, and the activation "
            f"{spec.activation}"
        )


def _shared_pull(measurements: Sequence[Measurement], findings: Sequence[Finding]) -> Iterator[str]:
    """Return notices about triggers that move many images, where their control moves as many."""
    by_id = {m.id: m for m in measurements}
    for finding in findings:
        measured = by_id.get(finding.measurement or "")
        if finding.status is not Status.MET or measured is None or measured.pairs is None or measured.trigger is None:
            continue
        success, control = measured.pairs.hits.rate or 0.0, measured.pairs.baseline_hits.rate or 0.0
        limits = [bound.limit for bound in finding.bounds if bound.metric == Metric.EXCESS]
        if limits and success > max(limits) and measured.pairs.baseline.startswith("control"):
            target = measured.target.name if measured.target else "one class"
            counted = "captions" if PROBES[measured.probe].on_captions else "images"
            yield (
                f"{measured.trigger.label} sends {success:.0%} of the {counted} to {target}, but its control pulls "
                f"{control:.0%} to {measured.pairs.target}: only a reference model shows "
                "whether that is planted"
            )


def _cache(store: BlockStore) -> str:
    if store.folder is None:
        return "off"
    damaged = f", {store.damaged} damaged ones recomputed" if store.damaged else ""
    return f"{store.hits} of {store.hits + store.misses} blocks from {store.folder}{damaged}"


def _model(cached: CachedEncoder, activation_note: str) -> ModelInfo:
    checkpoint, spec = cached.checkpoint, cached.spec
    return ModelInfo(
        source=readable(checkpoint.source),
        sha256=checkpoint.sha256,
        format=checkpoint.format,
        architecture=checkpoint.architecture,
        parameters=checkpoint.parameters,
        size_bytes=checkpoint.size_bytes,
        image_size=spec.preprocess.size,
        preprocessing=asdict(spec.preprocess),
        activation=spec.activation,
        activation_note=activation_note,
        backend=spec.backend,
    )


def _coverage(policy: Policy, loop: Loop, pair: ModelPair, run: RunFacts) -> Coverage:
    """Return what was probed, and what this scan cannot show."""
    left_out = [q.comparison.rule.id for q in loop.running if q.stopped == NO_REFERENCE]
    images, texts = (
        dict.fromkeys(
            q.comparison.direction
            for q in loop.running
            if q.comparison.rule.probe == probe and q.stopped not in LEFT_OUT
        )
        for probe in ("search", "text")
    )
    limits = [
        "Triggers that the policy does not name: a backdoor with a secret pattern does not respond to published "
        "triggers. If you have the pattern, probe it with the trigger `file`.",
        f"Targets that are not among the {len(loop.images.classes.names)} classes.",
        "Triggers in captions: only image triggers were probed."
        if not texts
        else f"Triggers in captions that the search of texts ({', '.join(texts)}) did not find: words that act only "
        "together are outside it.",
    ]
    drawings = dict.fromkeys(
        q.comparison.trigger.label for q in loop.running if q.comparison.trigger and q.comparison.trigger.one_drawing
    )
    if drawings:
        limits.insert(
            1,
            f"Other drawings than the ones of {', '.join(drawings)}: each puts the same drawing on every image, and "
            "a backdoor that was planted with another word, picture, place or size may not respond to it.",
        )
    if left_out:
        limits.insert(1, f"Triggers that nobody named: without a reference the rule {left_out[0]} was left out.")
    if images:
        limits.insert(
            1,
            f"What the search ({', '.join(images)}) did not find: its budget is small, and triggers that bend the "
            "image, need two things at once or are stronger or fainter than these families are outside it.",
        )
    if run.drilled:
        limits.insert(0, run.drilled)
    asks_excess = any(Metric.EXCESS in rule.max for rule in policy.rules)
    if asks_excess and pair.reference is None:
        limits.append(
            "Whether a pull is planted or natural: without a reference model at most a control of the same energy is "
            "subtracted, and some honest models follow stripes or colours to one class."
        )
    if not any(UNKNOWN in rule.target for rule in policy.rules if PROBES[rule.probe].measures != CLEAN):
        limits.append("Targets other than those the policy names.")
    checkpoint = pair.model.checkpoint
    if not run.split and checkpoint.format != "onnx":  # a gate ships a file of its own
        limits.append(
            f"Whether other loaders read the same tensors from {Path(checkpoint.weights).name}: the verdict is about "
            f"the tensors that pargate reads from it, SHA-256 {checkpoint.sha256}. "
            "`pargate gate` writes a file of exactly these tensors."
        )
    probed = tuple(dict.fromkeys(q.label for q in loop.running if q.stopped not in LEFT_OUT))
    return Coverage(probed=probed, limits=tuple(limits))
