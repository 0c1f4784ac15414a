"""Export: a checkpoint in, proven graphs out, or nothing.

Inspect, open, write the graphs beside their place, prove them against the checkpoint, examine them by the whole
policy as any model, and only then give them their name. Whatever fails on the way leaves nothing behind.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pargate import events
from pargate.core.model import Checkpoint, GraphPrecision, Pixels
from pargate.core.report import ScanReport
from pargate.core.results import Outcome
from pargate.errors import InputError, OperationalError
from pargate.export import parity as proof
from pargate.export.parity import PARITY, Expected, Limits, ParityReport, ProviderRun, Samples
from pargate.files import BlockStore, atomic_folder, check_new_folder, readable, write_atomic
from pargate.images.labelled import LabelledImages
from pargate.images.prefetch import Decoder, check_readable
from pargate.models.graphs import GRAPHS
from pargate.models.model import Model
from pargate.models.open import inspect, open_model, opened, source_of
from pargate.policy.schema import Parity
from pargate.scanning.choose import graphs_encoder, settle_activation
from pargate.scanning.run import ScanRequest, check_reference, read_images, scan

if TYPE_CHECKING:
    from pargate.models.torch.encoder import OpenClipEncoder

REPORT = "report.json"
"""What the scan of the graphs is called, in their folder."""

STAMPED = 32
"""Carriers that each trigger is put on: a dozen triggers double what the proof costs."""

INT8_AGREEMENT = 0.9
"""Least share of pictures that get the same class from weights of 8 bits, where the policy says none. Among a thousand
nouns a small model decides by hairs: of 1,120 pictures, 6 % went to another class."""

CAPTIONS = 64
"""Captions of the images that are compared, besides those of every length."""

ODD = (
    "",
    "A Photo of a DOG!",
    "naïve café, 北京 and Ωmega — don't; 3½ €",
    "<end_of_text> in the middle",
    "&lt;b&gt; tabs\tand\nlines  ",
)
"""Captions on which tokenizers differ."""


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """Everything that an export depends on."""

    scan: ScanRequest
    """The model, and the examination that its graphs must pass."""
    out: Path
    """The folder to write, which must not exist."""
    precisions: tuple[GraphPrecision, ...] = ()
    """The policy's, if empty."""
    opset: int | None = None
    """The policy's, if None."""
    rescan: bool | None = None
    """Whether the graphs are scanned; the policy's, if None."""
    report_sha256: str | None = None
    """Digest of the checkpoint's own report, where there is one, for the graphs' metadata."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What came of an export."""

    folder: Path | None
    """Where the graphs are; None where they were refused, and nothing was written."""
    parity: tuple[ParityReport, ...]
    """The proof of each precision, up to the first that fails."""
    reports: tuple[ScanReport, ...]
    """The scan of each precision, up to the first that does not pass."""


class _Refused(Exception):
    """Ends the folder under way; nothing of it stays."""


def export(request: ExportRequest, emit: events.Listener = events.ignore) -> Exported:
    """Write graphs of a checkpoint, prove them, scan them.

    Raises:
        InputError: the model cannot be exported, or the place is taken.
        UnsafeCheckpoint, PolicyError, OperationalError: as `scan`.
    """
    check_new_folder(request.out)
    parity: list[ParityReport] = []
    reports: list[ScanReport] = []
    try:
        with atomic_folder(request.out) as beside:
            written = _written(request, beside, emit)
            for graphs, proven in written:
                parity.append(proven)
                _save(Path(graphs.checkpoint.weights) / PARITY, proven.model_dump_json(by_alias=True, indent=1) + "\n")
                if not proven.passed:
                    raise _Refused
            for graphs in sorted((graphs for graphs, _ in written), key=source_of) if _rescans(request) else ():
                report = _rescan(request, graphs, emit)
                reports.append(report)
                _save(Path(graphs.checkpoint.weights) / REPORT, report.to_json())
                if report.verdict.status is not Outcome.PASS or not report.run.complete:
                    raise _Refused
            emit(events.StageStarted("write", str(request.out)))
    except _Refused:
        return Exported(None, tuple(parity), tuple(reports))
    return Exported(request.out, tuple(parity), tuple(reports))


