"""PAR for a model in memory and the caller's own batches."""

import copy
import math
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pargate import events
from pargate.clean import losses
from pargate.clean.config import STEPS, propose
from pargate.clean.methods.base import Sizes
from pargate.clean.train.loop import optimiser
from pargate.clean.train.schedule import learning_rate
from pargate.errors import InputError, OperationalError

METHODS = ("encode_image", "encode_text", "logit_scale")


def train_par(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    tau: float,
    lr: float | None,
    steps: int | None,
    emit: events.Listener,
) -> list[dict[str, float]]:
    """Train `model` in place; see `pargate.par`."""
    missing = [name for name in METHODS if not hasattr(model, name)]
    if missing:
        raise InputError(f"the model has no {', '.join(missing)}", "give an open_clip model, or one with its methods")
    if steps is None:
        steps = max(STEPS, len(loader)) if isinstance(loader, Sized) else STEPS
    parameters = sum(parameter.numel() for parameter in model.parameters())
    wanted = {"tau": tau, "steps": steps, "lr": lr, "batch_size": 2}
    config = propose("par", Sizes(parameters, 224, None, "cpu"), overrides=wanted).config
    frozen: Any = copy.deepcopy(model).eval().requires_grad_(False)
    towers: Any = model.eval()  # keeps the stored statistics of batch normalisation, as PAR's code does
    device = next(model.parameters()).device
    trained = optimiser(model, [], config)
    log: list[dict[str, float]] = []
    for step, (images, tokens) in zip(range(steps), _endless(loader), strict=False):
        rate = learning_rate(config, step)
        for group in trained.param_groups:
            group["lr"] = rate
        images, tokens = images.to(device), tokens.to(device)
        seen = _unit(towers.encode_image(images)), _unit(towers.encode_text(tokens))
        with torch.no_grad():
            before = _unit(frozen.encode_image(images)), _unit(frozen.encode_text(tokens))
        shifts = [losses.shift(new, old) for new, old in zip(seen, before, strict=True)]
        contrastive = losses.clip(*seen, towers.logit_scale.detach().exp())
        loss = contrastive - losses.perturbation(shifts[0], shifts[1], tau)
        terms = {
            name: value.item()
            for name, value in (
                ("loss", loss), ("contrastive", contrastive), ("image_shift", shifts[0]), ("text_shift", shifts[1]),
            )
        }  # fmt: skip
        if not math.isfinite(terms["loss"]):
            raise OperationalError(f"the loss of step {step} is not finite", "use a lower lr")
        trained.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        trained.step()
        log.append({"learning_rate": rate, **terms})
        emit(events.TrainStep(step + 1, steps, rate, terms, 0.0))
    return log


def _endless(loader: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of `loader` in an endless loop.

    Raises:
        InputError: a pass over the loader yields no batch.
    """
    while True:
        batch = None
        for batch in loader:
            yield batch
        if batch is None:
            raise InputError("the loader gives no batches", "give an iterable that can be iterated again")


def _unit(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors.float(), dim=-1)
