"""What ships besides a cleaned model: one that passed as it was, and graphs; each with the record of its making."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pargate.clean.request import RECORD_NAME, later
from pargate.core.environment import host, versions
from pargate.core.model import Checkpoint
from pargate.core.provenance import ProvenanceRecord, Subject
from pargate.core.report import Proof
from pargate.export.parity import ParityReport
from pargate.files import atomic_folder, digest_of, readable, sha256_file
from pargate.models.model import Model
from pargate.models.open import open_model
from pargate.models.save import changed, check_written
from pargate.release import bundle


@dataclass(slots=True)
class Candidate:
    """A model that may ship: a folder that this gate wrote, and the record of it."""

    folder: Path
    record: ProvenanceRecord
    parent: Checkpoint
    """What it was made of, whose configuration it has."""
    opened: Model | None = None
    """The model, where it is open."""

    @classmethod
    def read(cls, folder: Path, parent: Checkpoint) -> "Candidate":
        """Return the candidate in `folder`.

        Raises:
            InputError: its record is not that of a model with the configuration of `parent`.
        """
        try:
            record = ProvenanceRecord.model_validate_json((folder / RECORD_NAME).read_bytes())
            check_written(record.outputs, parent)
        except (OSError, ValueError) as error:
            raise changed(str(folder)) from error
        return cls(folder, record, parent)

    @property
    def weights(self) -> Subject:
        """The weights file, as it was written."""
        return self.record.outputs[0]

    @property
    def digest(self) -> str:
        """Identity of the model, as `Checkpoint.digest`; the file need not be read for it."""
        return replace(self.parent, sha256=self.weights.sha256).digest

    def model(self) -> Model:
        """Return the model, opened once.

        Raises:
            InputError: what lies there is no longer what was written.
        """
        if self.opened is None:
            self.opened = open_model(str(self.folder), digest=self.digest)
        return self.opened


def convert(model: Model, out: Path, started: str) -> None:
    """Write `model` to the new folder `out`: a file of ours, made of the tensors that were read.

    Raises:
        InputError, OperationalError: as `Model.save`.
    """
    began = time.monotonic()
    checkpoint = model.checkpoint
    with atomic_folder(out) as folder:
        outputs = model.save(folder)
        made = record(
            "convert",
            inputs=(
                Subject(name=readable(checkpoint.source), sha256=checkpoint.sha256, size_bytes=checkpoint.size_bytes),
            ),
            outputs=outputs,
            started=started,
            seconds=round(time.monotonic() - began, 3),
            configuration={"from": checkpoint.format, "to": "safetensors"},
        )
        (folder / RECORD_NAME).write_bytes(made.model_dump_json(by_alias=True, indent=1).encode() + b"\n")


def record(
    activity: Literal["convert", "export"],
    *,
    inputs: tuple[Subject, ...],
    outputs: tuple[Subject, ...],
    started: str,
    seconds: float,
    configuration: dict[str, Any],
) -> ProvenanceRecord:
    """The record of a step in which nothing was drawn."""
    return ProvenanceRecord(
        schema="pargate/provenance/1",
        activity=activity,
        inputs=inputs,
        outputs=outputs,
        configuration=configuration,
        configuration_sha256=digest_of(configuration),
        seed=0,
        tool=versions(),
        environment={"host": host()},
        started=started,
        finished=later(started, seconds),
        seconds=seconds,
        stopped="done",
    )


def try_export(model: Model, opset: int, place: Path) -> None:
    """Write the graphs of `model` below `place`, and throw them away.

    Raises:
        InputError: a part of it has no ONNX form, or not in this opset.
        OperationalError: as `Model.encoder`.
    """
    from pargate.export import folder, onnx

    onnx.check_opset(opset)
    with tempfile.TemporaryDirectory(dir=place) as beside:
        encoder = model.encoder(device="cpu")
        folder.write(encoder, model.checkpoint, Path(beside), opset=opset, classes=(), templates=())


def parity_of(path: Path) -> ParityReport:
    """The proof that lies beside graphs."""
    return ParityReport.model_validate_json(path.read_bytes())


def proof_of(proven: ParityReport) -> Proof:
    """A proof as the report of a gate holds it: what the processor showed, and whether all held."""
    run = next((run for run in proven.runs if run.ran == "cpu"), None)
    decided = run.decisions if run is not None else None
    pictures, differ = (decided.pictures, decided.differ) if decided is not None else (0, 0)
    cosine = run.min_cosine if run is not None and run.min_cosine is not None else -1.0
    vectors = sum(check.n for check in run.checks) if run is not None else 0
    said = (
        f"graphs in {proven.precision}: least cosine {cosine:.7f} over {vectors} vectors, "
        f"{pictures - differ} of {pictures} pictures of the same class"
        if proven.passed
        else f"graphs in {proven.precision} are not proven: {'; '.join(proven.reasons)}"
    )
    return Proof(
        precision=proven.precision, min_cosine=cosine, top1_same=pictures - differ, top1_of=pictures,
        passed=proven.passed, summary=said,
    )  # fmt: skip


def export_record(weights: Subject, folder: Path, started: str, seconds: float) -> ProvenanceRecord:
    """Return the record of a step from the weights of a checkpoint to all that lies in `folder`."""
    return record(
        "export",
        inputs=(weights.model_copy(update={"name": f"{bundle.MODEL}/{weights.name}"}),),
        outputs=tuple(_subjects(folder)),
        started=started,
        seconds=seconds,
        configuration={"folders": sorted(path.name for path in folder.iterdir())},
    )


def _subjects(folder: Path) -> Iterator[Subject]:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        yield Subject(name=name, sha256=sha256_file(path), size_bytes=path.stat().st_size)
