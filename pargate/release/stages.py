"""The stages of a gate, one after another: each is a scan, a cleaning or an export, done once and kept.

A stage is kept in `OUT.unfinished` under the digest of all it depends on; what is there is not done again. Which of
them are taken follows from the verdicts on the way, which `conclusion.py` draws.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import ValidationError

from pargate import events, seeds
from pargate.clean.methods.base import Sizes
from pargate.clean.request import RECORD_NAME, CleanRequest
from pargate.clean.run import clean, sizes_of
from pargate.core.choices import RequiredDevice
from pargate.core.model import Activation
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
from pargate.models.model import Model
from pargate.models.open import open_model
from pargate.models.save import changed
from pargate.policy.resolve import Resolved
from pargate.release import accuracy_drop as drop
from pargate.release import escalation as ladder
from pargate.release.convert import Candidate, convert, export_record, parity_of, proof_of, try_export
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
    _pairs: Dataset | None = None
    _reference: Model | None = None

    def stages(self, model: Model | None) -> tuple[Candidate | None, Path | None]:
        """Take all stages; return the checkpoint that may ship, and its graphs. `model` is None where it is unsafe."""
        policy = self.policy.policy
        source, arch = self.request.scan.source, self.request.scan.arch
        first = self.scan("scan", source, lambda: model or source, model.checkpoint.digest if model else "unsafe")
        if model is None:
            return None, None
        model.release()  # where the scan was kept, nothing has used the bytes up
        settled = first.report.model.activation
        if not model.checkpoint.activation_known and settled:
            arch = with_activation(model.checkpoint.architecture, cast(Activation, settled))
            before, model = model, open_model(source, arch=arch)
            if model.checkpoint.sha256 != before.checkpoint.sha256:
                raise changed(source)
        cleans = may_be_cleaned(policy, first.report.examined)
        candidate: Candidate | None = None
        if first.report.verdict.status is Outcome.PASS:
            candidate, same = self.converted(model)
            if same and arch == self.request.scan.arch:
                candidate.opened = model.moved(candidate.folder)
            else:  # what ships is read by its own configuration
                self.check_exportable(model)
                model.release()
                self.certify(candidate)
        elif cleans:
            self.check_exportable(model)
            candidate = self.cleaned(model)
            if candidate is not None:
                self.certify(candidate, model)
        if candidate is None or not self.still_passing():
            return None, None
        model.release()
        return candidate, self.exported(candidate) if policy.export.onnx is not None else None

    def certify(self, candidate: Candidate, original: Model | None = None) -> None:
        """Scan what may ship on the carriers that nothing has looked at."""
        self.scan("certify", str(candidate.folder), candidate.model, candidate.digest, original=original)

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

    def asked(self, stage: str, model: str, attempt: int = 0) -> ScanRequest:
        """The scan of a stage: its own carriers, and its own draws."""
        own = self.request.scan
        named = f"gate {stage} {attempt}" if attempt else f"gate {stage}"
        return replace(
            own,
            model=model,
            reference=self.reference(),
            # The first scan is the one that `pargate scan` makes, on the scenes that it looks at.
            seed=own.seed if stage == "scan" else seeds.derived(own.seed, named),
            split=self.part(stage if stage in ("scan", "pick") else "certify"),
            all_controls=stage not in ("scan", "pick"),
            pictures=own.pictures and stage != "pick",
            cache=own.cache or self.request.state / "vectors",
        )

    def scan(
        self, stage: Literal["scan", "pick", "certify"], source: str, model: Callable[[], str | Model], digest: str, *,
        attempt: int = 0, original: Model | None = None,
    ) -> Kept:  # fmt: skip
        """Scan, and compare accuracies with the `original` of what was cleaned; read the result where that was done.

        `model` opens it where it has to be scanned; `digest` is what it is known by.
        """
        asked = self.asked(stage, source, attempt)
        limit = self.policy.policy.clean.budget.accuracy_drop if original else None
        place = self.request.state / f"{stage}-{self.key(asked, digest, limit is not None)[:24]}.json"
        kept = _load(place)
        if kept is None:
            self.emit(events.StageStarted(stage, source))
            began = time.monotonic()
            asked = replace(asked, model=model())
            report = scan(asked, self.emit)
            found = None
            if original is not None and limit is not None and report.verdict.status is Outcome.PASS:
                found = drop.measure(asked, original, limit, self.emit)
            kept = Kept(report=report, drop=found, seconds=round(time.monotonic() - began, 3))
            self.keep(place, kept)
        said = f"{kept.report.verdict.status}: {kept.report.verdict.summary}"
        if kept.drop is not None:
            said += f" {cost(kept.drop)[:1].upper()}{cost(kept.drop)[1:]}."
        if self._reference is not None:
            self._reference.release()
        self.emit(events.Notice(f"{stage}{f' {attempt}' if attempt else ''}: {said}"))
        self.done.append(
            Stage(
                name=stage, attempt=attempt, seconds=kept.seconds, summary=said, examined=kept.report.examined,
                drop=kept.drop,
            )
        )  # fmt: skip
        self.reports.append(kept.report)
        return kept

    def reference(self) -> Model | None:
        """Return the trusted model, opened once; its bytes are freed once they are used."""
        source = self.request.scan.reference_source
        if self._reference is None and source is not None:
            self._reference = source if isinstance(source, Model) else open_model(source, arch=self.request.scan.arch)
        return self._reference

    def key(self, asked: ScanRequest, digest: str, *more: Any) -> str:
        """Digest of everything that a scan depends on."""
        reference = self._reference.checkpoint.digest if self._reference else ""
        classes = sha256_file(asked.classes) if asked.classes else ""
        previous = digest_of(asked.previous.to_json()) if asked.previous else ""
        part = asked.split.digest if asked.split else ""
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

    def cleaned(self, model: Model) -> Candidate | None:
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
            sizes = sizes_of(model.checkpoint, pairs, kind)
            candidate = self.clean(model, attempt, sizes, kind)
            spent += self.done[-1].seconds
            kept = self.scan(
                "pick", str(candidate.folder), candidate.model, candidate.digest, attempt=attempt, original=model
            )
            if accepted(self.policy.policy, self.done[-1], kept.report.examined):
                return candidate
        return None

    def clean(self, model: Model, attempt: int, sizes: Sizes, kind: Literal["cpu", "cuda"]) -> Candidate:
        """One rung: a cleaned model."""
        section, asked = self.policy.policy.clean, self.request.scan
        overrides = ladder.settings(section, attempt, sizes)
        pairs = self.pairs()
        config = ladder.proposed(section, attempt, sizes).digest
        key = digest_of([__version__, model.checkpoint.digest, pairs.digest, config, kind])
        folder = self.request.state / f"clean-{key[:24]}"
        if not (folder / RECORD_NAME).is_file():
            self.request.state.mkdir(exist_ok=True)
            clean(
                CleanRequest(
                    model=model,
                    pairs=self.pairs_source(),
                    out=folder,
                    started=asked.started,
                    method=ladder.method(section, attempt, sizes),
                    overrides=overrides,
                    device=asked.device,
                    require=section.require,
                    resume=folder.with_name(f"{folder.name}.unfinished").exists(),
                    cache=asked.cache,
                ),
                self.emit,
            )
        candidate = Candidate.read(folder, model.checkpoint)
        record = candidate.record
        rung = ladder.rung(section, attempt, sizes).name
        said = f"{ladder.method(section, attempt, sizes)}, {rung}: {record.stopped}"
        self.done.append(Stage(name="clean", attempt=attempt, seconds=record.seconds, summary=said, record=record))
        self.emit(events.Notice(f"clean {attempt}: {said}"))
        return candidate

    # --- what ships ---

    def converted(self, model: Model) -> tuple[Candidate, bool]:
        """The model as a folder of ours, and whether its weights are the very bytes that were scanned."""
        folder = self.request.state / f"model-{digest_of([__version__, model.checkpoint.digest])[:24]}"
        if not folder.exists():
            self.request.state.mkdir(exist_ok=True)
            convert(model, folder, self.request.scan.started)
        candidate = Candidate.read(folder, model.checkpoint)
        record = candidate.record
        same = candidate.digest == model.checkpoint.digest
        said = "written from the tensors that were read: " + ("the same bytes" if same else "other bytes, scanned anew")
        self.done.append(Stage(name="convert", seconds=record.seconds, summary=said, record=record))
        return candidate, same

    def check_exportable(self, model: Model) -> None:
        """Refuse now, and not after hours of cleaning, a model that has no ONNX form, where graphs are wanted.

        Raises:
            InputError: says which part of it.
        """
        onnx = self.policy.policy.export.onnx
        if onnx is None:
            return
        known = self.request.state / f"exportable-{digest_of([__version__, model.checkpoint.digest, onnx.opset])[:24]}"
        if not known.exists():
            self.emit(events.StageStarted("export", "once, to see whether it can be done"))
            self.request.state.mkdir(exist_ok=True)
            try_export(model, onnx.opset, self.request.state)
            write_atomic(known, b"")

    def exported(self, candidate: Candidate) -> Path | None:
        """The folder of graphs, proven and scanned; None where they were refused."""
        asked = self.asked("rescan", str(candidate.folder))
        folder = self.request.state / f"export-{self.key(asked, candidate.digest)[:24]}"
        began = time.monotonic()
        if folder.exists():
            parity = [parity_of(path) for path in sorted(folder.glob(f"*/{PARITY}"))]
            reports = [ScanReport.from_json(path.read_bytes()) for path in sorted(folder.glob(f"*/{GRAPHS_REPORT}"))]
        else:
            self.request.state.mkdir(exist_ok=True)
            made = export(ExportRequest(replace(asked, model=candidate.model()), folder), self.emit)
            parity, reports = list(made.parity), list(made.reports)
        seconds = round(time.monotonic() - began, 3)
        record = export_record(candidate.weights, folder, asked.started, seconds) if folder.exists() else None
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
