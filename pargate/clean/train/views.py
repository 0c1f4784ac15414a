"""Batches of pairs as input of the towers: augmented, normalised, tokenized, on the device."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pargate import seeds
from pargate.clean.config import CleanConfig
from pargate.clean.request import GivenTrigger
from pargate.clean.train import augment, cleanclip
from pargate.clean.train.universal import Universal
from pargate.core.model import Preprocess
from pargate.images.prefetch import PairBatch
from pargate.seeds import Keys

Name = TypeVar("Name", bound=Hashable)

Tokenize = Callable[[Sequence[str]], Tensor]
"""Function from captions to token ids, int64 [n, context]."""

REMEMBERED = 1 << 16
"""Largest number of captions whose token ids are cached: 40 MB at 77 tokens."""

Needed = Callable[[Tensor], Tensor]
"""Function from token ids to the number of tokens in each row that affect its vector: int64 [n]."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """The input of the towers for batches of pairs, with the settings of the run."""

    config: CleanConfig
    rule: Preprocess
    tokenize: Tokenize
    needed: Needed
    device: torch.device
    steps_per_epoch: int | None
    """Number of steps per epoch over all ranks; None for an endless source."""
    given: tuple[GivenTrigger, ...] = ()
    """Triggers to unlearn."""

    @property
    def repeats(self) -> bool:
        """Whether an image is repeated with the same augmentation."""
        limited = self.config.views is not None and self.config.augmentation == "par"
        same = limited or self.config.augmentation == "none"
        # Which images show a given trigger depends on the step.
        return self.steps_per_epoch is not None and same and not self.config.unlearned

    def keys(self, numbers: NDArray[np.int64], step: int) -> Keys:
        """Return a key per pair for its random draws in `step`: uint64 [n]; with `views`, keys are repeated."""
        turn = step
        if self.config.views is not None and self.steps_per_epoch is not None:
            turn = step // self.steps_per_epoch % self.config.views
        return seeds.index_keys(self.config.seed, f"augmentation {turn}", numbers)

    def inputs(
        self, pixels: Tensor, batch: PairBatch, part: slice, keys: Keys, views: int, universal: Universal | None
    ) -> tuple[Tensor, list[str]]:
        """Return images [views · n, 3, H, W] and captions of a part of a batch, view after view."""
        mixed = pixels
        if universal is not None:
            mixed = universal.mixed(pixels, keys[part])
            mixed = mixed if self.config.perturbation else universal.stamped(mixed, keys[part])
        images, captions = [augment.normalised(mixed, self.rule)], list(batch.captions[part])
        if views == 2:
            other = cleanclip.auto_augmented(batch.pixels[part], keys[part])
            images.append(augment.normalised(self._put(other), self.rule))
            captions += cleanclip.reworded(captions, self.config.seed)
        return torch.cat(images), captions

    def plain(self, batch: PairBatch, part: slice) -> tuple[Tensor, Tensor]:
        """Return images and tokens of a part of a batch without augmentation."""
        return augment.normalised(self._put(batch.pixels[part]), self.rule), self.tokens(batch.captions[part])

    def pixels(self, batch: PairBatch, part: slice, keys: Keys, universal: Universal | None = None) -> Tensor:
        """Return the first view of a part of a batch, augmented: float32 [n, 3, H, W] in [0, 1]."""
        pixels = self._augmented(batch, part, keys)
        # PAR pushes embeddings away from the frozen model's, so that model sees a given trigger too. Other methods keep
        # them near the frozen model's, which then must not see it.
        return universal.stamped(pixels, keys[part]) if universal is not None and self.config.perturbation else pixels

    def _augmented(self, batch: PairBatch, part: slice, keys: Keys) -> Tensor:
        pixels = self._put(batch.pixels[part])
        if self.config.augmentation == "par":
            return augment.par(pixels, keys[part], self.rule)
        if self.config.augmentation == "strong":
            return augment.strong(pixels, self._put(batch.pixels[_partners(len(batch.pixels))[part]]), keys[part])
        return pixels

    def _put(self, pixels: NDArray[np.uint8]) -> Tensor:
        return augment.unit_range(torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device, non_blocking=True))

    def tokens(self, captions: Sequence[str]) -> Tensor:
        """Return token ids on the device, cut to the length of the longest caption."""
        rows = self.tokenize(list(captions))
        return rows[:, : int(self.needed(rows).max())].to(self.device)


def remembering(tokenize: Tokenize) -> Tokenize:
    """Return `tokenize` with a cache for repeated captions, which saves a thirtieth of a step."""
    kept: dict[str, Tensor] = {}
    return lambda captions: recalled(kept, captions, tokenize, REMEMBERED)


def recalled(
    kept: dict[Name, Tensor], names: Sequence[Name], make: Callable[[Sequence[Name]], Tensor], room: int
) -> Tensor:
    """Return [n, …], a row for each name: from the cache `kept`, or from `make`, which fills it up to `room` rows."""
    missing = [name for name in dict.fromkeys(names) if name not in kept]
    if len(kept) + len(missing) > room:
        kept.clear()
        missing = list(dict.fromkeys(names))
    if missing:
        kept.update(zip(missing, make(missing), strict=True))
    return torch.stack([kept[name] for name in names])


def _partners(count: int) -> NDArray[np.int64]:
    """Return the row of each row's partner, int64 [count]; the last row of an odd batch is its own partner.

    Neighbours are partners, so that several ranks with even numbers of pairs give the same result as one process.
    """
    rows = np.arange(count, dtype=np.int64)
    return np.asarray(np.minimum(rows ^ 1, count - 1))
