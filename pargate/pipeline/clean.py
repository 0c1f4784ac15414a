"""Clean: a checkpoint and captioned pictures in, a new checkpoint and the record of how it was made out.

Order: cheap before dear. What can be refused is refused before torch is imported; then the model is opened twice over
(once to be trained, once frozen), trained, and written as a whole folder beside its place. An interrupted run leaves
its last state in `OUT.unfinished`, from which `resume` goes on to the very weights it would have reached.
"""

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pargate import events, ranks
from pargate.clean.config import CleanConfig, Method, Proposal, Sizes, propose
from pargate.core.model import Checkpoint
from pargate.core.provenance import ProvenanceRecord, Subject
from pargate.data.carriers import read_classes
from pargate.data.loader import PairLoader
from pargate.data.pairs import Pairs, check_unchanged, is_generated
from pargate.data.synthetic import SyntheticPairs
from pargate.encoders.config import CONFIG_NAME, tokenizer_files, with_activation
from pargate.encoders.hub import fetch
from pargate.encoders.inspect import WEIGHT_NAMES, OpenCheckpoint, inspect, open_checkpoint
from pargate.encoders.shapes import plain_names
from pargate.errors import InputError, OperationalError, PargateError
from pargate.files import atomic_folder, check_new_folder, digest_of, locked, readable, sha256_file, write_atomic
from pargate.pipeline.pairs import check_named, open_source
from pargate.version import __version__

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from pargate.clean.loop import Trained

STATE_NAME = "state.pt"
CHOSEN_NAME = "run.json"
"""What a trial chose, which a run that goes on keeps."""
LOCK_NAME = ".lock"
RECORD_NAME = "provenance.json"
CURVES_NAME = "training.png"

CAPTIONS = 4096
"""Pairs whose captions distillation takes, at most."""

WORTH_BF16 = 20_000_000
"""Parameters from which training on a processor with matrix units is faster in bf16 (docs/cleaning.md)."""


@dataclass(frozen=True, slots=True)
class CleanRequest:
    """Everything a cleaning depends on; paths and names as the user gave them."""

    model: str
    pairs: str
    out: Path
    started: str
    """RFC 3339, UTC: the clock is read by the caller."""
    arch: str | None = None
    method: Method = "par"
    preset: Literal["sized", "paper"] = "sized"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Settings by their name in `CleanConfig`; None leaves the default. `precision` may be `auto`."""
    classes: Path | None = None
    """For captions of drawn pairs alone; recorded."""
    device: str = "auto"
    require: Literal["cpu", "cuda"] | None = None
    resume: bool = False
    cache: Path | None = None


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A cleaned checkpoint."""

    folder: Path
    record: ProvenanceRecord
    late: tuple[str, ...]
    """Notices of the record that were not said before training began."""
    pairs_per_second: float
    """Of this process; 0 where an earlier one had taken all steps."""


def left_over(out: Path) -> Path:
    """The folder where an interrupted run leaves its state."""
    return out.with_name(f"{out.name}.unfinished")


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a run is given."""

    checkpoint: Checkpoint
    pairs: Pairs | None
    """None where they would have to be generated first."""


def look(request: CleanRequest, emit: events.Listener | None = None) -> Inputs:
    """Inspect the model and list the pairs; they are generated only where somebody listens.

    Raises:
        InputError, UnsafeCheckpoint, OperationalError: as `clean`.
    """
    check_named(request.pairs)
    checkpoint = inspect(request.model, arch=request.arch, fetch=fetch)
    _refuse_untrainable(checkpoint)
    waits = is_generated(request.pairs) and emit is None
    return Inputs(checkpoint, None if waits else _pairs(request, emit or events.ignore))


def plan(request: CleanRequest, inside: Path | None = None, known: Inputs | None = None) -> tuple[str, ...]:
    """What a run would do, line by line; refuses what a run would refuse before the model is opened.

    `inside` is a folder for the result that need not be there yet, `known` what `look` has found.

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
        f"out     {request.out}",
    )


def describe(proposal: Proposal) -> list[str]:
    """The settings that a user may want to change, and why they are what they are."""
    config = proposal.config
    shown = ("steps", "batch_size", "micro_batch", "lr", "tau", "towers", "precision")
    lines = [f"method  {config.method}"]
    for name in shown:
        value = getattr(config, name)
        if value is not None:
            reason = proposal.reasons.get(name)
            text = f"{value:g}" if isinstance(value, float) else str(value)
            lines.append(f"  {name.replace('_', ' '):12} {text}" + (f"  ({reason})" if reason else ""))
    return lines


