"""Clean a checkpoint with image-text pairs; write a new checkpoint and its provenance record.

Cheap steps come first: all checks are done before torch is imported. The result is written as a whole folder. An
interrupted run leaves its last state in `OUT.unfinished`, from which `resume` continues to the same weights.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pargate import events
from pargate.clean import ranks
from pargate.clean.config import Proposal, propose
from pargate.clean.methods.base import Sizes
from pargate.clean.request import (
    CHOSEN_NAME,
    LOCK_NAME,
    RECORD_NAME,
    STATE_NAME,
    Cleaned,
    CleanRequest,
    describe,
    family,
    left_over,
)
from pargate.core.model import Checkpoint
from pargate.core.provenance import ProvenanceRecord
from pargate.errors import InputError, OperationalError, PargateError
from pargate.files import check_new_folder, locked, readable, sha256_file
from pargate.images.classes import read_classes
from pargate.images.dataset import Dataset
from pargate.images.opening import check_source, is_generated, open_pairs
from pargate.models import two_towers
from pargate.models.config import with_activation
from pargate.models.model import check_saved, saved_weights
from pargate.models.open import inspect, opened
from pargate.models.sources import parts
from pargate.models.transformers_folder import KEPT_ALONE, LAYOUT, is_kept

KEPT = ("open_clip", LAYOUT, two_towers.LAYOUT)
"""Layouts in which a model can be written."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inspected inputs of a run."""

    checkpoint: Checkpoint
    pairs: Dataset | None
    """Image-text pairs, or None if they must be generated first."""


def look(request: CleanRequest, emit: events.Listener | None = None) -> Inputs:
    """Inspect the model and list the pairs; generate them only if `emit` is given.

    Raises:
        InputError, UnsafeCheckpoint, OperationalError: as `clean`.
    """
    check_source(request.pairs)
    checkpoint = inspect(request.model, arch=request.arch)
    refuse_untrainable(checkpoint)
    refuse_unkept(request, checkpoint)
    waits = is_generated(request.pairs) and emit is None
    return Inputs(checkpoint, None if waits else _pairs(request, emit or events.ignore))


def plan(request: CleanRequest, inside: Path | None = None, known: Inputs | None = None) -> tuple[str, ...]:
    """Return what a run would do, line by line, after the checks that come before the model is opened.

    `inside` is a folder for the result that need not exist yet; `known` is the result of `look`.

    Raises:
        InputError, UnsafeCheckpoint, OperationalError: as `clean`.
    """
    _check_places(request, inside)
    found = known or look(request)
    if found.pairs is None:
        return (f"pairs   {request.pairs}: would be generated first, and what follows depends on how many there are",)
    proposal = _propose(request, found.checkpoint, found.pairs, _device(request))
    return (
        f"model   {found.checkpoint.source}: {found.checkpoint.architecture}, "
        f"{found.checkpoint.parameters / 1e6:.1f} M parameters",
        f"pairs   {found.pairs.source}: {'without end' if found.pairs.count is None else found.pairs.count}",
        *describe(proposal),
        *(f"unlearn {trigger.label}" for trigger in request.unlearn),
        f"out     {request.out}",
    )


def check_made(request: CleanRequest, known: Inputs) -> None:
    """Raise if a folder is of another model, other pairs or settings than this request, or was changed.

    Pairs that are not generated yet are not compared.

    Raises:
        InputError: as above.
    """
    out, checkpoint, pairs = request.out, known.checkpoint, known.pairs
    try:
        made = ProvenanceRecord.model_validate_json((out / RECORD_NAME).read_bytes())
        changed = [written.name for written in made.outputs if sha256_file(out / written.name) != written.sha256]
    except (OSError, ValueError) as error:
        raise InputError(f"{out} is not a model that pargate cleaned", "remove it, or name another --out") from error
    wrong, weights = [], saved_weights(checkpoint)
    if weights not in [written.name for written in made.outputs]:
        wrong.append(f"its record names no {weights}")
    if changed:
        wrong.append(f"{readable(changed[0])} is not as it was written")
    if made.inputs[0].sha256 != checkpoint.sha256 or not _has_settings(made, checkpoint):
        wrong.append("it was made of another model")
    if pairs is not None:
        if made.inputs[-1].sha256 != pairs.digest:
            wrong.append("it was made with other pairs")
        config = _propose(request, checkpoint, pairs, _device(request)).config
        if request.overrides.get("precision") in (None, "auto"):
            config = config.model_copy(update={"precision": made.configuration.get("precision")})
        if made.configuration_sha256 != config.digest:
            wrong.append("it was made with other settings")
    if wrong:
        raise InputError(
            f"{out} does not belong to this sweep: {', and '.join(wrong)}", "remove it, or name another --out"
        )


