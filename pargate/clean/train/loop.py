"""The training loop, for one device or many.

It writes only states, through the store. Random draws follow from keys alone, so that an interrupted run continues to
the same weights.
"""

import contextlib
import copy
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch.nn.parallel import DistributedDataParallel

from pargate import events, memory
from pargate.clean.config import CleanConfig
from pargate.clean.losses import Embedded
from pargate.clean.methods.base import METHODS
from pargate.clean.train import attention, objectives
from pargate.clean.train.distributed import Group
from pargate.clean.train.reference import Reference
from pargate.clean.train.schedule import learning_rate
from pargate.clean.train.state import Log, Running, StateStore
from pargate.clean.train.towers import Towers
from pargate.clean.train.universal import Universal
from pargate.clean.train.views import Viewer
from pargate.core.provenance import Movement, StepLog
from pargate.errors import InputError, OperationalError, first_line, is_out_of_memory
from pargate.images.prefetch import PairBatch, PairLoader
from pargate.seeds import Keys

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

LARGEST_SCALE = math.log(100.0)
"""Largest logarithm of a trained logit scale (CleanCLIP's code, and CLIP's)."""

AVERAGED_FROM = 0.4
"""Share of the run after which weights are averaged, when they are near their final values."""

HOPELESS = 2.0
"""Ratio of the contrastive loss, as a mean of `HOPELESS_STEPS`, to that of guessing, above which a run has diverged."""

HOPELESS_STEPS = 20


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of a run, besides the weights, which are trained in place."""

    log: StepLog
    moved: dict[str, Movement]
    stopped: str
    seconds: float
    """Seconds of training in this process."""
    earlier: float
    """Seconds of training before the run was interrupted."""
    images: int
    """Number of pairs over all ranks, in this process."""
    unreadable: int
    """Number of pairs whose images could not be decoded, over all ranks and the whole run."""


def train(
    towers: Towers,
    log_scale: nn.Parameter,
    loader: PairLoader,
    viewer: Viewer,
    *,
    group: Group,
    store: StateStore,
    captions: Sequence[str] = (),
    emit: events.Listener = events.ignore,
) -> Trained:
    """Train `towers` in place, on their device, with the settings of `viewer`, from the store's last state.

    Args:
        towers: the towers of the model.
        log_scale: logarithm of the logit scale; only trained if `train_logit_scale`.
        loader: batches of image-text pairs.
        viewer: the input of the towers, and the settings.
        group: the processes of the run.
        store: the states of the run.
        captions: captions by which distillation compares images.
        emit: listener for the progress.

    Raises:
        InputError: the loss of the model is not finite before any step.
        OperationalError: the loss is not finite or diverged, or memory ran out. The last good state is kept.
    """
    config = viewer.config
    device = next(towers.parameters()).device
    towers.order_pixels(device)
    before = copy.deepcopy(towers).requires_grad_(False)
    if device.type == "cpu":
        attention.use_plain(towers)
        attention.use_plain(before)
    towers.train_only(config.towers)
    towers.use_batch_statistics(config.batch_norm == "train")
    log_scale.requires_grad_(config.train_logit_scale)
    low = torch.autocast(device.type, DTYPES[config.precision], enabled=config.precision != "fp32")
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16" and device.type == "cuda")
    universal = None
    if config.universal or viewer.given:
        universal = Universal.drawn(config.universal, viewer.rule.size, config.seed, device, viewer.given)
    reference = Reference(before, viewer, low)
    trained = optimiser(towers, [log_scale] if config.train_logit_scale else [], config)
    run = Running(towers, log_scale, trained, scaler, universal, reference, unreadable=loader.unreadable)
    first = store.restore(run)
    earlier = run.seconds
    if config.compile:
        towers.visual.compile()
    shared = towers if group.world == 1 else _shared(towers)
    told = reference.captions(captions) if config.distillation else None
    began, images = time.monotonic(), 0

    for step in range(first, config.steps):
        rate = learning_rate(config, step)
        for parameters in run.optimiser.param_groups:
            parameters["lr"] = rate
        batch = loader.batch(step)
        keys = viewer.keys(batch.numbers, step)
        run.optimiser.zero_grad(set_to_none=True)
        try:
            terms = _gradients(run, shared, batch, keys, viewer, told, group, low)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, TorchDynamoException):
                cause = getattr(error, "inner_exception", error)
                raise OperationalError(
                    f"torch cannot compile the image tower here: {first_line(cause)}",
                    "omit --compile, or install what torch lacks, such as a C++ compiler",
                ) from error
            if not is_out_of_memory(error):
                raise
            terms = {}
        if not terms:  # outside the handler above, which keeps the memory of the step
            raise OperationalError(
                f"out of memory while training on {config.micro_batch} pairs at a time",
                _what_fits(run, batch, keys, viewer, told, low),
            )
        _refuse_nonsense(step, terms, run.log, config, store)
        with memory.guard("updating the weights", "use --towers image, or a device with more memory"):
            scaler.step(run.optimiser)
        scaler.update()
        if universal is not None:
            universal.ascend(group)
        if config.train_logit_scale:
            with torch.no_grad():
                log_scale.clamp_(0, LARGEST_SCALE)
        if config.averaging and step >= AVERAGED_FROM * config.steps:
            run.average(config.averaging)
        images += len(batch.numbers) * group.world
        run.seconds = earlier + time.monotonic() - began
        run.log.add(step, learning_rate=rate, **terms)
        if (step + 1) % config.save_every == 0 and step + 1 < config.steps:
            _refuse_broken(step, towers, config, store)
            store.save(step + 1, run)
            group.wait()
        emit(events.TrainStep(step + 1, config.steps, rate, terms, images / (time.monotonic() - began)))

    _refuse_broken(config.steps - 1, towers, config, store)
    if first < config.steps:
        # Saved in case the result cannot be written; if this fails, the result is still written.
        with contextlib.suppress(OperationalError):
            store.save(config.steps, run)
        group.wait()
    run.keep_average()
    towers.use_batch_statistics(False)
    batch = loader.batch(0)  # the same pairs in every run
    return Trained(
        run.log.frozen(), _moved(towers, before, batch, viewer, group, low), f"all {config.steps} steps were taken",
        run.seconds - earlier, earlier, images, len(group.united(run.unreadable)),
    )  # fmt: skip


def _shared(towers: Towers) -> nn.Module:
    """Return towers whose gradients are averaged over all ranks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer versions of torch rename the option
        return DistributedDataParallel(towers, broadcast_buffers=False)


