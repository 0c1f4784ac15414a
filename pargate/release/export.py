"""Export a checkpoint as ONNX graphs that are proven equal to it.

The graphs are written to a temporary folder, compared with the checkpoint and scanned by the policy; only then does
the folder get its name. A failure leaves nothing behind.
"""

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pargate import events
from pargate.core import zeroshot
from pargate.core.model import Checkpoint, Encoder, GraphPrecision, Pixels
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
from pargate.scanning.images import read_images
from pargate.scanning.request import ScanRequest
from pargate.scanning.run import check_reference, scan, unsigned
from pargate.scanning.signature import check as check_signature

if TYPE_CHECKING:
    from pargate.models.torch.encoder import OpenClipEncoder

REPORT = "report.json"
"""File name of the scan of the graphs, in their folder."""

STAMPED = 32
"""Images that each trigger is stamped on; a dozen triggers double the cost of the proof."""

INT8_AGREEMENT = 0.9
"""Default least share of images that get the same class from 8-bit weights. With a thousand classes a small model has
close decisions: 6 % of 1,120 images got another class."""

PROOF_SECONDS = 120.0
"""Seconds that the checkpoint may take for the images of a proof, and again for its prompts, where the policy does not
say how many images are compared."""

FEWEST = 16
"""Least number of images with a trigger and of classes that are compared; also that of the prompts that are timed."""

CAPTIONS = 64
"""Captions of the images that are compared, besides captions of every length."""

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
    """The inputs of an export."""

    scan: ScanRequest
    """The model, and the scan that its graphs must pass."""
    out: Path
    """Folder to write; it must not exist."""
    precisions: tuple[GraphPrecision, ...] = ()
    """Precisions of the graphs; those of the policy if empty."""
    opset: int | None = None
    """Version of the operators; that of the policy if None."""
    rescan: bool | None = None
    """Whether the graphs are scanned; as the policy says if None."""
    report_sha256: str | None = None
    """Digest of the checkpoint's report for the metadata of the graphs."""


@dataclass(frozen=True, slots=True)
class Exported:
    """The result of an export."""

    folder: Path | None
    """Folder of the graphs; None if they were refused and nothing was written."""
    parity: tuple[ParityReport, ...]
    """Proof of each precision, up to the first that fails."""
    reports: tuple[ScanReport, ...]
    """Scan of each precision, up to the first that does not pass."""


class _Refused(Exception):
    """The graphs are refused; the temporary folder is removed."""


