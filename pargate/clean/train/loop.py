"""The training loop: one program for one device or many.

It knows pairs, towers and settings. It writes nothing but states, through the store it is given, and draws chance from
keys alone, so that an interrupted run goes on to the weights it would have reached.
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
"""Bound of a logarithmic logit scale that is trained (CleanCLIP's code, and CLIP's)."""

AVERAGED_FROM = 0.4
"""Share of the run after which weights are averaged: before, they are still far from where they go."""

HOPELESS = 2.0
"""A contrastive loss of so many times that of guessing, as a mean of `HOPELESS_STEPS`, is called divergence."""

HOPELESS_STEPS = 20


@dataclass(frozen=True, slots=True)
class Trained:
    """What came out of a run, besides the weights, which were trained in place."""

    log: StepLog
    moved: dict[str, Movement]
    stopped: str
    seconds: float
    """Of training, in this process."""
    earlier: float
    """Seconds of training in the parts of the run before this one."""
    images: int
    """Pairs trained on over all ranks, in this process's part of the run."""
    unreadable: int
    """Pairs whose pictures did not decode, over all ranks and parts."""


def train(
    towers: Towers,
    log_scale: nn.Parameter,
    loader: PairLoader,
    viewer: Viewer,
    config: CleanConfig,
    *,
    group: Group,
    store: StateStore,
    captions: Sequence[str] = (),
    emit: events.Listener = events.ignore,
) -> Trained:
    """Train `towers` in place, on their device, from the store's last state or from the first step.

    `log_scale` is the logarithm of the logit scale; it stays as it is unless `train_logit_scale`. `captions` are those
    by which distillation tells pictures apart.

    Raises:
        OperationalError: the loss left the numbers or diverged, or memory ran out. The last good state is kept.
    """
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
    universal = Universal.drawn(config.universal, viewer.rule.size, config.seed, device) if config.universal else None
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
                    "leave --compile out, or install what it misses, such as a C++ compiler",
                ) from error
            if not is_out_of_memory(error):
                raise
            terms = {}
        if not terms:  # not in the handler above, which holds on to what the step had allocated
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
        # What keeps the result from being written shall not cost the training; what keeps this from being written, no
        # result.
        with contextlib.suppress(OperationalError):
            store.save(config.steps, run)
        group.wait()
    run.keep_average()
    towers.use_batch_statistics(False)
    batch = loader.batch(0)  # the same pairs however the run went
    return Trained(
        run.log.frozen(), _moved(towers, before, batch, viewer, group, low), f"all {config.steps} steps were taken",
        run.seconds - earlier, earlier, images, len(group.united(run.unreadable)),
    )  # fmt: skip


