"""The model files that ship without cleaning: a converted checkpoint and ONNX graphs, each with its record."""

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
from pargate.models.model import Model, check_saved
from pargate.models.open import open_model
from pargate.models.save import changed
from pargate.release import bundle


@dataclass(slots=True)
class Candidate:
    """A model that may ship: a folder that this gate wrote, and its record."""

    folder: Path
    record: ProvenanceRecord
    parent: Checkpoint
    """The checkpoint it was made from; the configuration is the same."""
    opened: Model | None = None
    """The opened model; None until it is needed."""

    @classmethod
    def read(cls, folder: Path, parent: Checkpoint) -> "Candidate":
        """Return the candidate in `folder`.

        Raises:
            InputError: the record does not describe a model with the configuration of `parent`.
        """
        try:
            record = ProvenanceRecord.model_validate_json((folder / RECORD_NAME).read_bytes())
            check_saved(record.outputs, parent)
        except (OSError, ValueError) as error:
            raise changed(str(folder)) from error
        return cls(folder, record, parent)

    @property
    def weights(self) -> Subject:
        """The weights file, as written."""
        return self.record.outputs[0]

    @property
    def digest(self) -> str:
        """Identity of the model, as `Checkpoint.digest`, without reading the file."""
        return replace(self.parent, sha256=self.weights.sha256).digest

    def model(self) -> Model:
        """Return the model, opened once.

        Raises:
            InputError: the files changed since they were written.
        """
        if self.opened is None:
            self.opened = open_model(str(self.folder), digest=self.digest)
        return self.opened


def convert(model: Model, out: Path, started: str) -> None:
    """Write the tensors of `model` and a record to the new folder `out`.

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
    """Return the record of a step without random draws."""
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
    """Write the graphs of `model` to a temporary folder below `place`, and delete it.

    Raises:
        InputError: part of the model has no ONNX form, or none in this opset.
        OperationalError: as `Model.encoder`.
    """
    from pargate.export import folder, onnx

    onnx.check_opset(opset)
    with tempfile.TemporaryDirectory(dir=place) as beside:
        encoder = model.encoder(device="cpu")
        folder.write(encoder, model.checkpoint, Path(beside), opset=opset, classes=(), templates=())


def parity_of(path: Path) -> ParityReport:
    """Read the proof in the folder of graphs."""
    return ParityReport.model_validate_json(path.read_bytes())


def proof_of(proven: ParityReport) -> Proof:
    """Return a proof as the report of a gate holds it: the numbers of the CPU run, and whether all runs passed."""
    run = next((run for run in proven.runs if run.ran == "cpu"), None)
    decided = run.decisions if run is not None else None
    images, differ = (decided.pictures, decided.differ) if decided is not None else (0, 0)
    cosine = run.min_cosine if run is not None and run.min_cosine is not None else -1.0
    vectors = sum(check.n for check in run.checks) if run is not None else 0
    said = (
        f"graphs in {proven.precision}: least cosine {cosine:.7f} over {vectors} vectors, "
        f"{images - differ} of {images} images of the same class"
        if proven.passed
        else f"graphs in {proven.precision} are not proven: {'; '.join(proven.reasons)}"
    )
    return Proof(
        precision=proven.precision, min_cosine=cosine, top1_same=images - differ, top1_of=images,
        passed=proven.passed, summary=said,
    )  # fmt: skip


def export_record(weights: Subject, folder: Path, started: str, seconds: float) -> ProvenanceRecord:
    """Return the record of the export from the weights of a checkpoint to the files in `folder`."""
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
