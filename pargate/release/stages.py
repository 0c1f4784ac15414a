"""The stages of a gate, one after another: each is a scan, a cleaning or an export, done once and kept.

A stage is kept in `OUT.unfinished` under the digest of all it depends on; what is there is not done again. Which of
them are taken follows from the verdicts on the way, which `conclusion.py` draws.
"""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import ValidationError

from pargate import events, seeds
from pargate.clean.methods.base import Sizes
from pargate.clean.request import RECORD_NAME, CleanRequest
from pargate.clean.run import clean, sizes_of
from pargate.core.choices import RequiredDevice
from pargate.core.model import Activation, Checkpoint
from pargate.core.provenance import ProvenanceRecord
from pargate.core.report import AccuracyDrop, ScanReport, Stage
from pargate.core.results import Outcome
from pargate.core.value import Value
from pargate.errors import InputError, OperationalError
from pargate.export.parity import PARITY
from pargate.files import digest_of, sha256_file, write_atomic
from pargate.images.dataset import Dataset, Split
from pargate.images.opening import open_images, open_pairs
from pargate.images.splits import shared
from pargate.judge.release import accepted, conclude, cost, may_be_cleaned
from pargate.models.config import with_activation
from pargate.models.hub import fetch
from pargate.models.inspect import inspect
from pargate.policy.resolve import Resolved
from pargate.release import accuracy_drop as drop
from pargate.release import escalation as ladder
from pargate.release.convert import convert, export_record, parity_of, proof_of, try_export
from pargate.release.export import REPORT as GRAPHS_REPORT
from pargate.release.export import ExportRequest, export
from pargate.scanning.run import ScanRequest, scan
from pargate.version import __version__

PARTS = ("scan", "pick", "certify")
"""What the carriers are divided into: none of them is ever used for another purpose."""


@dataclass(frozen=True, slots=True)
class GateRequest:
    """Everything a gate depends on."""

    scan: ScanRequest
    """The model, and the examination that it must pass."""
    out: Path
    """The bundle to write, which must not exist."""
    pairs: str | None = None
    """Wins over the policy's."""
    require: RequiredDevice | None = None
    """Wins over the policy's."""
    keep: bool = False
    """Whether the stages stay in `OUT.unfinished` after a verdict: another policy may then go on from them."""
    key: Path | None = None
    """Private key to sign the bundle with."""

    @property
    def state(self) -> Path:
        """Where stages are kept."""
        return self.out.with_name(f"{self.out.name}.unfinished")


class Kept(Value):
    """A scan under way, as the state folder holds it."""

    report: ScanReport
    drop: AccuracyDrop | None = None
    seconds: float