def _shared(towers: Towers) -> nn.Module:
    """Towers whose gradients are averaged over all ranks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer versions of torch have another name for the option
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
    """Gradients of one step on the parameters, and what is logged of it.

    Every pair is told apart from all pairs of all ranks, however few fit into memory at a time: the loss is taken of
    embeddings alone, and its gradient on them is carried through the towers part by part. Where one part is the whole
    batch it is forwarded once; otherwise a first pass without a graph gives the embeddings (GradCache: Gao et al. 2021,
    "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup").
    """
    config, reference = viewer.config, run.reference
    views = METHODS[config.method].views
    parts = [slice(i, i + config.micro_batch) for i in range(0, len(batch.numbers), config.micro_batch)]

    def embed(part: slice, pixels: Tensor) -> Tensor:
        """[2, views, n, d]: pictures, then captions."""
        images, captions = viewer.inputs(pixels, batch, part, keys, views, run.universal)
        # A text tower that is not trained says what it said before.
        tokens = None if config.towers == "image" else viewer.tokens(captions)
        with low:
            seen, read = towers(images, tokens)
        both = torch.stack([seen, reference.captions(captions) if read is None else read])
        return both.view(2, views, -1, seen.shape[1])

    whole = len(parts) == 1
    rows, trusted = [], []
    for part in parts:
        pixels = viewer.pixels(batch, part, keys)
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
    # DDP takes the mean over ranks, and each of them has the whole gradient of its own pairs alone: their sum is meant.
    wanted = leaf.grad * group.world
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        with _no_exchange(towers, last):
            again = own if whole else embed(part, viewer.pixels(batch, part, keys))
            torch.autograd.backward(again, wanted[:, :, part])
    return {name: value.item() for name, value in {"loss": loss, **terms}.items()}


@contextlib.contextmanager
def _no_exchange(towers: nn.Module, last: bool) -> Iterator[None]:
    """Ranks exchange gradients once a step, with the last part."""
    if last or not isinstance(towers, DistributedDataParallel):
        yield
    else:
        with towers.no_sync():
            yield


@contextlib.contextmanager
def _counting(towers: nn.Module, counts: bool) -> Iterator[None]:
    """A pass that is done again leaves batch normalisation's running statistics alone."""
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

    Only tensors of two or more dimensions decay that are no bias and no norm's (PAR's code).
    """
    named = [(name, p) for name, p in towers.named_parameters() if p.requires_grad]
    decayed = [p for name, p in named if p.ndim >= 2 and not any(word in name for word in ("bias", "ln", "bn"))]
    ids = {id(p) for p in decayed}
    others = [p for _, p in named if id(p) not in ids] + list(more)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    # Fused: a step over the token embedding alone costs a quarter of what it does otherwise.
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.epsilon, fused=True)


def _refuse_nonsense(step: int, terms: dict[str, float], log: Log, config: CleanConfig, store: StateStore) -> None:
    """Stop before weights are touched by a loss that is no number, or that learns less than guessing does."""
    if not all(math.isfinite(value) for value in terms.values()):
        if step == 0 and config.precision == "fp32":  # no rate has acted yet
            raise InputError(
                "the model's own loss on these pairs is not finite",
                "look at its weights and its logit scale: nothing was learned yet that could be at fault",
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
    """A gradient that is no number breaks weights that the next loss would tell of: too late for what is kept."""
    if not all(bool(torch.isfinite(parameter).all()) for parameter in towers.parameters()):
        raise _stopped(f"the weights are not finite after step {step}", config, store)


def _stopped(why: str, config: CleanConfig, store: StateStore) -> OperationalError:
    """Why training ended early, what is left of it, and what to change: a state goes on with its own settings alone."""
    kept = f"; the state after {store.saved} steps is kept in {store.path.parent}" if store.saved else ""
    begin = f"remove {store.path.parent} and begin anew" if store.saved else "begin anew"
    exact = "" if config.precision == "fp32" else ", or with --precision fp32"
    return OperationalError(why + kept, f"{begin} with a lower rate than --lr {config.lr:g}{exact}")


def _what_fits(
    run: Running, batch: PairBatch, keys: Keys, viewer: Viewer, told: Tensor | None, low: torch.autocast
) -> str:
    """Advice for a step whose memory ran out, found by trial: the most pairs at a time that fit, a power of two."""
    size = 1 << (min(viewer.config.micro_batch, len(batch.numbers)) - 1).bit_length() >> 1
    while size:
        smaller = replace(viewer, config=viewer.config.model_copy(update={"micro_batch": size}))
        if _fits(run, batch, keys, smaller, told, low):
            return f"use --micro-batch {size}, the most that fits here: the result stays the same"
        size //= 2
    # Not that none would: an allocator that holds on to what the first attempt took can leave too little to try in.
    tried = "a much smaller --micro-batch, " if viewer.config.micro_batch > 1 else ""
    return f"nothing smaller fitted into what was left: use {tried}--checkpointing or --towers image"


def _fits(run: Running, batch: PairBatch, keys: Keys, viewer: Viewer, told: Tensor | None, low: torch.autocast) -> bool:
    """Whether there is memory for a step, and for what the optimiser is going to keep after its first."""
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
    """How far each tower is from where it began, on unaugmented pairs."""
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