def summary(proven: ParityReport) -> tuple[str, ...]:
    """A proof in a few lines."""
    lines = []
    for run in proven.runs:
        if not run.ran:
            lines.append(f"{proven.precision} on {run.asked}: did not run: {run.note}")
            continue
        decided = run.decisions
        worst = "not finite" if run.min_cosine is None else f"{run.min_cosine:.6f}"
        compared = sum(check.n for check in run.checks)
        lines.append(
            f"{proven.precision} on {run.ran}: least cosine {worst} over {compared} vectors"
            + (
                f"; {decided.pictures - decided.differ - decided.ties} of {decided.pictures} pictures get the same "
                f"class, {decided.ties} tie, {decided.differ} differ"
                if decided
                else ""
            )
        )
    lines += [f"not proven: {reason}" for reason in proven.reasons]
    return tuple(lines)


# --- settings ----------------------------------------------------------------------------------------


def _precisions(request: ExportRequest) -> tuple[GraphPrecision, ...]:
    section = request.scan.policy.policy.export
    told = section.onnx.precision if section.onnx and section.onnx.precision != ("fp32",) else section.precision
    return tuple(dict.fromkeys(request.precisions or told))


def _opset(request: ExportRequest) -> int:
    section = request.scan.policy.policy.export.onnx
    return request.opset or (section.opset if section else 18)


def _rescans(request: ExportRequest) -> bool:
    return request.scan.policy.policy.export.rescan if request.rescan is None else request.rescan


def _limits(precision: GraphPrecision, parity: Parity, logit_scale: float) -> Limits:
    least = {"fp32": parity.min_cosine, "fp16": parity.fp16_min_cosine, "int8": parity.int8_min_cosine}
    asked = parity.int8_top1_agreement if precision == "int8" else parity.top1_agreement
    default = INT8_AGREEMENT if precision == "int8" else 1.0
    agreement = default if asked is None else asked.value
    return proof.limits(precision, least[precision], agreement, logit_scale)


def _save(path: Path, text: str) -> None:
    # The folder as a whole is flushed when it gets its name.
    write_atomic(path, text.encode(), durable=False)


# --- writing and proving -----------------------------------------------------------------------------


def _written(request: ExportRequest, beside: Path, emit: events.Listener) -> "list[tuple[Model, ParityReport]]":
    """Write the graphs; return each folder of them, opened once, with its proof, up to the first proof that fails."""
    from pargate.export import folder, onnx

    asked = request.scan
    emit(events.StageStarted("inspect", asked.source))
    with (
        opened(asked.model, arch=asked.arch) as model,
        Decoder(model.checkpoint.preprocess) as decoder,
    ):
        if model.checkpoint.format == "onnx":
            raise InputError(f"{asked.source} is a folder of graphs already", "give the checkpoint")
        onnx.check_opset(_opset(request))
        emit(events.StageStarted("images", asked.image_source))
        images, _ = read_images(asked)
        if asked.reference_source:
            check_reference(model.checkpoint, inspect(asked.reference_source, arch=asked.arch))
        decoder.start(images.items, images.blocks)
        emit(events.StageStarted("open", model.checkpoint.architecture))
        readable = partial(decoder.readable, source=images.source)
        settled = settle_activation(
            model.encoder(device="cpu"), model.checkpoint, images, readable, BlockStore(asked.cache)
        )
        encoder = settled.encoder
        if settled.note:
            emit(events.Notice(settled.note))
        emit(events.StageStarted("export", ", ".join(_precisions(request))))
        digests = {"policy": asked.policy.sha256}
        if request.report_sha256:
            digests["report"] = request.report_sha256
        places = folder.write(
            encoder,
            model.checkpoint,
            beside,
            precisions=_precisions(request),
            opset=_opset(request),
            classes=images.classes.names,
            templates=images.classes.templates,
            digests=digests,
        )
        samples = _samples(request, images, decoder, encoder)
        emit(events.StageStarted("prove", encoder.spec.backend))
        expected = proof.expect(encoder, samples, _counting(emit, "checkpoint"))
        found = []
        for precision, place in places.items():
            emit(events.StageStarted("prove", folder.folder_name(precision)))
            within = _limits(precision, asked.policy.policy.export.parity, encoder.spec.logit_scale)
            graphs = open_model(str(place))
            found.append((graphs, prove(graphs, model.checkpoint, precision, expected, samples, within, emit)))
            if not found[-1][1].passed:
                break
        return found


