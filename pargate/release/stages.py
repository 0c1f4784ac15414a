"""The stages of a gate: each is a scan, a cleaning, a conversion or an export.

The result of a stage is kept in `OUT.unfinished` under the digest of its inputs and is not computed again. The verdict
of each stage (`judge/release.py`) decides which stage follows.
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
from pargate.core import paired
from pargate.core.choices import RequiredDevice
from pargate.core.model import Activation
from pargate.core.report import AccuracyDrop, ScanReport, Stage
from pargate.core.results import Outcome, Status
from pargate.core.value import Value
from pargate.errors import InputError, OperationalError
from pargate.export.parity import PARITY
from pargate.files import digest_of, sha256_file, write_atomic
from pargate.images.dataset import Dataset, Split
from pargate.images.labelled import LabelledImages
from pargate.images.opening import open_images, open_pairs
from pargate.images.splits import shared
from pargate.judge.bounds import FLOOR
from pargate.judge.release import capital, conclude, cost, may_be_cleaned, shortfall
from pargate.models.config import with_activation
from pargate.models.model import Model
from pargate.models.open import open_model
from pargate.models.save import changed
from pargate.policy.resolve import Resolved
from pargate.release import accuracy_drop, escalation
from pargate.release.convert import Candidate, convert, export_record, parity_of, proof_of, try_export
from pargate.release.export import REPORT as GRAPHS_REPORT
from pargate.release.export import ExportRequest, export
from pargate.scanning.request import ScanRequest
from pargate.scanning.run import scan
from pargate.version import __version__

SPLITS = ("scan", "pick", "certify")
"""Disjoint splits of the images, each for one purpose only."""


ANSWERS = {Status.MET: "", Status.OPEN: " Whether that was kept is not decided.", Status.BREACH: " It fell by more."}
"""What a stage says of the accuracy budget after the cost."""


@dataclass(frozen=True, slots=True)
class GateRequest:
    """The inputs of a gate."""

    scan: ScanRequest
    """The model, and the scan that it must pass."""
    out: Path
    """Bundle to write; it must not exist."""
    pairs: str | None = None
    """Source of image-text pairs; replaces that of the policy."""
    require: RequiredDevice | None = None
    """Device without which nothing is cleaned; replaces that of the policy."""
    keep: bool = False
    """Whether the stages stay in `OUT.unfinished` after a verdict, for a gate under another policy."""
    key: Path | None = None
    """Private key that signs the bundle."""

    @property
    def state(self) -> Path:
        """Folder of the kept stages."""
        return self.out.with_name(f"{self.out.name}.unfinished")


class StageRecord(Value):
    """The kept result of a scan."""

    report: ScanReport
    drop: AccuracyDrop | None = None
    seconds: float


@dataclass(slots=True)
class Run:
    """A gate in progress."""

    request: GateRequest
    policy: Resolved
    splits: tuple[Split, ...]
    emit: events.Listener
    done: list[Stage] = field(default_factory=list)
    reports: list[ScanReport] = field(default_factory=list)
    """Reports of the scans in `done`, in order."""
    images: dict[str, LabelledImages] = field(default_factory=dict)
    """Images of each split, labelled; empty if the model is unsafe."""
    best: Candidate | None = None
    """The best cleaned model so far that breaks nothing."""
    _pairs: Dataset | None = None
    _reference: Model | None = None

    def stages(self, model: Model | None) -> tuple[Candidate | None, Path | None]:
        """Run all stages; return the checkpoint that may ship and its graphs. `model` is None if it is unsafe."""
        policy = self.policy.policy
        source, arch = self.request.scan.source, self.request.scan.arch
        first = self.scan("scan", source, lambda: model or source, model.checkpoint.digest if model else "unsafe")
        if model is None:
            return None, None
        model.release()  # a kept scan has not used the bytes
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
            else:  # the written model has another configuration or other bytes
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
        """Scan the model that may ship on the held-out split `certify`."""
        self.scan("certify", str(candidate.folder), candidate.model, candidate.digest, original=original)

    def still_passing(self) -> bool:
        """Return whether the stages so far pass."""
        without_graphs = self.policy.policy.model_copy(
            update={"export": self.policy.policy.export.model_copy(update={"onnx": None})}
        )
        found = conclude(without_graphs, self.done, self.reports[-1].examined)
        return found.verdict.status.passes

    def split(self, name: str) -> Split:
        """Return the split with this name."""
        return next(split for split in self.splits if split.name == name)

    def scan_request(self, stage: str, model: str, attempt: int = 0) -> ScanRequest:
        """Return the scan of a stage, with its own split of the images and its own seed."""
        own = self.request.scan
        named = f"gate {stage} {attempt}" if attempt else f"gate {stage}"
        # The first scan is the same as that of `pargate scan`.
        seed = own.settings.seed if stage == "scan" else seeds.derived(own.settings.seed, named)
        return replace(
            own,
            model=model,
            reference=self.reference(),
            settings=replace(own.settings, seed=seed, cache=own.settings.cache or self.request.state / "vectors"),
            split=self.split(stage if stage in ("scan", "pick") else "certify"),
            all_controls=stage not in ("scan", "pick"),
            pictures=own.pictures and stage != "pick",
        )

    def scan(
        self, stage: Literal["scan", "pick", "certify"], source: str, model: Callable[[], str | Model], digest: str, *,
        attempt: int = 0, original: Model | None = None,
    ) -> StageRecord:  # fmt: skip
        """Scan, and compare the accuracy with that of `original`; reuse the kept result if there is one.

        `model` opens the model if a scan is needed; `digest` identifies it.
        """
        asked = self.scan_request(stage, source, attempt)
        policy = self.policy.policy
        limit = policy.clean.budget.accuracy_drop if original else None
        place = self.request.state / f"{stage}-{self.key(asked, digest, limit is not None)[:24]}.json"
        kept = _load(place)
        if kept is None:
            self.emit(events.StageStarted(stage, source))
            began = time.monotonic()
            asked = replace(asked, model=model())
            report = scan(asked, self.emit)
            found = None
            if original is not None and limit is not None and report.verdict.status is Outcome.PASS:
                most = paired.enough(limit.value, policy.confidence, self.discordance())
                found = accuracy_drop.measure(asked, original, limit, most, self.emit)
            kept = StageRecord(report=report, drop=found, seconds=round(time.monotonic() - began, 3))
            self.keep(place, kept)
        if self._reference is not None:
            self._reference.release()
        examined = kept.report.examined
        made = Stage(
            name=stage, attempt=attempt, seconds=kept.seconds, summary="", examined=examined, drop=kept.drop
        )  # fmt: skip
        outcome, price = kept.report.verdict.status, ""
        if kept.drop is not None:  # the budget counts too
            outcome = shortfall(policy, made, examined)[0]
            price = f" {capital(cost(kept.drop))}.{ANSWERS[kept.drop.status]}"
        said = f"{outcome}: {kept.report.verdict.summary}{price}"
        self.emit(events.Notice(f"{stage}{f' {attempt}' if attempt else ''}: {said}"))
        self.done.append(made.model_copy(update={"summary": said}))
        self.reports.append(kept.report)
        return kept

    def reference(self) -> Model | None:
        """Return the trusted model, opened once."""
        source = self.request.scan.reference_source
        if self._reference is None and source is not None:
            self._reference = source if isinstance(source, Model) else open_model(source, arch=self.request.scan.arch)
        return self._reference

    def key(self, asked: ScanRequest, digest: str, *more: Any) -> str:
        """Return the digest of all inputs of a scan."""
        reference = self._reference.checkpoint.digest if self._reference else ""
        classes = sha256_file(asked.classes) if asked.classes else ""
        judging, settings = asked.judging, asked.settings
        previous = digest_of(judging.previous.to_json()) if judging.previous else ""
        split = asked.split.digest if asked.split else ""
        return digest_of(
            [
                __version__, digest, self.policy.sha256, asked.image_source, split, reference, classes, previous,
                settings.seed, settings.device, settings.precision, settings.max_minutes, judging.today.isoformat(),
                judging.waive, judging.strict, asked.all_controls,
                asked.signature.model_dump() if asked.signature else "", *more,
            ]
        )  # fmt: skip

    def keep(self, place: Path, kept: StageRecord) -> None:
        """Write the result of a scan atomically."""
        self.request.state.mkdir(exist_ok=True)
        write_atomic(place, kept.model_dump_json(by_alias=True).encode())

    # --- cleaning ---

    def kind(self) -> Literal["cpu", "cuda"]:
        """Return the kind of device that cleans.

        Raises:
            OperationalError: the requested or required device is missing.
        """
        device, require = self.request.scan.settings.device, self.policy.policy.clean.require
        if device == "cpu" and require != "cuda":
            return "cpu"
        from pargate.models.torch.encoder import resolve

        if require != "cuda" or device.startswith("cuda"):
            return "cuda" if resolve(device).type == "cuda" else "cpu"
        try:
            return "cuda" if resolve("cuda").type == "cuda" else "cpu"
        except OperationalError as error:
            asks = "--require cuda" if self.request.require else f"`clean.require: cuda` of {self.policy.source}"
            raise OperationalError(
                f"a model that fails is cleaned on a GPU only ({asks}), and there is none here",
                "gate on a machine with a GPU, or clean on this processor with --require cpu",
            ) from error

    def pairs(self) -> Dataset:
        """Return the image-text pairs that clean; none of their images is scanned.

        Raises:
            InputError: the pairs cannot be used, or share an image with the scan.
        """
        pairs = self.policy.policy.clean.pairs
        assert pairs is not None  # `gate` refuses a policy that cleans without pairs
        if self._pairs is not None:
            return self._pairs
        source = self.pairs_source()
        found = open_pairs(
            source, seed=pairs.seed, cache=self.request.scan.settings.cache, device=self.request.scan.settings.device,
            emit=self.emit,
        )  # fmt: skip
        asked = self.request.scan
        place = shared(open_images(asked.image_source, seed=asked.settings.seed, cache=asked.settings.cache), found)
        if place is not None:
            raise InputError(
                f"{source} and {asked.image_source} share an image: {place}",
                "clean with other images than those of the scan: a scan on training images shows nothing",
            )
        self._pairs = found
        return found

    def pairs_source(self) -> str:
        """Return the source of the pairs; a path in the policy is relative to the policy's folder."""
        pairs = self.policy.policy.clean.pairs
        source = pairs.source if pairs is not None else ""
        if self.request.pairs is not None or ":" in source:
            return source
        return str(self.policy.folder / source)

    def cleaned(self, model: Model) -> Candidate | None:
        """Return the candidate that certifies, or None if none passes the scan `pick`.

        It is the first one whose accuracy fell by at most half of its budget, or else the one that lost least.
        """
        section = self.policy.policy.clean
        try:
            kind = self.kind()
        except OperationalError as error:
            raise OperationalError(
                f"the model fails and needs cleaning: {error.message}",
                f"{error.hint}; the scan is kept in {self.request.state}",
            ) from error
        pairs = self.pairs()
        spent, reason = 0.0, ""
        found: list[tuple[bool, float, Candidate]] = []
        for attempt in range(1, section.attempts + 1):
            if section.budget.minutes is not None and spent >= 60 * section.budget.minutes:
                self.emit(
                    events.Notice(f"the policy's budget of {section.budget.minutes:g} minutes for cleaning is spent")
                )
                break
            sizes = sizes_of(model.checkpoint, pairs, kind)
            candidate = self.clean(model, attempt, sizes, kind, reason)
            spent += self.done[-1].seconds
            kept = self.scan(
                "pick", str(candidate.folder), candidate.model, candidate.digest, attempt=attempt, original=model
            )
            outcome, why = shortfall(self.policy.policy, self.done[-1], kept.report.examined)
            fall = kept.drop.pairs.excess or 0.0 if kept.drop is not None else 0.0
            if outcome is not Outcome.FAIL:
                found.append((outcome is not Outcome.PASS, fall, candidate))
            if outcome is Outcome.PASS:
                if kept.drop is None or kept.drop.status is Status.MET or fall <= kept.drop.limit / 2:
                    break
                why = f"accuracy fell by {fall:.1%}, more than half of the {kept.drop.limit_text} that it may."
            reason = f"attempt {attempt} fell short: {why}"
            candidate.opened = None
        if not found:
            return None
        rejected, _, self.best = min(found, key=lambda one: one[:2])
        return None if rejected else self.best

    def discordance(self) -> float:
        """Return the share of images whose correctness a cleaning changes: as measured so far, or a prior."""
        drops = [stage.drop.pairs for stage in self.done if stage.drop is not None and stage.drop.pairs.n >= FLOOR]
        if not drops:
            return paired.DISCORDANCE
        return max((drops[-1].trigger_only + drops[-1].baseline_only) / drops[-1].n, 1 / drops[-1].n)

    def clean(self, model: Model, attempt: int, sizes: Sizes, kind: Literal["cpu", "cuda"], why: str) -> Candidate:
        """Return the cleaned model of one attempt; `why` says why it follows the one before, if it does."""
        section, asked = self.policy.policy.clean, self.request.scan
        overrides = escalation.settings(section, attempt, sizes)
        pairs = self.pairs()
        config = escalation.proposed(section, attempt, sizes).digest
        named = f"{escalation.method(section, attempt, sizes)}, {escalation.step(section, attempt, sizes).name}"
        if why:
            self.emit(events.Notice(f"clean {attempt}: {named}, because {why}"))
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
                    method=escalation.method(section, attempt, sizes),
                    overrides=overrides,
                    device=asked.settings.device,
                    require=section.require,
                    resume=folder.with_name(f"{folder.name}.unfinished").exists(),
                    cache=asked.settings.cache,
                ),
                self.emit,
            )
        candidate = Candidate.read(folder, model.checkpoint)
        record = candidate.record
        said = f"{named}: {record.stopped}" + (f". It followed because {why.rstrip('.')}" if why else "")
        self.done.append(Stage(name="clean", attempt=attempt, seconds=record.seconds, summary=said, record=record))
        self.emit(events.Notice(f"clean {attempt}: {record.stopped}"))
        return candidate

    # --- what ships ---

    def converted(self, model: Model) -> tuple[Candidate, bool]:
        """Return the converted model, and whether its weights are the scanned bytes."""
        folder = self.request.state / f"model-{digest_of([__version__, model.checkpoint.digest])[:24]}"
        if not folder.exists():
            self.request.state.mkdir(exist_ok=True)
            convert(model, folder, self.request.scan.started)
        candidate = Candidate.read(folder, model.checkpoint)
        record = candidate.record
        same = candidate.digest == model.checkpoint.digest
        said = "written from the tensors that were read: " + (
            "the same bytes" if same else "other bytes, scanned again"
        )
        self.done.append(Stage(name="convert", seconds=record.seconds, summary=said, record=record))
        return candidate, same

    def check_exportable(self, model: Model) -> None:
        """Raise before hours of cleaning if the policy wants graphs and the model has no ONNX form.

        Raises:
            InputError: part of the model has no ONNX form.
        """
        onnx = self.policy.policy.export.onnx
        if onnx is None:
            return
        known = self.request.state / f"exportable-{digest_of([__version__, model.checkpoint.digest, onnx.opset])[:24]}"
        if not known.exists():
            self.emit(events.StageStarted("export", "to see whether it works"))
            self.request.state.mkdir(exist_ok=True)
            try_export(model, onnx.opset, self.request.state)
            write_atomic(known, b"")

    def exported(self, candidate: Candidate) -> Path | None:
        """Return the folder of proven and scanned graphs; None if they were refused."""
        asked = self.scan_request("rescan", str(candidate.folder))
        folder = self.request.state / f"export-{self.key(asked, candidate.digest)[:24]}"
        began = time.monotonic()
        if folder.exists():
            parity = [parity_of(path) for path in sorted(folder.glob(f"*/{PARITY}"))]
            reports = [ScanReport.from_json(path.read_bytes()) for path in sorted(folder.glob(f"*/{GRAPHS_REPORT}"))]
        else:
            self.request.state.mkdir(exist_ok=True)
            made = export(ExportRequest(replace(asked, model=candidate.model(), proven=True), folder), self.emit)
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


def _load(place: Path) -> StageRecord | None:
    """Return the kept result of a scan, or None if it cannot be read."""
    try:
        return StageRecord.model_validate_json(place.read_bytes())
    except (OSError, ValidationError):
        return None
