"""From a finished loop to its report: facts gathered, findings judged, limits of the scan said."""

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
    UNSAFE_FILE,
    FileFacts,
    Finding,
    Measurement,
    Metric,
    Outcome,
    Severity,
    Status,
    Verdict,
)
from pargate.errors import Undecided, UnsafeCheckpoint
from pargate.files import BlockStore, digest_of, portable, readable
from pargate.images.labelled import LabelledImages
from pargate.judge import judge
from pargate.judge.waivers import Context
from pargate.policy.resolve import Resolved
from pargate.policy.schema import Policy
from pargate.probes.base import CLEAN, FILE, PROBES, UNKNOWN
from pargate.scanning.embed import Eye, Eyes
from pargate.scanning.loop import Loop
from pargate.version import __version__


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the report says about the run itself."""

    started: str
    seconds: float
    complete: bool
    seed: int
    notices: tuple[str, ...]
    strict: bool = False
    pictures: tuple[Picture, ...] = ()
    part: str = ""
    """Of the carriers."""


def build_report(resolved: Resolved, loop: Loop, eyes: Eyes, run: RunFacts) -> ScanReport:
    """Judge what was measured and gather everything a later reader needs."""
    policy = resolved.policy
    measurements = [loop.clean.measurement(), *(q.measurement() for q in loop.running)]
    measurements += _of_the_file(policy, eyes.model.checkpoint)
    findings, verdict, remarks = judge.judge(
        policy, measurements, complete=run.complete, context=loop.context, strict=run.strict
    )
    carriers = loop.carriers
    notices = (*run.notices, *_preprocessing(policy, loop, eyes), *_shared_pull(measurements, findings))
    spec = eyes.model.encoder.spec
    passes = eyes.model.passes + (eyes.reference.passes if eyes.reference else 0)
    return ScanReport(
        schema="pargate/report/1",
        tool=Tool(version=__version__, libraries=versions(resolved.policy.plugins)),
        run=Run(
            id=digest_of([run.started, eyes.model.checkpoint.digest, resolved.sha256, run.seed])[:16],
            started=run.started,
            seconds=round(run.seconds, 3),
            host=host(),
            device=spec.device,
            precision=spec.precision,
            precision_note=eyes.precision_note,
            threads=spec.threads,
            seed=run.seed,
            complete=run.complete,
            forward_passes=passes,
            cache=_cache(eyes.model.store),
        ),
        subject=readable(portable(eyes.model.checkpoint.source)),
        model=_model(eyes.model, eyes.activation_note),
        reference=_model(eyes.reference, "") if eyes.reference else None,
        images=ImagesInfo(
            source=readable(carriers.source),
            listed=len(carriers.items),
            read=len(loop.read),
            labelled=int((carriers.labels >= 0).sum()),
            captioned=sum(item.caption is not None for item in carriers.items),
            unreadable=tuple(loop.unreadable),
            duplicates=loop.duplicates,
            digest=hashlib.sha256("\n".join(loop.read).encode()).hexdigest(),
            # Compared before anything was measured.
            source_digest=(policy.images.digest or "").removeprefix("sha256:"),
            part=run.part,
        ),
        classes=ClassesInfo(
            source=carriers.classes.source,
            count=len(carriers.classes.names),
            templates=carriers.classes.templates,
            digest=digest_of([carriers.classes.names, carriers.classes.templates]),
        ),
        policy=resolved.info(),
        measurements=tuple(measurements),
        findings=tuple(findings),
        verdict=verdict,
        coverage=_coverage(policy, loop, eyes, run),
        notices=notices,
        remarks=(*resolved.overrides, *remarks),
        pictures=run.pictures,
    )


def unsafe_report(resolved: Resolved, unsafe: UnsafeCheckpoint, source: str, started: str, seed: int) -> ScanReport:
    """The report of a checkpoint that was refused before anything of it was loaded."""
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
        subject=readable(portable(source)),
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
    carriers: LabelledImages,
    run: RunFacts,
    context: Context,
) -> ScanReport:
    """The report of a model of which something must be known before it is measured, and is not."""
    findings, verdict, remarks = judge.judge(
        resolved.policy, [], complete=run.complete, context=context, strict=run.strict
    )
    said = f"{undecided.message[:1].upper()}{undecided.message[1:]}"
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
        images=ImagesInfo(
            source=readable(carriers.source), listed=len(carriers.items), read=0,
            labelled=int((carriers.labels >= 0).sum()),
            captioned=sum(item.caption is not None for item in carriers.items),
        ),
        classes=ClassesInfo(
            source=carriers.classes.source, count=len(carriers.classes.names), templates=carriers.classes.templates,
            digest=digest_of([carriers.classes.names, carriers.classes.templates]),
        ),
        policy=resolved.info(),
        measurements=(),
        findings=tuple(findings),
        verdict=verdict.model_copy(update={"summary": f"{said}."}),
        coverage=Coverage(probed=(), limits=("Nothing was measured: how the model computes is not known.",)),
        notices=(*run.notices, undecided.hint),
        remarks=(*resolved.overrides, *remarks),
    )  # fmt: skip


def _of_the_file(policy: Policy, checkpoint: Checkpoint) -> Iterator[Measurement]:
    """What inspection saw of the weights file, where a rule asks."""
    rule = next((rule for rule in policy.rules if "file" in PROBES[rule.probe].needs), None)
    if rule is not None:
        # A torch zip is read only where its pickle does nothing but rebuild tensors; it is one nevertheless.
        facts = FileFacts(
            format=checkpoint.format, pickle=checkpoint.format == "torch-zip", custom_ops=checkpoint.custom_ops
        )
        yield Measurement(id=FILE, rule=rule.id, probe=rule.probe, facts=facts, stopped="decided")


def _preprocessing(policy: Policy, loop: Loop, eyes: Eyes) -> Iterator[str]:
    """How pictures were prepared, where that was assumed, or where the model recognises none of them."""
    for eye in (eyes.model, eyes.reference):
        if eye is not None and not eye.checkpoint.preprocess_known:
            yield eye.checkpoint.assumption
    clean, spec = loop.clean.measurement(), eyes.model.encoder.spec
    if any(count.n for count in clean.counts.values()) and not judge.sees(clean, policy.confidence):
        said_by = f", from {source}" if (source := eyes.model.checkpoint.preprocess_from) else ""
        yield (
            f"that the model does not recognise the carriers may come from wrong preprocessing; used were "
            f"{spec.preprocess}{said_by}, and the activation {spec.activation}"
        )


def _shared_pull(measurements: Sequence[Measurement], findings: Sequence[Finding]) -> Iterator[str]:
    """Triggers that move many carriers, as many as their control does: met, and yet worth a second look."""
    by_id = {m.id: m for m in measurements}
    for finding in findings:
        measured = by_id.get(finding.measurement or "")
        if finding.status is not Status.MET or measured is None or measured.pairs is None or measured.trigger is None:
            continue
        success = measured.counts[str(Metric.ATTACK_SUCCESS)].rate or 0.0
        limits = [bound.limit for bound in finding.bounds if bound.metric == Metric.EXCESS]
        if limits and success > max(limits) and measured.pairs.baseline.startswith("control"):
            target = measured.target.name if measured.target else "one class"
            yield (
                f"{measured.trigger.label} sends {success:.0%} of the carriers to {target}, but its control pulls "
                f"{measured.pairs.baseline_rate or 0.0:.0%} to {measured.pairs.target}: only a reference model tells "
                "whether that is planted"
            )


def _cache(store: BlockStore) -> str:
    if store.folder is None:
        return "off"
    damaged = f", {store.damaged} damaged ones recomputed" if store.damaged else ""
    return f"{store.hits} of {store.hits + store.misses} blocks from {store.folder}{damaged}"


def _model(eye: Eye, activation_note: str) -> ModelInfo:
    checkpoint, spec = eye.checkpoint, eye.encoder.spec
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


def _coverage(policy: Policy, loop: Loop, eyes: Eyes, run: RunFacts) -> Coverage:
    """What was probed, and what this scan cannot show; the second list is what readers forget."""
    families = dict.fromkeys(family for rule in policy.rules for family in rule.families)
    limits = [
        "Triggers that the policy does not name, and other drawings of the ones it names: a secret fixed patch or "
        "picture does not answer to a catalogue. Whoever holds the pattern can probe it with the trigger `file`.",
        f"Targets that are not among the {len(loop.carriers.classes.names)} classes.",
        "Triggers in captions: only image triggers were probed.",
    ]
    if families:
        limits.insert(
            1,
            f"What the search ({', '.join(families)}) did not find: its budget is small, and triggers that change "
            "colours, bend the image or need two things at once are outside these families.",
        )
    asks_excess = any(Metric.EXCESS in rule.max for rule in policy.rules)
    if asks_excess and eyes.reference is None:
        limits.append(
            "Whether a pull is planted or natural: without a reference model only controls of the same energy were "
            "subtracted, and some honest models follow stripes or colours to one class."
        )
    if not any(UNKNOWN in rule.target for rule in policy.rules if PROBES[rule.probe].measures != CLEAN):
        limits.append("Targets other than those the policy names.")
    checkpoint = eyes.model.checkpoint
    if not run.part and checkpoint.format != "onnx":  # a gate ships a file of its own
        limits.append(
            f"Judged were the tensors that pargate reads from {Path(checkpoint.weights).name}, SHA-256 "
            f"{checkpoint.sha256}. What is published is that file, as it is: whether every other loader reads the same "
            "tensors from it was not tried. `pargate gate` writes a file of exactly these tensors."
        )
    probed = tuple(dict.fromkeys(q.label for q in loop.running))
    return Coverage(probed=probed, limits=tuple(limits))