def _samples(request: ExportRequest, images: LabelledImages, decoder: Decoder, encoder: "OpenClipEncoder") -> Samples:
    """Carriers, stamps of every trigger of the policy, and captions of every length."""
    most = request.scan.policy.policy.export.parity.samples
    pixels, digests = _pictures(images, decoder, most)
    stamped = min(STAMPED, len(pixels))
    policy = request.scan.policy.policy.read(request.scan.policy.folder)
    triggers = {trigger.id: trigger for rule in policy.rules for trigger in rule.parsed}
    stamps = tuple(
        (trigger.label, trigger.draw(encoder.spec.preprocess.size, digests[:stamped], request.scan.seed))
        for trigger in triggers.values()
    )
    told = [item.caption for item in images.items[: len(pixels)] if item.caption]
    captions = (*dict.fromkeys(told[:CAPTIONS]), *ODD, *proof.captions_of_lengths(encoder.context))
    return Samples(pixels, stamps, stamped, captions, images.classes.names, images.classes.templates)


def _pictures(images: LabelledImages, decoder: Decoder, most: int) -> tuple[Pixels, list[str]]:
    """At most so many images, and their digests.

    Raises:
        InputError: too many cannot be read.
    """
    pixels: list[Pixels] = []
    digests: list[str] = []
    unreadable: list[tuple[str, str]] = []
    for number in range(len(images.blocks)):
        if len(digests) >= most:
            break
        block = decoder.block(number)
        pixels.append(block.pixels)
        digests += block.digests
        unreadable += block.unreadable
    check_readable(images.source, len(images.items), unreadable, len(digests))
    return np.concatenate(pixels)[:most], digests[:most]


def prove(
    graphs: Model,
    checkpoint: Checkpoint,
    precision: GraphPrecision,
    expected: Expected,
    samples: Samples,
    within: Limits,
    emit: events.Listener = events.ignore,
) -> ParityReport:
    """Compare graphs with what their checkpoint gave, on every provider that this machine runs."""
    from pargate.models.onnx import accelerators

    runs = [_run(graphs, device, expected, samples, within, emit) for device in ("cpu", *accelerators())]
    return ParityReport(
        schema="pargate/parity/1",
        precision=precision,
        checkpoint=checkpoint.digest,
        graphs=graphs.checkpoint.sha256,
        reference=expected.backend,
        limits=within,
        runs=tuple(runs),
        problems=proof.check_files(Path(graphs.checkpoint.weights), list(GRAPHS.values())),
    )


def _run(
    graphs: Model, device: str, expected: Expected, samples: Samples, within: Limits, emit: events.Listener
) -> ProviderRun:
    try:
        encoder = graphs_encoder(graphs, device)
    except OperationalError as error:
        if device == "cpu":
            raise
        return ProviderRun(asked=device, ran="", note=error.message)
    return proof.prove(
        expected, encoder, samples, within, asked=device, ran=encoder.provider, progress=_counting(emit, device)
    )


def _counting(emit: events.Listener, what: str) -> "proof.Progress":
    def count(done: int, total: int) -> None:
        emit(events.Advanced(-(-done // proof.LARGEST), -(-total // proof.LARGEST), what))

    return count


# --- the scan ----------------------------------------------------------------------------------------


def _rescan(request: ExportRequest, graphs: Model, emit: events.Listener) -> ScanReport:
    """Return the report on the graphs themselves: they are what ships, and their own attack success decides."""
    report = scan(replace(request.scan, model=graphs, arch=None, precision="auto"), emit)
    # Measured beside its place; the reader finds it where it belongs.
    place = request.out / Path(graphs.checkpoint.source).name
    named = report.model.model_copy(update={"source": readable(str(place))})
    return report.model_copy(update={"model": named})