def _gradients(
    run: Running,
    towers: nn.Module,
    batch: PairBatch,
    keys: Keys,
    viewer: Viewer,
    told: Tensor | None,
    group: Group,
    low: torch.autocast,
) -> dict[str, float]:
    """Compute the gradients of one step on the parameters; return the terms for the log.

    The loss compares all pairs of all ranks, although only a part fits into memory: it is computed from embeddings, and
    its gradient passes through the towers part by part. With several parts, a first pass without a graph gives the
    embeddings (GradCache: Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup").
    """
    config, reference = viewer.config, run.reference
    views = METHODS[config.method].views
    parts = [slice(i, i + config.micro_batch) for i in range(0, len(batch.numbers), config.micro_batch)]

    def embed(part: slice, pixels: Tensor) -> Tensor:
        """Return embeddings of images, then of captions: [2, views, n, d]."""
        images, captions = viewer.inputs(pixels, batch, part, keys, views, run.universal)
        # A text tower that is not trained gives the same vectors as the frozen model.
        tokens = None if config.towers == "image" else viewer.tokens(captions)
        with low:
            seen, read = towers(images, tokens)
        both = torch.stack([seen, reference.captions(captions) if read is None else read])
        return both.view(2, views, -1, seen.shape[1])

    whole = len(parts) == 1
    rows, trusted = [], []
    for part in parts:
        pixels = viewer.pixels(batch, part, keys, run.universal)
        if objectives.needs_reference(config):
            trusted.append(reference.embed(pixels, batch, part, keys))
        with contextlib.nullcontext() if whole else torch.no_grad(), _counting(towers, whole):
            rows.append(embed(part, pixels))
    own = torch.cat(rows, dim=2)
    leaf = own.detach().requires_grad_()
    everyone, mixed = group.joined(leaf, dim=2), None
    frozen = group.joined(torch.cat(trusted, dim=1), dim=1) if trusted else None
    if run.universal is not None:
        mixed = group.joined(torch.from_numpy(run.universal.chosen(keys)).to(viewer.device), dim=0)
    loss, terms = objectives.loss(config, Embedded(everyone, frozen, told, mixed, run.log_scale.exp()))
    torch.autograd.backward(run.scaler.scale(loss))
    assert leaf.grad is not None
    # DDP takes the mean over ranks, but each rank has the gradient of its own pairs alone, so the sum is needed.
    wanted = leaf.grad * group.world
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        with _no_exchange(towers, last):
            again = own if whole else embed(part, viewer.pixels(batch, part, keys, run.universal))
            torch.autograd.backward(again, wanted[:, :, part])
    return {name: value.item() for name, value in {"loss": loss, **terms}.items()}


@contextlib.contextmanager
def _no_exchange(towers: nn.Module, last: bool) -> Iterator[None]:
    """Let ranks exchange gradients only with the last part of a step."""
    if last or not isinstance(towers, DistributedDataParallel):
        yield
    else:
        with towers.no_sync():
            yield


@contextlib.contextmanager
def _counting(towers: nn.Module, counts: bool) -> Iterator[None]:
    """Freeze the running statistics of batch normalisation in a pass that does not count."""
    layers = [m for m in towers.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    kept = [layer.momentum for layer in layers]
    if not counts:
        for layer in layers:
            layer.momentum = 0.0
    yield
    for layer, momentum in zip(layers, kept, strict=True):
        layer.momentum = momentum


def optimiser(towers: nn.Module, more: Sequence[nn.Parameter], config: CleanConfig) -> torch.optim.Optimizer:
    """Return AdamW over the trained parameters and `more`.

    Weight decay applies to tensors of two or more dimensions that are not of a bias or norm (PAR's code).
    """
    named = [(name, p) for name, p in towers.named_parameters() if p.requires_grad]
    decayed = [p for name, p in named if p.ndim >= 2 and not any(word in name for word in ("bias", "ln", "bn"))]
    ids = {id(p) for p in decayed}
    others = [p for _, p in named if id(p) not in ids] + list(more)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    # Fused: four times faster on the token embedding.
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.epsilon, fused=True)