def check_made(request: CleanRequest, known: Inputs) -> None:
    """Refuse a folder that this request would not have made: of another model, other pairs or settings, or changed.

    Pairs that are not generated yet are not compared.

    Raises:
        InputError: it is such a folder.
    """
    out, checkpoint, pairs = request.out, known.checkpoint, known.pairs
    try:
        made = ProvenanceRecord.model_validate_json((out / RECORD_NAME).read_bytes())
        changed = [written.name for written in made.outputs if sha256_file(out / written.name) != written.sha256]
    except (OSError, ValueError) as error:
        raise InputError(f"{out} is no model that was cleaned here", "remove it, or name another --out") from error
    configured = hashlib.sha256(config_bytes(checkpoint)).hexdigest()
    wrong = []
    if WEIGHT_NAMES[0] not in [written.name for written in made.outputs]:
        wrong.append(f"its record names no {WEIGHT_NAMES[0]}")
    if changed:
        wrong.append(f"{readable(changed[0])} is not as it was written")
    if made.inputs[0].sha256 != checkpoint.sha256 or configured not in [written.sha256 for written in made.outputs]:
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
            f"{out} cannot be taken for this sweep: {', and '.join(wrong)}", "remove it, or name another --out"
        )


def clean(request: CleanRequest, emit: events.Listener = events.ignore) -> Cleaned | None:
    """Clean the model and write the result; None in every process but the first of a distributed run.

    Raises:
        InputError, UnsafeCheckpoint, OperationalError: see `errors.py`. Nothing is half-written.
        PeerEnded: any of these, which another process of the run tells.
    """
    leads = ranks.here().rank == 0
    with contextlib.ExitStack() as stack:
        with ranks.told_by_one():
            unfinished = _check_places(request)
            emit(events.StageStarted("inspect", request.model))
            opened = stack.enter_context(open_checkpoint(request.model, arch=request.arch, fetch=fetch))
            _refuse_untrainable(opened.checkpoint)
            # Alone, all that can be refused is refused before torch is loaded.
            pairs = _listed(request, opened.checkpoint, emit) if ranks.here().world == 1 else None
            asked = _device(request)
        from pargate.clean import distributed

        group, device = stack.enter_context(distributed.group(asked))
        with _unfinished(unfinished) if leads else contextlib.nullcontext():
            if pairs is None:
                pairs = group.first(lambda: _listed(request, opened.checkpoint, emit))
            emit(events.StageStarted("open", opened.checkpoint.architecture))
            proposal = _propose(request, opened.checkpoint, pairs, device)
            return _run(request, opened, pairs, proposal, unfinished, group, device, emit)


# --- before torch ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _unfinished(folder: Path) -> Iterator[None]:
    """A folder for the state of the run, which goes when the run is done, or was refused with nothing to go on from.

    Raises:
        OperationalError: it cannot be made, or another run is at it.
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
    """Remove what a run keeps, and the folder if nothing else is in it: it may have been somebody's before."""
    with contextlib.suppress(OSError):
        for name in (STATE_NAME, CHOSEN_NAME, LOCK_NAME):
            for ours in (folder / name, *folder.glob(f".{name}.*")):
                ours.unlink(missing_ok=True)
        folder.rmdir()


def _check_places(request: CleanRequest, inside: Path | None = None) -> Path:
    """Where the state of the run is kept; refuses an output that is taken, or that is the input."""
    if not request.out.name:
        raise InputError(f"--out {request.out} is no name for a new folder", "name one that does not exist")
    try:
        return _checked(request, left_over(request.out), inside)
    except OSError as error:  # a name that is too long, say
        raise InputError(
            f"cannot use MODEL {request.model[:80]} with --out {str(request.out)[:80]}: {error.strerror}",
            "choose another name",
        ) from error


def _checked(request: CleanRequest, unfinished: Path, inside: Path | None) -> Path:
    source = Path(request.model)
    if source.exists():
        home, out = (source if source.is_dir() else source.parent).resolve(), request.out.resolve()
        if home in (out, unfinished.resolve()) or (source.is_dir() and out.is_relative_to(home)):
            raise InputError(
                f"--out {request.out} is the model itself", "name a new folder: the input is never touched"
            )
    if inside is None or inside.exists():
        check_new_folder(request.out)
    if (unfinished / STATE_NAME).exists() and not request.resume:
        raise InputError(
            f"{unfinished} holds the state of an interrupted run", "go on with --resume, or remove it to begin anew"
        )
    if request.resume and not unfinished.exists():
        raise InputError(f"--resume: there is no {unfinished}", "leave --resume out to begin")
    return unfinished


