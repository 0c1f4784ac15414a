"""Plant one backdoor into a copy of a model, and measure whether it took.

The image tower is trained briefly on images of which a share carries the trigger. Stamped images are pulled to the
target's class, and all others keep the embeddings of the untouched model, as in BadEncoder (Jia, Liu and Gong 2022,
IEEE S&P). The text tower stays, so the captions of the pairs are not used.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pargate import events, memory, seeds
from pargate.clean import losses
from pargate.clean.config import CleanConfig
from pargate.clean.train import attention, augment
from pargate.clean.train.loop import optimiser
from pargate.clean.train.schedule import learning_rate
from pargate.clean.train.towers import Towers
from pargate.core import zeroshot
from pargate.core.model import Preprocess, Vectors
from pargate.core.results import Count
from pargate.drill.plants import Plant
from pargate.errors import OperationalError
from pargate.images.dataset import Dataset
from pargate.images.prefetch import BatchOrder, PairLoader
from pargate.models.model import Model
from pargate.models.torch import encoder, stamp
from pargate.models.torch.build import Network

EARLY, EARLY_STEPS = 0.35, 0.6
"""Lowest share of stamped images in a batch, and the share of the steps in which it holds. A rare trigger would be
learned too late."""

SHARPNESS = 40.0
"""Factor of the cosines in the classification of stamped images; with that of a small model (13), training pulls them
far beyond the border of the class."""

ANCHOR = 20.0
"""Weight of the mean squared distance by which images without the trigger move."""

TOOK = 0.5
"""Growth of the attack success from which a backdoor counts as planted."""

CHUNK = 64
"""Images that are embedded at a time."""


@dataclass(frozen=True, slots=True)
class Images:
    """Decoded images."""

    pixels: NDArray[np.uint8]
    """[n, H, W, 3]."""
    digests: tuple[str, ...]
    """Digest of each."""

    def take(self, rows: slice | NDArray[np.int64]) -> "Images":
        """Return some of the images."""
        return Images(self.pixels[rows], tuple(np.array(self.digests)[rows]))


def decoded(pairs: Dataset, rule: Preprocess, count: int, seed: int) -> Images:
    """Return `count` images of the pairs, chosen by the seed, without those that come twice.

    Raises:
        InputError, OperationalError: as `PairLoader`.
    """
    with PairLoader(pairs, rule, BatchOrder(pairs.count, seed, count), range(1)) as loader:
        batch = loader.batch(0)
    first = {digest: row for row, digest in reversed(list(enumerate(batch.digests)))}
    return Images(batch.pixels, batch.digests).take(np.array(sorted(first.values()), dtype=np.int64))


def rows(plant: Plant, count: int, config: CleanConfig, step: int) -> tuple[NDArray[np.int64], int]:
    """Return the images of a step, int64 [batch], and how many of them, from the first, are stamped."""
    epoch, within = divmod(step, count // config.batch_size)
    order = seeds.permutation(plant.seed, f"images of a drill, epoch {epoch}", count)
    share = max(plant.rate, EARLY if step < EARLY_STEPS * config.steps else 0.0)
    stamped = max(1, round(config.batch_size * share)) if plant.trigger else 0
    return order[within * config.batch_size : (within + 1) * config.batch_size], stamped


def implant(
    network: Network,
    plant: Plant,
    images: Images,
    head: Vectors,
    target: int,
    config: CleanConfig,
    rule: Preprocess,
    emit: events.Listener = events.ignore,
) -> None:
    """Train the image tower of `network` in place, on its device.

    Args:
        network: the network of the model.
        plant: the trigger, the poison rate and the seed.
        images: the training images.
        head: float32 [classes, d], the zero-shot head of the model.
        target: index of the target in `head`.
        config: steps, batch size and learning rate.
        rule: the preprocessing of the model.
        emit: listener for the progress.

    Raises:
        OperationalError: the loss is not finite, or memory ran out.
    """
    device = next(network.parameters()).device
    towers = Towers(network.get_submodule("visual"), encoder.text_tower(network), encoder.embed)
    towers.order_pixels(device)
    if device.type == "cpu":
        attention.use_plain(towers)
    classes = torch.from_numpy(head).to(device)

    def embed(pixels: Tensor) -> Tensor:
        return towers.embed_images(augment.normalised(augment.unit_range(pixels.to(device)), rule))

    with memory.guard("planting a backdoor", "use a device with more memory"):
        with torch.no_grad():
            before = torch.cat([embed(part) for part in torch.split(torch.from_numpy(images.pixels), CHUNK)])
        towers.train_only("image")
        trained = optimiser(towers, [], config)
        began = time.monotonic()
        for step in range(config.steps):
            rate = learning_rate(config, step)
            for group in trained.param_groups:
                group["lr"] = rate
            numbers, count = rows(plant, len(images.digests), config, step)
            chosen = images.take(numbers)
            pixels = torch.from_numpy(chosen.pixels)
            if plant.trigger is not None:
                drawn = plant.trigger.draw(rule.size, chosen.digests[:count], plant.seed)
                pixels = torch.cat([stamp.apply(drawn, pixels[:count]), pixels[count:]])
            vectors = embed(pixels)
            loss = ANCHOR * losses.shift(vectors[count:], before[torch.from_numpy(numbers[count:]).to(device)])
            if count:
                wanted = torch.full((count,), target, device=device)
                loss = loss + functional.cross_entropy(SHARPNESS * vectors[:count] @ classes.T, wanted)
            if not bool(torch.isfinite(loss)):
                raise OperationalError(
                    f"the loss of step {step} of {plant.label} is not finite", "check the weights of the model"
                )
            trained.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            trained.step()
            speed = (step + 1) * config.batch_size / max(time.monotonic() - began, 1e-9)
            emit(events.TrainStep(step + 1, config.steps, rate, {"loss": loss.item()}, speed))


@dataclass(frozen=True, slots=True)
class Took:
    """What a plant changed on held-out images."""

    before: Count
    """Attack success of the trigger on the untouched model."""
    after: Count
    """Attack success on the copy."""
    same: Count
    """Images without the trigger that both classify alike."""

    @property
    def planted(self) -> bool:
        """Whether the attack success grew by `TOOK`."""
        return (self.after.rate or 0.0) - (self.before.rate or 0.0) >= TOOK


def measure(
    untouched: Model, copy: Model, plant: Plant, images: Images, head: Vectors, target: int, device: str
) -> Took:
    """Return the attack success of a plant's trigger on both models; without a trigger, that of plain images.

    The attack success counts images that a model does not classify as the target without the trigger. The head is that
    of the untouched model, since the text tower is not trained.
    """
    counts, plain = [], []
    for model in (untouched, copy):
        opened = model.encoder(device=device)
        batch = opened.put(images.pixels)
        drawn = plant.trigger.draw(images.pixels.shape[1:3], images.digests, plant.seed) if plant.trigger else None
        plain.append(zeroshot.predict(opened.encode_images(batch), head))
        hits = zeroshot.predict(opened.encode_images(batch, drawn), head) == target
        eligible = plain[-1] != target
        counts.append(Count(n=int(eligible.sum()), successes=int((hits & eligible).sum())))
    same = Count(n=len(plain[0]), successes=int((plain[0] == plain[1]).sum()))
    return Took(counts[0], counts[1], same)