@dataclass(slots=True)
class Run:
    """One gate under way."""

    request: GateRequest
    policy: Resolved
    parts: tuple[Split, ...]
    emit: events.Listener
    done: list[Stage] = field(default_factory=list)
    reports: list[ScanReport] = field(default_factory=list)
    """Of the scans in `done`, in their order."""
    arch: str | None = None
    """The architecture's name, with the activation that the first scan settled on where nothing else says it."""
    _pairs: Dataset | None = None

    def stages(self, checkpoint: Checkpoint | None) -> tuple[list[Stage], list[ScanReport], Path | None, Path | None]:
        """All stages, the reports of their scans, the checkpoint that may ship, and its graphs."""
        policy = self.policy.policy
        asked = self.request.scan
        first = self.scan("scan", asked.model, asked.arch, checkpoint.digest if checkpoint else "unsafe")
        if checkpoint is None:
            return self.done, self.reports, None, None
        self.arch, settled = asked.arch, first.report.model.activation
        if not checkpoint.activation_known and settled:
            self.arch = with_activation(checkpoint.architecture, cast(Activation, settled))
            checkpoint = inspect(asked.model, arch=self.arch)
        cleans = may_be_cleaned(policy, first.report.examined)
        if policy.export.onnx is not None and (cleans or first.report.verdict.status is Outcome.PASS):
            self.check_exportable(checkpoint)
        candidate: Path | None = None
        if first.report.verdict.status is Outcome.PASS:
            candidate, same = self.converted(checkpoint)
            if not same or self.arch != asked.arch:  # what ships is read by its own configuration
                self.scan("certify", str(candidate), None, inspect(str(candidate)).digest)
        elif cleans:
            candidate = self.cleaned(checkpoint)
            if candidate is not None:
                self.scan("certify", str(candidate), None, inspect(str(candidate)).digest)
        if candidate is None or not self.still_passing():
            return self.done, self.reports, None, None
        exported = self.exported(candidate) if policy.export.onnx is not None else None
        return self.done, self.reports, candidate, exported

    def still_passing(self) -> bool:
        """Whether the verdict of what was done so far is one with which it is worth going on."""
        without_graphs = self.policy.policy.model_copy(
            update={"export": self.policy.policy.export.model_copy(update={"onnx": None})}
        )
        found = conclude(without_graphs, self.done, self.reports[-1].examined)
        return found.verdict.status in (Outcome.PASS, Outcome.REMEDIATED)

    def part(self, name: str) -> Split:
        """The carriers of that name."""
        return next(part for part in self.parts if part.name == name)

    def asked(self, stage: str, model: str, arch: str | None, attempt: int = 0) -> ScanRequest:
        """The scan of a stage: its own carriers, and its own draws."""
        own = self.request.scan
        named = f"gate {stage} {attempt}" if attempt else f"gate {stage}"
        return replace(
            own,
            model=model,
            arch=arch,
            # The first scan is the one that `pargate scan` makes, on the scenes that it looks at.
            seed=own.seed if stage == "scan" else seeds.derived(own.seed, named),
            part=self.part(stage if stage in ("scan", "pick") else "certify"),
            all_controls=stage not in ("scan", "pick"),
            pictures=own.pictures and stage != "pick",
            cache=own.cache or self.request.state / "vectors",
        )

    def scan(self, stage: Literal["scan", "pick", "certify"], model: str, arch: str | None, digest: str,
             attempt: int = 0) -> Kept:  # fmt: skip
        """Scan, and compare accuracies where something was cleaned; from the state folder where that was done."""
        asked = self.asked(stage, model, arch, attempt)
        limit = self.policy.policy.clean.budget.accuracy_drop
        compares = limit is not None and (stage == "pick" or (stage == "certify" and self.cleans()))
        place = self.request.state / f"{stage}-{self.key(asked, digest, compares)[:24]}.json"
        kept = _load(place)
        if kept is None:
            self.emit(events.StageStarted(stage, model))
            began = time.monotonic()
            report = scan(asked, self.emit)
            found = None
            if compares and limit is not None and report.verdict.status is Outcome.PASS:
                found = drop.measure(asked, self.request.scan.model, self.arch, limit, self.emit)
            kept = Kept(report=report, drop=found, seconds=round(time.monotonic() - began, 3))
            self.keep(place, kept)
        said = f"{kept.report.verdict.status}: {kept.report.verdict.summary}"
        if kept.drop is not None:
            said += f" {cost(kept.drop)[:1].upper()}{cost(kept.drop)[1:]}."
        self.emit(events.Notice(f"{stage}{f' {attempt}' if attempt else ''}: {said}"))
        self.done.append(
            Stage(
                name=stage, attempt=attempt, seconds=kept.seconds, summary=said, examined=kept.report.examined,
                drop=kept.drop,
            )
        )  # fmt: skip
        self.reports.append(kept.report)
        return kept

    def cleans(self) -> bool:
        """Whether something was cleaned by now."""
        return any(stage.name == "clean" for stage in self.done)

    def key(self, asked: ScanRequest, digest: str, *more: Any) -> str:
        """Digest of everything that a scan depends on."""
        reference = inspect(asked.reference_source, fetch=fetch).digest if asked.reference_source else ""
        classes = sha256_file(asked.classes) if asked.classes else ""
        previous = digest_of(asked.previous.to_json()) if asked.previous else ""
        part = asked.part.digest if asked.part else ""
        return digest_of(
            [
                __version__, digest, self.policy.sha256, asked.image_source, part, reference, classes, previous,
                asked.seed, asked.device, asked.precision, asked.max_minutes, asked.today.isoformat(), asked.waive,
                asked.strict, asked.all_controls, *more,
            ]
        )  # fmt: skip

    def keep(self, place: Path, kept: Kept) -> None:
        """Write a scan down, complete or not at all."""
        self.request.state.mkdir(exist_ok=True)
        write_atomic(place, kept.model_dump_json(by_alias=True).encode())

    # --- cleaning ---

    def kind(self) -> Literal["cpu", "cuda"]:
        """The kind of device that cleans.

        Raises:
            OperationalError: the one that is asked for, or required, is not there.
        """
        device, require = self.request.scan.device, self.policy.policy.clean.require
        if device == "cpu" and require != "cuda":
            return "cpu"
        from pargate.models.torch.encoder import resolve

        wanted = "cuda" if require == "cuda" and not device.startswith("cuda") else device
        return "cuda" if resolve(wanted).type == "cuda" else "cpu"

    def pairs(self) -> Dataset:
        """The pairs to clean with, none of which is a carrier.

        Raises:
            InputError: they cannot be used, or show a carrier.
        """
        pairs = self.policy.policy.clean.pairs
        assert pairs is not None, "a policy that cleans without pairs was refused"
        if self._pairs is not None:
            return self._pairs
        source = self.pairs_source()
        found = open_pairs(
            source, seed=pairs.seed, cache=self.request.scan.cache, device=self.request.scan.device,
            emit=self.emit,
        )  # fmt: skip
        asked = self.request.scan
        place = shared(open_images(asked.image_source, seed=asked.seed, cache=asked.cache), found)
        if place is not None:
            raise InputError(
                f"{source} and {asked.image_source} share a picture: {place}",
                "clean with other pictures than those that judge: an examination that is known beforehand is none",
            )
        self._pairs = found
        return found

    def pairs_source(self) -> str:
        """Where the pairs are; a path in the policy is relative to its folder, one on the command line is not."""
        pairs = self.policy.policy.clean.pairs
        source = pairs.source if pairs is not None else ""
        if self.request.pairs is not None or ":" in source:
            return source
        return str(self.policy.folder / source)

    def cleaned(self, checkpoint: Checkpoint) -> Path | None:
        """The first candidate of the ladder that passes the scan that picks; None where none does."""
        section = self.policy.policy.clean
        try:
            kind = self.kind()
        except OperationalError as error:
            raise OperationalError(
                f"the model fails and is to be cleaned, but {error.message}",
                f"use a machine with {section.require or self.request.scan.device}, or another --require; the scan is "
                f"kept in {self.request.state}",
            ) from error
        pairs = self.pairs()
        spent = 0.0
        for attempt in range(1, section.attempts + 1):
            if section.budget.minutes is not None and spent >= 60 * section.budget.minutes:
                self.emit(events.Notice(f"the policy's {section.budget.minutes:g} minutes of cleaning are spent"))
                break
            sizes = sizes_of(checkpoint, pairs, kind)
            folder = self.clean(checkpoint, attempt, sizes, kind)
            spent += self.done[-1].seconds
            kept = self.scan("pick", str(folder), None, inspect(str(folder)).digest, attempt)
            if accepted(self.policy.policy, self.done[-1], kept.report.examined):
                return folder
        return None

    def clean(self, checkpoint: Checkpoint, attempt: int, sizes: Sizes, kind: Literal["cpu", "cuda"]) -> Path:
        """One rung: the folder of a cleaned model."""
        section, asked = self.policy.policy.clean, self.request.scan
        overrides = ladder.settings(section, attempt, sizes)
        pairs = self.pairs()
        config = ladder.proposed(section, attempt, sizes).digest
        key = digest_of([__version__, checkpoint.digest, pairs.digest, config, kind])
        folder = self.request.state / f"clean-{key[:24]}"
        if not (folder / RECORD_NAME).is_file():
            self.request.state.mkdir(exist_ok=True)
            clean(
                CleanRequest(
                    model=asked.model,
                    pairs=self.pairs_source(),
                    out=folder,
                    started=asked.started,
                    arch=self.arch,
                    method=ladder.method(section, attempt, sizes),
                    overrides=overrides,
                    device=asked.device,
                    require=section.require,
                    resume=folder.with_name(f"{folder.name}.unfinished").exists(),
                    cache=asked.cache,
                ),
                self.emit,
            )
        record = ProvenanceRecord.model_validate_json((folder / RECORD_NAME).read_bytes())
        rung = ladder.rung(section, attempt, sizes).name
        said = f"{ladder.method(section, attempt, sizes)}, {rung}: {record.stopped}"
        self.done.append(Stage(name="clean", attempt=attempt, seconds=record.seconds, summary=said, record=record))
        self.emit(events.Notice(f"clean {attempt}: {said}"))
        return folder

    # --- what ships ---

    def converted(self, checkpoint: Checkpoint) -> tuple[Path, bool]:
        """The model as a folder of ours, and whether its weights are the very bytes that were scanned."""
        asked = self.request.scan
        folder = self.request.state / f"model-{digest_of([__version__, checkpoint.digest])[:24]}"
        if not folder.exists():
            self.request.state.mkdir(exist_ok=True)
            convert(asked.model, self.arch, folder, asked.started)
        record = ProvenanceRecord.model_validate_json((folder / RECORD_NAME).read_bytes())
        same = inspect(str(folder)).digest == checkpoint.digest
        said = "written from the tensors that were read: " + ("the same bytes" if same else "other bytes, scanned anew")
        self.done.append(Stage(name="convert", seconds=record.seconds, summary=said, record=record))
        return folder, same

    def check_exportable(self, checkpoint: Checkpoint) -> None:
        """Refuse now, and not after hours of cleaning, a model that has no ONNX form.

        Raises:
            InputError: says which part of it.
        """
        onnx = self.policy.policy.export.onnx
        assert onnx is not None, "asked only where graphs are wanted"
        known = self.request.state / f"exportable-{digest_of([__version__, checkpoint.digest, onnx.opset])[:24]}"
        if not known.exists():
            self.emit(events.StageStarted("export", "once, to see whether it can be done"))
            self.request.state.mkdir(exist_ok=True)
            try_export(self.request.scan.model, self.arch, onnx.opset, self.request.state)
            write_atomic(known, b"")

    def exported(self, candidate: Path) -> Path | None:
        """The folder of graphs, proven and scanned; None where they were refused."""
        asked = self.asked("rescan", str(candidate), None)
        digest = inspect(str(candidate)).digest
        folder = self.request.state / f"export-{self.key(asked, digest)[:24]}"
        began = time.monotonic()
        if folder.exists():
            parity = [parity_of(path) for path in sorted(folder.glob(f"*/{PARITY}"))]
            reports = [ScanReport.from_json(path.read_bytes()) for path in sorted(folder.glob(f"*/{GRAPHS_REPORT}"))]
        else:
            self.request.state.mkdir(exist_ok=True)
            made = export(ExportRequest(asked, folder), self.emit)
            parity, reports = list(made.parity), list(made.reports)
        seconds = round(time.monotonic() - began, 3)
        record = export_record(candidate, folder, asked.started, seconds) if folder.exists() else None
        for number, proven in enumerate(parity):
            proof = proof_of(proven)
            self.done.append(
                Stage(
                    name="export", seconds=0.0 if number else seconds, summary=proof.summary, proof=proof,
                    record=None if number else record,
                )
            )  # fmt: skip
            self.emit(events.Notice(f"export: {proof.summary}"))
        for report in reports:
            said = f"{report.verdict.status}: {report.verdict.summary}"
            self.done.append(Stage(name="rescan", seconds=report.run.seconds, summary=said, examined=report.examined))
            self.reports.append(report)
            self.emit(events.Notice(f"rescan: {said}"))
        return folder if folder.exists() else None


def _load(place: Path) -> Kept | None:
    """A scan that was kept, unless it cannot be read any more."""
    try:
        return Kept.model_validate_json(place.read_bytes())
    except (OSError, ValidationError):
        return None
