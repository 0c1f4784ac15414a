"""Universal perturbations, which are mixed into images to find the strongest common shift of the model.

The trigger is not known. The perturbations search for one while the model unlearns what they find (minimax unlearning:
Zeng et al. 2022, I-BAU). As in Shafahi et al. 2019, the gradient that trains the model also moves the perturbations, so
that the search is free. Half of them are blended over the whole image, half show in a window of random place and size.
They start as noise. Triggers that the user gives are shown beside them, and are not moved.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pargate.clean.request import GivenTrigger
from pargate.clean.train import augment
from pargate.clean.train.distributed import Group
from pargate.models.torch.stamp import apply
from pargate.seeds import Keys, uniform

SHARE = 0.5
"""Share of the pairs of a step that are perturbed."""

GIVEN = 0.25
"""Share of the pairs of a step that show a given trigger; none of these is perturbed."""

OPACITY = 0.2
"""Opacity of a blended perturbation, which leaves the image easy to recognise."""

SIDES = (6 / 64, 12 / 64)
"""Smallest and largest side of a window, as a share of the image's."""

ASCENT = 0.1
"""Step along the sign of the gradient, for pixels in [0, 1]."""

_STREAM = 1
"""Stream of the keys' draws; augmentations use stream 0."""


@dataclass(slots=True)
class Universal:
    """The perturbations of one run: the first half is blended, the others show in windows."""

    perturbations: Tensor
    """float32 [k, 3, H, W] in [0, 1], on the device of the towers; k may be 0."""
    given: Sequence[GivenTrigger] = ()
    """Triggers to unlearn."""
    seed: int = 0
    """Seed of the stamps of the given triggers."""

    @classmethod
    def drawn(
        cls, count: int, size: tuple[int, int], seed: int, device: torch.device, given: Sequence[GivenTrigger] = ()
    ) -> "Universal":
        """Return perturbations of uniform noise, beside given triggers."""
        generator = torch.Generator().manual_seed(seed)
        return cls(torch.rand(count, 3, *size, generator=generator).to(device).requires_grad_(), given, seed)

    def chosen(self, keys: Keys) -> NDArray[np.int64]:
        """Return the number of each image's perturbation: int64 [n], −1 for none; from k on, of its given trigger."""
        count, chance = len(self.perturbations), uniform(keys, 2, _STREAM)
        found = np.where((chance[:, 0] < SHARE) & (count > 0), (chance[:, 1] * count).astype(np.int64), -1)
        shows = chance[:, 0] >= 1 - GIVEN if self.given else np.zeros(len(keys), dtype=bool)
        return np.where(shows, count + (chance[:, 1] * len(self.given)).astype(np.int64), found)

    def stamped(self, pixels: Tensor, keys: Keys) -> Tensor:
        """Stamp the given triggers on some images, float32 [n, 3, H, W] in [0, 1]; they become 8-bit as in a file."""
        numbers = self.chosen(keys) - len(self.perturbations)
        for number, trigger in enumerate(self.given):
            rows = np.flatnonzero(numbers == number)
            if len(rows):
                size = (pixels.shape[2], pixels.shape[3])
                stamp = trigger.draw(size, [f"{key:016x}" for key in keys[rows]], self.seed)
                places = torch.from_numpy(rows).to(pixels.device)
                levels = (pixels[places] * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
                pixels = pixels.index_copy(0, places, augment.unit_range(apply(stamp, levels)))
        return pixels

    def mixed(self, pixels: Tensor, keys: Keys) -> Tensor:
        """Mix perturbations into some images, float32 [n, 3, H, W] in [0, 1]; differentiable in the perturbations."""
        numbers, chance = self.chosen(keys), uniform(keys, 5, _STREAM)
        rows = np.flatnonzero((numbers >= 0) & (numbers < len(self.perturbations)))
        if not len(rows):
            return pixels
        chosen = numbers[rows]
        masks = np.full((len(rows), 1, *pixels.shape[2:]), OPACITY, dtype=np.float32)
        for mask, number, draw in zip(masks, chosen, chance[rows], strict=True):
            if number >= len(self.perturbations) // 2:
                mask[:] = 0
                mask[_window(pixels.shape[2:], draw[2:])] = 1
        opacity = torch.from_numpy(masks).to(pixels.device)
        places = torch.from_numpy(rows).to(pixels.device)
        images = pixels[places]
        shown = self.perturbations[torch.from_numpy(chosen).to(pixels.device)]
        return pixels.index_copy(0, places, images + opacity * (shown - images))

    def ascend(self, group: Group) -> None:
        """Increase the common shifts by one step, with the gradient of the model's own step."""
        if not len(self.perturbations):
            return
        # A rank without perturbed pairs takes part too, since the others wait for it.
        gradient = torch.zeros_like(self.perturbations) if self.perturbations.grad is None else self.perturbations.grad
        with torch.no_grad():
            self.perturbations += ASCENT * group.summed(gradient).sign()
            self.perturbations.clamp_(0, 1)
        self.perturbations.grad = None


def _window(size: torch.Size, draw: np.ndarray) -> tuple[slice, slice, slice]:
    """Return the rows and columns of a square window, from three draws in [0, 1)."""
    height, width = size
    side = round((SIDES[0] + (SIDES[1] - SIDES[0]) * draw[0]) * min(height, width))
    top, left = int(draw[1] * (height - side + 1)), int(draw[2] * (width - side + 1))
    return slice(None), slice(top, top + side), slice(left, left + side)