def _has_settings(made: ProvenanceRecord, checkpoint: Checkpoint) -> bool:
    try:
        check_saved(made.outputs, checkpoint)
    except ValueError:
        return False
    return True


def clean(request: CleanRequest, emit: events.Listener = events.ignore) -> Cleaned | None:
    """Clean the model and write the result; return None in every process but the first of a distributed run.

    Raises:
        InputError, UnsafeCheckpoint, OperationalError: see `errors.py`. Nothing is half-written.
        PeerEnded: another process of the run reported one of these.
    """
    leads = ranks.here().rank == 0
    with contextlib.ExitStack() as stack:
        with ranks.told_by_one():
            unfinished = _check_places(request)
            emit(events.StageStarted("inspect", request.source))
            model = stack.enter_context(opened(request.model, arch=request.arch))
            refuse_untrainable(model.checkpoint)
            refuse_unkept(request, model.checkpoint)
            if request.layout is None and is_kept(model.checkpoint):
                emit(events.Notice(f"the result is written as transformers reads it: {KEPT_ALONE}"))
            # A single process checks its pairs before torch is imported.
            pairs = _listed(request, model.checkpoint, emit) if ranks.here().world == 1 else None
            asked = _device(request)
        emit(events.StageStarted("open", model.checkpoint.architecture))
        from pargate.clean.train import distributed

        group, device = stack.enter_context(distributed.group(asked))
        with _unfinished(unfinished) if leads else contextlib.nullcontext():
            if pairs is None:
                pairs = group.first(lambda: _listed(request, model.checkpoint, emit))
            proposal = _propose(request, model.checkpoint, pairs, device)
            from pargate.clean.train.run import run

            return run(request, model, pairs, proposal, unfinished, group, device, emit)


