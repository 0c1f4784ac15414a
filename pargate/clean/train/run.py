"""Open a model, train it on image-text pairs, and write the result."""

import contextlib
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from pargate import events, memory
from pargate.clean.config import CleanConfig, Proposal
from pargate.clean.methods.base import METHODS
from pargate.clean.request import (
    CHOSEN_NAME,
    CURVES_NAME,
    RECORD_NAME,
    STATE_NAME,
    Cleaned,
    CleanRequest,
    describe,
    given,
    later,
)
from pargate.clean.train.distributed import Group
from pargate.clean.train.loop import DTYPES, Trained, train
from pargate.clean.train.state import StateStore
from pargate.clean.train.towers import Towers
from pargate.clean.train.views import Viewer, remembering
from pargate.core.environment import host, versions
from pargate.core.model import Checkpoint
from pargate.core.provenance import ProvenanceRecord, Subject
from pargate.errors import InputError, OperationalError
from pargate.files import atomic_folder, digest_of, readable, write_atomic
from pargate.images.dataset import Dataset, check_unchanged
from pargate.images.prefetch import BatchOrder, PairLoader
from pargate.models.model import Model
from pargate.models.torch import encoder
from pargate.models.torch.save import stored_types
from pargate.report.curves import training_curves
from pargate.version import __version__

CAPTIONS = 4096
"""Largest number of pairs whose captions distillation uses."""

WORTH_BF16 = 20_000_000
"""Number of parameters from which training on a CPU with matrix units is faster in bf16 (docs/cleaning.md)."""


def run(
    request: CleanRequest,
    opened: Model,
    pairs: Dataset,
    proposal: Proposal,
    unfinished: Path,
    group: Group,
    device: str,
    emit: events.Listener,
) -> Cleaned | None:
    """Open the model, train it and write the result; return None in every process but the first."""
    began = time.monotonic()
    checkpoint = opened.checkpoint
    place = torch.device(device)
    model = opened.network().to(place)
    text = encoder.text_tower(model)
    towers = Towers(model.get_submodule("visual"), text, encoder.embed)
    # A copy, since DDP averages the gradients of the towers, and the text tower may hold the logit scale.
    log_scale = torch.nn.Parameter(model.get_parameter("logit_scale").detach().clone())
    per_rank = _per_rank(proposal.config.batch_size, group.world)
    config = proposal.config
    if config.checkpointing:
        cast(Any, model).set_grad_checkpointing()
    steps = None if pairs.count is None else pairs.count // config.batch_size
    tokenize = remembering(encoder.tokenizer(checkpoint))

    if "precision" not in request.overrides or request.overrides["precision"] in (None, "auto"):
        before = unfinished / CHOSEN_NAME if request.resume else None
        chosen, reason = group.agreed(_precision(before, checkpoint.parameters, place))
        proposal = Proposal(config.model_copy(update={"precision": chosen}), {**proposal.reasons, "precision": reason})
        config = proposal.config
    identity = digest_of([checkpoint.digest, pairs.digest, config.digest])
    # The file beside an existing state is kept: it may belong to another run, which is then refused.
    if group.leads and not (request.resume and (unfinished / STATE_NAME).exists()):
        write_atomic(unfinished / CHOSEN_NAME, json.dumps({"precision": config.precision}).encode())
    notices = [*pairs.notices, *_cautions(config, pairs), *_told(request)]
    if not checkpoint.preprocess_known:
        notices.append(checkpoint.assumption)
    for line in (*describe(proposal), *(f"note: {notice}" for notice in notices)):
        emit(events.Notice(line))
    emit(events.StageStarted("clean", f"{config.method}, {config.steps} steps of {config.batch_size} pairs"))
    store = StateStore(unfinished / STATE_NAME, identity, group, request.resume)
    with PairLoader(
        pairs, checkpoint.preprocess, BatchOrder(pairs.count, config.seed, per_rank, group.world), range(config.steps),
        rank=group.rank,
    ) as loader, memory.guard("cleaning", "use a smaller --batch-size, or a device with more memory"):  # fmt: skip
        needed = partial(encoder.needed, text)
        viewer = Viewer(config, checkpoint.preprocess, tokenize, needed, place, steps, request.unlearn)
        captions = _captions(pairs, config)
        trained = train(towers, log_scale, loader, viewer, group=group, store=store, captions=captions, emit=emit)
    if not group.leads:
        return None
    if config.train_logit_scale:
        with torch.no_grad():
            model.get_parameter("logit_scale").copy_(log_scale)
    several = "" if trained.unreadable == 1 else "s"
    unreadable = f"{trained.unreadable} image{several} could not be decoded; the next pair replaced each"
    late = (unreadable,) if trained.unreadable else ()
    check_unchanged(pairs)
    emit(events.StageStarted("write", str(request.out)))
    stored_types(model, opened.dtypes)  # before writing: --resume would not help here
    record = _record(
        request, checkpoint, pairs, proposal, trained, [*notices, *late], time.monotonic() - began, str(place)
    )
    try:
        record = _write(request, opened, model, record)
    except (InputError, OperationalError) as error:
        kept = "; the training is kept, and --resume writes its result" if store.path.exists() else ""
        raise type(error)(error.message, error.hint + kept) from error
    return Cleaned(request.out, record, late, trained.images / max(trained.seconds, 1e-9))