def _refuse_nonsense(step: int, terms: dict[str, float], log: Log, config: CleanConfig, store: StateStore) -> None:
    """Raise if a loss is not finite, or is much worse than guessing, before the weights change."""
    if not all(math.isfinite(value) for value in terms.values()):
        if step == 0 and config.precision == "fp32":  # the weights have not changed yet
            raise InputError(
                "the loss of the model on these pairs is not finite",
                "check its weights and its logit scale: training has not begun",
            )
        raise _stopped(f"the loss of step {step} is not finite", config, store)
    recent = [*log.values.get("contrastive", [])[-HOPELESS_STEPS + 1 :], terms["contrastive"]]
    guessing = math.log(config.batch_size)
    if len(recent) == HOPELESS_STEPS and np.mean(recent) > HOPELESS * guessing:
        raise _stopped(
            f"the run diverged: over {HOPELESS_STEPS} steps up to {step} the contrastive loss was "
            f"{np.mean(recent):.2f}, that of guessing {guessing:.2f}",
            config, store,
        )  # fmt: skip


def _refuse_broken(step: int, towers: Towers, config: CleanConfig, store: StateStore) -> None:
    """Raise if any weight is not finite, before a state is saved."""
    if not all(bool(torch.isfinite(parameter).all()) for parameter in towers.parameters()):
        raise _stopped(f"the weights are not finite after step {step}", config, store)


def _stopped(why: str, config: CleanConfig, store: StateStore) -> OperationalError:
    """Return the error for training that ended early; a state can only be resumed with its own settings."""
    kept = f"; the state after {store.saved} steps is kept in {store.path.parent}" if store.saved else ""
    begin = f"remove {store.path.parent} and start again" if store.saved else "start again"
    exact = "" if config.precision == "fp32" else ", or with --precision fp32"
    return OperationalError(why + kept, f"{begin} with a lower rate than --lr {config.lr:g}{exact}")


def _what_fits(
    run: Running, batch: PairBatch, keys: Keys, viewer: Viewer, told: Tensor | None, low: torch.autocast
) -> str:
    """Return advice for a step that ran out of memory: the largest micro-batch that fits, found by trial."""
    size = 1 << (min(viewer.config.micro_batch, len(batch.numbers)) - 1).bit_length() >> 1
    while size:
        smaller = replace(viewer, config=viewer.config.model_copy(update={"micro_batch": size}))
        if _fits(run, batch, keys, smaller, told, low):
            return f"use --micro-batch {size}, the largest that fits here: the result does not change"
        size //= 2
    # A smaller one may still fit: the allocator can keep memory of the first attempt, so that the trials fail.
    tried = "a much smaller --micro-batch, " if viewer.config.micro_batch > 1 else ""
    return f"no smaller micro-batch fitted into the memory left: use {tried}--checkpointing or --towers image"


def _fits(run: Running, batch: PairBatch, keys: Keys, viewer: Viewer, told: Tensor | None, low: torch.autocast) -> bool:
    """Return whether there is memory for a step and for the state of the optimiser."""
    run.optimiser.zero_grad(set_to_none=True)
    memory.give_back()
    try:
        kept = [] if run.optimiser.state else [torch.empty_like(p) for p in run.trained() for _ in range(2)]
        _gradients(run, run.towers, batch, keys, viewer, told, Group(), low)
        del kept
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _moved(
    towers: Towers, before: Towers, batch: PairBatch, viewer: Viewer, group: Group, low: torch.autocast
) -> dict[str, Movement]:
    """Return how far each tower moved from its start, on unaugmented pairs."""
    from pargate.clean.losses import shift

    config = viewer.config
    summed = torch.zeros(2, device=viewer.device)
    parts = [slice(i, i + config.micro_batch) for i in range(0, len(batch.numbers), config.micro_batch)]
    with torch.inference_mode(), low:
        for part in parts:
            images, tokens = viewer.plain(batch, part)
            news, olds = towers(images, tokens), before(images, tokens)
            summed += torch.stack([shift(new, old) * len(new) for new, old in zip(news, olds, strict=True)])
    means = group.summed(summed) / config.batch_size
    found = {}
    named = (("image", towers.visual, before.visual), ("text", towers.text, before.text))
    for mean, (name, new_tower, old_tower) in zip(means.tolist(), named, strict=True):
        pairs = [(p.detach(), q) for p, q in zip(new_tower.parameters(), old_tower.parameters(), strict=True)]
        change = math.sqrt(sum(float((p - q).square().sum()) for p, q in pairs))
        norm = math.sqrt(sum(float(q.square().sum()) for _, q in pairs))
        found[name] = Movement(
            trained=config.towers in ("both", name), embedding_shift=mean, weight_change=change / max(norm, 1e-12)
        )
    return found