def export(request: ExportRequest, emit: events.Listener = events.ignore) -> Exported:
    """Write graphs of a checkpoint, prove them, scan them.

    Raises:
        InputError: the model cannot be exported, or `out` exists.
        UnsafeCheckpoint, PolicyError, OperationalError: as `scan`.
    """
    check_new_folder(request.out)
    parity: list[ParityReport] = []
    reports: list[ScanReport] = []
    if request.scan.policy.policy.signed_by is not None and request.scan.signature is None:
        checkpoint = inspect(request.scan.model, arch=request.scan.arch)
        signature = check_signature(request.scan.policy, checkpoint)
        if (refused := unsigned(request.scan, checkpoint, signature)) is not None:
            return Exported(None, (), (refused,))
        request = replace(request, scan=replace(request.scan, signature=signature))
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
    """Return a proof as a few lines of text."""
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
                f"; {decided.pictures - decided.differ - decided.ties} of {decided.pictures} images get the same "
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
            raise InputError(f"{asked.source} is already a folder of graphs", "give the checkpoint")
        onnx.check_opset(_opset(request))
        emit(events.StageStarted("images", asked.image_source))
        images, _ = read_images(asked)
        if asked.reference_source:
            check_reference(
                model.checkpoint, inspect(asked.reference_source, arch=asked.arch), searching=asked.searches
            )
        decoder.start(images.items, images.blocks)
        emit(events.StageStarted("open", model.checkpoint.architecture))
        readable = partial(decoder.readable, source=images.source)
        settled = settle_activation(
            model.encoder(device="cpu"), model.checkpoint, images, readable, BlockStore(asked.settings.cache)
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
        parity = asked.policy.policy.export.parity
        samples = _samples(request, images, decoder, encoder)
        if "samples" not in parity.model_fields_set:
            samples, note = affordable(samples, encoder)
            if note:
                emit(events.Notice(note))
        emit(events.StageStarted("prove", encoder.spec.backend))
        expected = proof.expect(encoder, samples, _counting(emit, "checkpoint"))
        found = []
        for precision, place in places.items():
            emit(events.StageStarted("prove", folder.folder_name(precision)))
            within = _limits(precision, parity, encoder.spec.logit_scale)
            graphs = open_model(str(place))
            found.append((graphs, prove(graphs, model.checkpoint, precision, expected, samples, within, emit)))
            if not found[-1][1].passed:
                break
        return found


def _samples(request: ExportRequest, images: LabelledImages, decoder: Decoder, encoder: "OpenClipEncoder") -> Samples:
    """Return images, stamps of every trigger of the policy, and captions of every length."""
    most = request.scan.policy.policy.export.parity.samples
    pixels, digests = _images(images, decoder, most)
    stamped = min(STAMPED, len(pixels))
    policy = request.scan.policy.policy.read(request.scan.policy.folder)
    triggers = {trigger.id: trigger for rule in policy.rules for trigger in rule.parsed}
    stamps = tuple(
        (trigger.label, trigger.draw(encoder.spec.preprocess.size, digests[:stamped], request.scan.settings.seed))
        for trigger in triggers.values()
    )
    told = [item.caption for item in images.items[: len(pixels)] if item.caption]
    captions = (*dict.fromkeys(told[:CAPTIONS]), *ODD, *proof.captions_of_lengths(encoder.context))
    return Samples(pixels, stamps, stamped, captions, images.classes.names, images.classes.templates)


def affordable(samples: Samples, encoder: Encoder) -> tuple[Samples, str]:
    """Return as many of the samples as the checkpoint encodes in about `PROOF_SECONDS`, and a note if they are fewer.

    Large towers would take hours on a single processor; the graphs cost about as much again.
    """
    first = samples.pixels[: proof.LARGEST]
    began = time.monotonic()
    encoder.encode_images(encoder.put(first))
    of_image = (time.monotonic() - began) / len(first)
    few = zeroshot.prompts(samples.classes, samples.templates)[:FEWEST]
    began = time.monotonic()
    encoder.encode_texts(few)
    of_prompt = (time.monotonic() - began) / len(few)
    views = len(samples.pixels) + samples.stamped * len(samples.stamps)
    share = min(1.0, PROOF_SECONDS / max(of_image * views, 1e-9))
    prompts = int(PROOF_SECONDS / max(of_prompt, 1e-9))
    fits = prompts >= len(samples.classes) * len(samples.templates)
    bounded = replace(
        samples,
        pixels=samples.pixels[: max(proof.LARGEST, int(share * len(samples.pixels)))],
        stamped=min(samples.stamped, max(FEWEST, int(share * samples.stamped))),
        templates=samples.templates if fits else samples.templates[:1],
        classes=samples.classes if fits else samples.classes[: max(FEWEST, prompts)],
    )
    sizes = [
        f"{len(now)} of {len(before)} {what}"
        for what, now, before in (
            ("images", bounded.pixels, samples.pixels), ("classes", bounded.classes, samples.classes),
            ("templates", bounded.templates, samples.templates),
        )
        if len(now) < len(before)
    ]  # fmt: skip
    why = f"an image takes {of_image:.2g} s here, a prompt {of_prompt:.2g} s; export.parity.samples compares them all"
    return bounded, f"proof: {', '.join(sizes)} are compared, since {why}" if sizes else ""


def _images(images: LabelledImages, decoder: Decoder, most: int) -> tuple[Pixels, list[str]]:
    """Return at most `most` images and their digests.

    Raises:
        InputError: too many images cannot be read.
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
    """Compare graphs with the output of their checkpoint on every provider that runs on this machine."""
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
    """Return the scan of the graphs; they ship, so their own attack success decides."""
    settings = replace(request.scan.settings, precision="auto")
    report = scan(replace(request.scan, model=graphs, arch=None, settings=settings), emit)
    # The report names the final folder, not the temporary one that was scanned.
    place = request.out / Path(graphs.checkpoint.source).name
    named = report.model.model_copy(update={"source": readable(str(place))})
    return report.model_copy(update={"model": named})