# --- before torch ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _unfinished(folder: Path) -> Iterator[None]:
    """Hold a folder for the state of the run; remove it when the run is done, or failed without a state.

    Raises:
        OperationalError: the folder cannot be made, or another run uses it.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OperationalError(f"cannot write {folder}: {error.strerror}", "choose another --out") from error
    left = True
    try:
        with locked(folder / LOCK_NAME, wait=False):
            left = False
            try:
                yield
            except BaseException as error:
                left = not isinstance(error, PargateError) or (folder / STATE_NAME).exists()
                raise
    finally:
        if not left:
            _clear(folder)


def _clear(folder: Path) -> None:
    """Remove the files of a run, and the folder if it holds nothing else: it may have existed before."""
    with contextlib.suppress(OSError):
        for name in (STATE_NAME, CHOSEN_NAME, LOCK_NAME):
            for ours in (folder / name, *folder.glob(f".{name}.*")):
                ours.unlink(missing_ok=True)
        folder.rmdir()


def _check_places(request: CleanRequest, inside: Path | None = None) -> Path:
    """Return the folder for the state of the run; raise if the output exists, or is the input."""
    if not request.out.name:
        raise InputError(f"--out {request.out} cannot be a new folder", "name one that does not exist")
    try:
        return _checked(request, left_over(request.out), inside)
    except OSError as error:  # such as a name that is too long
        raise InputError(
            f"cannot use MODEL {request.source[:80]} with --out {str(request.out)[:80]}: {error.strerror}",
            "choose another name",
        ) from error


def _checked(request: CleanRequest, unfinished: Path, inside: Path | None) -> Path:
    for source in filter(Path.exists, map(Path, parts(request.source))):
        home, out = (source if source.is_dir() else source.parent).resolve(), request.out.resolve()
        if home in (out, unfinished.resolve()) or (source.is_dir() and out.is_relative_to(home)):
            raise InputError(
                f"--out {request.out} is the model itself", "name a new folder: the input is never changed"
            )
    if inside is None or inside.exists():
        check_new_folder(request.out)
    if (unfinished / STATE_NAME).exists() and not request.resume:
        raise InputError(
            f"{unfinished} holds the state of an interrupted run", "continue with --resume, or remove it to start again"
        )
    if request.resume and not unfinished.exists():
        raise InputError(f"--resume: there is no {unfinished}", "omit --resume to start")
    return unfinished


def refuse_untrainable(checkpoint: Checkpoint) -> None:
    """Raise if the model cannot be trained, or if its activation is not known.

    With the wrong activation, the result would be another model than the one that was scanned.

    Raises:
        InputError: as above.
    """
    if checkpoint.format == "onnx":
        raise InputError(
            f"{checkpoint.source} holds exported graphs, which cannot be trained",
            "give the checkpoint that they were exported from",
        )
    if not checkpoint.activation_known:
        gelu, quick = (with_activation(checkpoint.architecture, name) for name in ("gelu", "quick_gelu"))
        raise InputError(
            f"{checkpoint.source} does not say whether it was trained with GELU or QuickGELU",
            f"name its activation: --arch {gelu} or --arch {quick}; a scan with labelled images may show which",
        )


def refuse_unkept(request: CleanRequest, checkpoint: Checkpoint) -> None:
    """Raise if the result cannot be written in the requested layout.

    Raises:
        InputError: as above.
    """
    if request.layout == "open_clip" and is_kept(checkpoint):
        raise InputError(
            f"--format open_clip cannot hold {checkpoint.source}: {KEPT_ALONE}",
            "leave --format out: the result is written as transformers reads it",
        )
    if request.layout == "keep" and checkpoint.layout not in KEPT:
        raise InputError(
            f"--format keep: {checkpoint.source} is a single file, which says nothing of its architecture",
            "use --format open_clip, whose folder holds both",
        )


def _pairs(request: CleanRequest, emit: events.Listener = events.ignore) -> Dataset:
    names = read_classes(request.classes) if request.classes else None
    return open_pairs(
        request.pairs, seed=_seed(request), cache=request.cache, classes=names, device=request.device, emit=emit
    )


def _listed(request: CleanRequest, checkpoint: Checkpoint, emit: events.Listener) -> Dataset:
    """List the pairs; raise if the settings do not fit them."""
    emit(events.StageStarted("pairs", request.pairs))
    pairs = _pairs(request, emit)
    _propose(request, checkpoint, pairs, "cpu")
    return pairs


def _seed(request: CleanRequest) -> int:
    return int(request.overrides.get("seed") or 0)


def _device(request: CleanRequest) -> str:
    """Return the device to use: `cpu`, `cuda` or `cuda:N`.

    Raises:
        InputError: an unknown device, or `--device` and `--require` exclude each other.
        OperationalError: the device does not exist.
    """
    asked = request.device if request.device != "auto" else request.require or "auto"
    if request.require and asked.partition(":")[0] != request.require:
        raise InputError(
            f"--require {request.require} and --device {request.device} exclude each other", "give one of them"
        )
    if asked == "cpu":
        return "cpu"
    from pargate.models.torch.encoder import resolve

    try:
        return str(resolve(asked))
    except OperationalError as error:
        if request.require is None:
            raise
        raise OperationalError(error.message, "use a machine with one, or omit --require") from error


def _propose(request: CleanRequest, checkpoint: Checkpoint, pairs: Dataset, device: str) -> Proposal:
    kind: Literal["cpu", "cuda"] = "cuda" if device.startswith("cuda") else "cpu"
    overrides = {name: value for name, value in request.overrides.items() if value != "auto"}
    if request.unlearn:
        size = checkpoint.preprocess.size
        overrides["unlearned"] = tuple(
            {"family": family(trigger, size, _seed(request)), **trigger.parameters} for trigger in request.unlearn
        )
    return propose(request.method, sizes_of(checkpoint, pairs, kind), preset=request.preset, overrides=overrides)


def sizes_of(checkpoint: Checkpoint, pairs: Dataset, kind: Literal["cpu", "cuda"]) -> Sizes:
    """Return the sizes from which the settings of a cleaning follow."""
    side = max(checkpoint.preprocess.size)
    return Sizes(checkpoint.parameters, side, pairs.count, kind, pairs.drawn, checkpoint.batch_norm)


# --- with torch --------------------------------------------------------------------------------------