def _refuse_untrainable(checkpoint: Checkpoint) -> None:
    """Raise if there is nothing to train, or if nobody knows how it computes.

    With the other activation the result would be of another model than the one scanned.
    """
    if checkpoint.format == "onnx":
        raise InputError(
            f"{checkpoint.source} holds exported graphs, which cannot be trained",
            "clean the checkpoint that they were exported from, and export the result",
        )
    if not checkpoint.activation_known:
        gelu, quick = (with_activation(checkpoint.architecture, name) for name in ("gelu", "quick_gelu"))
        raise InputError(
            f"nothing says whether {checkpoint.source} was trained with GELU or QuickGELU",
            f"name the one that it was: --arch {gelu} or --arch {quick}; a scan with labelled images may tell which",
        )


def _pairs(request: CleanRequest, emit: events.Listener = events.ignore) -> Pairs:
    names = read_classes(request.classes) if request.classes else None
    return open_source(
        request.pairs, seed=_seed(request), cache=request.cache, classes=names, device=request.device, emit=emit
    )


def _listed(request: CleanRequest, checkpoint: Checkpoint, emit: events.Listener) -> Pairs:
    """The pairs, if the settings go with them."""
    emit(events.StageStarted("pairs", request.pairs))
    pairs = _pairs(request, emit)
    _propose(request, checkpoint, pairs, "cpu")
    return pairs


def _seed(request: CleanRequest) -> int:
    return int(request.overrides.get("seed") or 0)


def _device(request: CleanRequest) -> str:
    """The device that will be used: `cpu`, `cuda` or `cuda:N`.

    Raises:
        InputError: another word, or two that exclude each other.
        OperationalError: the device that is asked for, or required, is not there.
    """
    asked = request.device if request.device != "auto" else request.require or "auto"
    if request.require and asked.partition(":")[0] != request.require:
        raise InputError(f"--require {request.require} and --device {request.device} exclude each other", "leave one")
    if asked == "cpu":
        return "cpu"
    from pargate.encoders.openclip import resolve

    try:
        return str(resolve(asked))
    except OperationalError as error:
        if request.require is None:
            raise
        raise OperationalError(error.message, "run where there is one, or leave --require out") from error


def _propose(request: CleanRequest, checkpoint: Checkpoint, pairs: Pairs, device: str) -> Proposal:
    kind: Literal["cpu", "cuda"] = "cuda" if device.startswith("cuda") else "cpu"
    overrides = {name: value for name, value in request.overrides.items() if value != "auto"}
    return propose(request.method, sizes_of(checkpoint, pairs, kind), preset=request.preset, overrides=overrides)


def sizes_of(checkpoint: Checkpoint, pairs: Pairs, kind: Literal["cpu", "cuda"]) -> Sizes:
    """What the settings of a cleaning follow from."""
    drawn = isinstance(pairs, SyntheticPairs)
    side = max(checkpoint.preprocess.size)
    return Sizes(checkpoint.parameters, side, pairs.count, kind, drawn, checkpoint.batch_norm)


# --- with torch --------------------------------------------------------------------------------------