def _cautions(config: CleanConfig, pairs: Dataset) -> list[str]:
    """Return notices about the known effects of such pairs (docs/evidence.md)."""
    if not pairs.drawn:
        return []
    if config.contrastive:
        return [
            f"drawn pairs alone: {config.method} cost small models most of their accuracy there; par-plus costs less, "
            "pairs of real images least"
        ]
    return [
        "drawn pairs alone: they cost small transformers 3 to 5 points of accuracy on photographs, and small ResNets "
        "3 to 9; pairs of real images cost least"
    ]


def _told(request: CleanRequest) -> list[str]:
    """Return a notice that the cleaning knew a trigger, if it did."""
    names = ", ".join(trigger.label for trigger in request.unlearn)
    return [f"not blind: it was given to unlearn {names}; scan for other triggers too"] if names else []


def _captions(pairs: Dataset, config: CleanConfig) -> list[str]:
    """Return the captions by which distillation compares images."""
    if not config.distillation:
        return []
    known = CAPTIONS if pairs.count is None else min(CAPTIONS, pairs.count)
    return list(dict.fromkeys(pairs.captions(range(known))))


def _per_rank(batch: int, world: int) -> int:
    if batch % world:
        raise InputError(f"a batch of {batch} cannot be shared by {world} processes", "give a multiple of their number")
    return batch // world


def _precision(before: Path | None, parameters: int, device: torch.device) -> tuple[str, str]:
    """Return the precision of the towers and its reason: that of an interrupted run, or by device and size."""
    if before is not None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(before.read_bytes())["precision"]
            if kept in DTYPES:
                return kept, "as before the interruption"
    faster, why = encoder.bf16_is_faster(device)
    if device.type == "cuda":
        return ("bf16" if faster else "fp16"), why
    if faster and parameters < WORTH_BF16:
        return "fp32", "training a small model is not faster in bf16 on a CPU"
    return ("bf16" if faster else "fp32"), why


def _record(
    request: CleanRequest,
    checkpoint: Checkpoint,
    pairs: Dataset,
    proposal: Proposal,
    trained: Trained,
    notices: Sequence[str],
    seconds: float,
    device: str,
) -> ProvenanceRecord:
    """Return the record of the run, without outputs."""
    config = proposal.config
    return ProvenanceRecord(
        schema="pargate/provenance/1",
        activity="clean",
        inputs=(
            Subject(name=readable(checkpoint.source), sha256=checkpoint.sha256, size_bytes=checkpoint.size_bytes),
            *given(request.unlearn),
            Subject(name=readable(pairs.source), sha256=pairs.digest),
        ),
        outputs=(),
        configuration=config.model_dump(mode="json"),
        configuration_sha256=config.digest,
        reasons=dict(proposal.reasons),
        seed=config.seed,
        tool={"pargate": __version__, **versions(METHODS.plugins({config.method}))},
        environment={"host": host(), "device": device, "threads": str(torch.get_num_threads())},
        started=request.started,
        finished=later(request.started, seconds),
        seconds=round(trained.earlier + seconds, 3),
        stopped=trained.stopped,
        moved=trained.moved,
        notices=tuple(notices),
        log=trained.log,
    )


def _write(
    request: CleanRequest, opened: Model, network: torch.nn.Module, record: ProvenanceRecord
) -> ProvenanceRecord:
    """Write the folder of the cleaned model, complete or not at all; return the record with the written files."""
    with atomic_folder(request.out) as folder:
        record = record.model_copy(update={"outputs": opened.save(folder, network, request.layout)})
        (folder / RECORD_NAME).write_bytes(record.model_dump_json(by_alias=True, indent=1).encode() + b"\n")
        (folder / CURVES_NAME).write_text(training_curves(record), encoding="utf-8", newline="\n")
    return record
