"""What ships besides a cleaned model: one that passed as it was, and graphs; each with the record of its making."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pargate.clean.request import RECORD_NAME, later
from pargate.core.environment import host, versions
from pargate.core.provenance import ProvenanceRecord, Subject
from pargate.core.report import Proof
from pargate.export.parity import ParityReport
from pargate.files import atomic_folder, digest_of, readable, sha256_file
from pargate.models.config import CONFIG_NAME
from pargate.models.hub import fetch
from pargate.models.inspect import WEIGHT_NAMES, open_checkpoint
from pargate.models.save import copy_tokenizer, save_config, subject
from pargate.release import bundle


def convert(model: str, arch: str | None, out: Path, started: str) -> None:
    """Write `model` to the new folder `out`: a file of ours, made of the tensors that were read.

    Nothing of the original's layout stays, in which another loader could find another model. The same tensors always
    give the same bytes.

    Raises:
        InputError, UnsafeCheckpoint, OperationalError: as `open_checkpoint`; the disk is full.
    """
    from pargate.models.torch.build import load
    from pargate.models.torch.save import save_weights, stored

    began = time.monotonic()
    with open_checkpoint(model, arch=arch, fetch=fetch) as opened, atomic_folder(out) as folder:
        checkpoint = opened.checkpoint
        save_weights(folder, stored(opened, load(opened)))
        save_config(folder, checkpoint)
        names = [WEIGHT_NAMES[0], CONFIG_NAME, *copy_tokenizer(checkpoint, folder)]
        made = record(
            "convert",
            inputs=(
                Subject(name=readable(checkpoint.source), sha256=checkpoint.sha256, size_bytes=checkpoint.size_bytes),
            ),
            outputs=tuple(subject(folder, name) for name in names),
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


def try_export(model: str, arch: str | None, opset: int, place: Path) -> None:
    """Write the graphs of `model` below `place`, and throw them away.

    Raises:
        InputError: a part of it has no ONNX form, or not in this opset.
        OperationalError: as `open_encoder`.
    """
    from pargate.export import folder, onnx
    from pargate.models import open_encoder

    onnx.check_opset(opset)
    with (
        open_checkpoint(model, arch=arch, fetch=fetch) as opened,
        tempfile.TemporaryDirectory(dir=place) as beside,
    ):
        encoder = open_encoder(opened, device="cpu")
        folder.write(encoder, opened.checkpoint, Path(beside), opset=opset, classes=(), templates=())


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


def export_record(candidate: Path, folder: Path, started: str, seconds: float) -> ProvenanceRecord:
    """From the checkpoint at `candidate` to all that lies in `folder`."""
    weights = candidate / "open_clip_model.safetensors"
    return record(
        "export",
        inputs=(Subject(name=f"{bundle.MODEL}/{weights.name}", sha256=sha256_file(weights),
                        size_bytes=weights.stat().st_size),),
        outputs=tuple(_subjects(folder)),
        started=started,
        seconds=seconds,
        configuration={"folders": sorted(path.name for path in folder.iterdir())},
    )  # fmt: skip


def _subjects(folder: Path) -> Iterator[Subject]:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        yield Subject(name=name, sha256=sha256_file(path), size_bytes=path.stat().st_size)