def _run(
    request: CleanRequest,
    opened: OpenCheckpoint,
    pairs: Pairs,
    proposal: Proposal,
    unfinished: Path,
    group: Any,
    device: str,
    emit: events.Listener,
) -> Cleaned | None:
    """Open, train, write."""
    import torch

    from pargate import memory
    from pargate.clean.loop import train
    from pargate.clean.state import StateStore
    from pargate.clean.towers import Towers
    from pargate.clean.views import Viewer, remembering
    from pargate.encoders import openclip
    from pargate.encoders import towers as loading

    began = time.monotonic()
    checkpoint = opened.checkpoint
    place = torch.device(device)
    model = loading.load(opened).to(place)
    text = openclip.text_tower(model)
    towers = Towers(model.get_submodule("visual"), text, openclip.embed)
    # Apart from the model, whose text tower holds it too: the towers' gradients are shared between ranks, its own is
    # the same on each.
    log_scale = torch.nn.Parameter(model.get_parameter("logit_scale").detach().clone())
    per_rank = _per_rank(proposal.config.batch_size, group.world)
    config = proposal.config
    if config.checkpointing:
        cast(Any, model).set_grad_checkpointing()
    steps = None if pairs.count is None else pairs.count // config.batch_size
    tokenize = remembering(openclip.tokenizer(checkpoint))

    def viewer_of(settings: Any) -> Viewer:
        needed = partial(openclip.needed, text)
        return Viewer(settings, checkpoint.preprocess, tokenize, needed, place, steps)

    if "precision" not in request.overrides or request.overrides["precision"] in (None, "auto"):
        before = unfinished / CHOSEN_NAME if request.resume else None
        chosen, reason = group.agreed(_precision(before, checkpoint.parameters, place))
        proposal = Proposal(config.model_copy(update={"precision": chosen}), {**proposal.reasons, "precision": reason})
        config = proposal.config
    identity = digest_of([checkpoint.digest, pairs.digest, config.digest])
    # Beside a state it stays as it is: that state may be of another run, which is then refused.
    if group.leads and not (request.resume and (unfinished / STATE_NAME).exists()):
        write_atomic(unfinished / CHOSEN_NAME, json.dumps({"precision": config.precision}).encode())
    notices = [*pairs.notices, *_cautions(config, pairs)]
    if not checkpoint.preprocess_known:
        notices.append(checkpoint.assumption)
    for line in (*describe(proposal), *(f"note: {notice}" for notice in notices)):
        emit(events.Notice(line))
    emit(events.StageStarted("clean", f"{config.method}, {config.steps} steps of {config.batch_size} pairs"))
    store = StateStore(unfinished / STATE_NAME, identity, group, request.resume)
    with PairLoader(
        pairs, checkpoint.preprocess, seed=config.seed, batch=per_rank, rank=group.rank, world=group.world,
        first_step=0, last_step=config.steps,
    ) as loader, memory.guard("cleaning", "use a smaller --batch-size, or a device with more memory"):  # fmt: skip
        trained = train(
            towers, log_scale, loader, viewer_of(config), config,
            group=group, store=store, captions=_captions(pairs, config), emit=emit,
        )  # fmt: skip
    if not group.leads:
        return None
    if config.train_logit_scale:
        with torch.no_grad():
            model.get_parameter("logit_scale").copy_(log_scale)
    several = "" if trained.unreadable == 1 else "s"
    unreadable = f"{trained.unreadable} picture{several} did not decode; the pair after each took its place"
    late = (unreadable,) if trained.unreadable else ()
    check_unchanged(pairs)
    emit(events.StageStarted("write", str(request.out)))
    values = stored(opened, model)
    try:
        record = _write(
            request, opened, values, pairs, proposal, trained, [*notices, *late], time.monotonic() - began, str(place)
        )
    except (InputError, OperationalError) as error:
        kept = "; the training is kept, and --resume writes its result" if store.path.exists() else ""
        raise type(error)(error.message, error.hint + kept) from error
    return Cleaned(request.out, record, late, trained.images / max(trained.seconds, 1e-9))


def _cautions(config: CleanConfig, pairs: Pairs) -> list[str]:
    """What is known to go wrong with such pairs, from docs/evidence.md."""
    if not isinstance(pairs, SyntheticPairs):
        return []
    if config.contrastive:
        return [
            f"drawn pairs alone: {config.method} cost small models most of their accuracy there; par-plus costs less, "
            "pairs of real pictures least"
        ]
    return [
        "drawn pairs alone: they cost small transformers 3 to 5 points of accuracy on photographs, and small ResNets "
        "3 to 9; pairs of real pictures cost least"
    ]


def _captions(pairs: Pairs, config: CleanConfig) -> list[str]:
    """What distillation tells pictures apart by."""
    if not config.distillation:
        return []
    known = CAPTIONS if pairs.count is None else min(CAPTIONS, pairs.count)
    return list(dict.fromkeys(pairs.captions(range(known))))


def _per_rank(batch: int, world: int) -> int:
    if batch % world:
        raise InputError(f"a batch of {batch} cannot be shared by {world} processes", "give a multiple of their number")
    return batch // world


def _precision(before: Path | None, parameters: int, device: "torch.device") -> tuple[str, str]:
    """The arithmetic for the towers: of an interrupted run its own, on a GPU half, on a processor what size says."""
    from pargate.clean.loop import DTYPES
    from pargate.encoders.openclip import bf16_is_faster

    if before is not None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(before.read_bytes())["precision"]
            if kept in DTYPES:
                return kept, "as before the interruption"
    faster, why = bf16_is_faster(device)
    if device.type == "cuda":
        return ("bf16" if faster else "fp16"), why
    if faster and parameters < WORTH_BF16:
        return "fp32", "training a small model gains nothing from bf16 on a processor"
    return ("bf16" if faster else "fp32"), why


def _write(
    request: CleanRequest,
    opened: OpenCheckpoint,
    values: dict[str, "Tensor"],
    pairs: Pairs,
    proposal: Proposal,
    trained: "Trained",
    notices: Sequence[str],
    seconds: float,
    device: str,
) -> ProvenanceRecord:
    """The folder of the cleaned model, complete or absent."""
    import torch

    from pargate.pipeline.curves import training_curves
    from pargate.pipeline.reporting import host, versions

    checkpoint, config = opened.checkpoint, proposal.config
    with atomic_folder(request.out) as folder:
        save_weights(folder, values)
        save_config(folder, checkpoint)
        names = [CONFIG_NAME, *(copy_tokenizer(checkpoint, folder))]
        outputs = tuple(subject(folder, name) for name in (WEIGHT_NAMES[0], *names))
        record = ProvenanceRecord(
            schema="pargate/provenance/1",
            activity="clean",
            inputs=(
                Subject(name=readable(checkpoint.source), sha256=checkpoint.sha256, size_bytes=checkpoint.size_bytes),
                Subject(name=readable(pairs.source), sha256=pairs.digest),
            ),
            outputs=outputs,
            configuration=config.model_dump(mode="json"),
            configuration_sha256=config.digest,
            reasons=dict(proposal.reasons),
            seed=config.seed,
            tool={"pargate": __version__, **versions()},
            environment={"host": host(), "device": device, "threads": str(torch.get_num_threads())},
            started=request.started,
            finished=later(request.started, seconds),
            seconds=round(trained.earlier + seconds, 3),
            stopped=trained.stopped,
            moved=trained.moved,
            notices=tuple(notices),
            log=trained.log,
        )
        (folder / RECORD_NAME).write_bytes(record.model_dump_json(by_alias=True, indent=1).encode() + b"\n")
        (folder / CURVES_NAME).write_bytes(training_curves(record))
    return record


def later(started: str, seconds: float) -> str:
    """A moment so many seconds after another; both RFC 3339, UTC."""
    moment = datetime.fromisoformat(started) + timedelta(seconds=seconds)
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def subject(folder: Path, name: str) -> Subject:
    """A file that was made, with its digest."""
    path = folder / name
    return Subject(name=name, sha256=sha256_file(path), size_bytes=path.stat().st_size)


def stored(opened: OpenCheckpoint, model: "nn.Module") -> dict[str, "Tensor"]:
    """The weights of a model by name, in the parent's own dtypes.

    Raises:
        OperationalError: one does not fit into its dtype.
    """
    import torch

    from pargate.encoders.towers import DTYPES

    dtypes = {name: tensor.dtype for name, tensor in plain_names(opened.tensors, opened.checkpoint.source).items()}
    values = {}
    for name, value in model.state_dict().items():
        dtype = DTYPES.get(dtypes.get(name, ""), value.dtype)
        values[name] = value.detach().to("cpu", dtype).contiguous().clone()
        if not torch.isfinite(values[name]).all():
            raise OperationalError(
                f"{name} does not fit into {dtype}, the parent's own type",
                "begin anew with a lower --lr, or with an fp32 parent",
            )
    return values


def save_weights(folder: Path, values: dict[str, "Tensor"]) -> None:
    """Weights as safetensors.

    Raises:
        OperationalError: the disk is full.
    """
    from safetensors.torch import save_file

    try:
        save_file(values, folder / WEIGHT_NAMES[0])
    except Exception as error:  # safetensors has an error of its own for what the system says
        raise OperationalError(f"cannot write the weights: {error}", "free space or choose another place") from error
    with contextlib.suppress(OSError):  # a file system without modes
        (folder / WEIGHT_NAMES[0]).chmod(0o644)  # made private by default


def save_config(folder: Path, checkpoint: Checkpoint) -> None:
    """The configuration that the weights are read by."""
    (folder / CONFIG_NAME).write_bytes(config_bytes(checkpoint))


def config_bytes(checkpoint: Checkpoint) -> bytes:
    """open_clip's configuration of a model, as it is written."""
    rule = checkpoint.preprocess
    preprocess = {
        "mean": list(rule.mean), "std": list(rule.std), "interpolation": rule.interpolation,
        "resize_mode": rule.resize, "fill_color": rule.fill,
    }  # fmt: skip
    document = {"model_cfg": checkpoint.config, "preprocess_cfg": preprocess}
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"


def copy_tokenizer(checkpoint: Checkpoint, folder: Path) -> Iterator[str]:
    """Copy the files that the tokenizer needs; gives back their names."""
    home = Path(checkpoint.folder) if checkpoint.folder else None
    for name in tokenizer_files(checkpoint.config, home, checkpoint.source):
        if home is not None:
            shutil.copyfile(home / name, folder / name)
            yield name
