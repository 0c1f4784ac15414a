"""Universal perturbations: pictures that are mixed into any image and mislead the model as far as they can.

A backdoor is a short way from some pattern to some class. Nobody tells the cleaner the pattern; these pictures look for
one while the model unlearns what they find (minimax unlearning: Zeng et al. 2022, I-BAU, with the free ascent of
Shafahi et al. 2019: the gradient that trains the model also moves the pictures, so that the search costs nothing).
Half of them are blended over the whole image, half show through a window of random place and size. They start as noise
and know nothing of any trigger.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pargate.clean.train.distributed import Group
from pargate.seeds import Keys, uniform

SHARE = 0.5
"""Share of the pairs of a step that are perturbed."""

OPACITY = 0.2
"""Of a blended picture: what leaves the image itself easy to recognise."""

SIDES = (6 / 64, 12 / 64)
"""Side of a window as a share of the image's, at least and at most."""

ASCENT = 0.1
"""Step of the ascent along the sign of the gradient, of pixels in [0, 1]."""

_STREAM = 1
"""Of the keys' draws: augmentations use stream 0."""


@dataclass(slots=True)
class Universal:
    """The pictures of one run: the first half is blended, the others show through windows."""

    pictures: Tensor
    """float32 [k, 3, H, W] in [0, 1], on the device of the towers."""

    @classmethod
    def drawn(cls, count: int, size: tuple[int, int], seed: int, device: torch.device) -> "Universal":
        """Uniform noise to start from."""
        generator = torch.Generator().manual_seed(seed)
        return cls(torch.rand(count, 3, *size, generator=generator).to(device).requires_grad_())

    def chosen(self, keys: Keys) -> NDArray[np.int64]:
        """Which picture is mixed into each, int64 [n]; −1 where none is."""
        chance = uniform(keys, 2, _STREAM)
        return np.where(chance[:, 0] < SHARE, (chance[:, 1] * len(self.pictures)).astype(np.int64), -1)

    def mixed(self, pixels: Tensor, keys: Keys) -> Tensor:
        """Pixels in [0, 1], float32 [n, 3, H, W], some with one of the pictures mixed in; differentiable in them."""
        numbers, chance = self.chosen(keys), uniform(keys, 5, _STREAM)
        rows = np.flatnonzero(numbers >= 0)
        if not len(rows):
            return pixels
        chosen = numbers[rows]
        masks = np.full((len(rows), 1, *pixels.shape[2:]), OPACITY, dtype=np.float32)
        for mask, number, draw in zip(masks, chosen, chance[rows], strict=True):
            if number >= len(self.pictures) // 2:
                mask[:] = 0
                mask[_window(pixels.shape[2:], draw[2:])] = 1
        opacity = torch.from_numpy(masks).to(pixels.device)
        places = torch.from_numpy(rows).to(pixels.device)
        images = pixels[places]
        shown = self.pictures[torch.from_numpy(chosen).to(pixels.device)]
        return pixels.index_copy(0, places, images + opacity * (shown - images))

    def ascend(self, group: Group) -> None:
        """One step that misleads the model more, by the gradient that its own step left."""
        # Also a rank none of whose pairs was perturbed takes part: the others wait for it.
        gradient = torch.zeros_like(self.pictures) if self.pictures.grad is None else self.pictures.grad
        with torch.no_grad():
            self.pictures += ASCENT * group.summed(gradient).sign()
            self.pictures.clamp_(0, 1)
        self.pictures.grad = None


def _window(size: torch.Size, draw: np.ndarray) -> tuple[slice, slice, slice]:
    """Rows and columns of a square window, from three draws in [0, 1)."""
    height, width = size
    side = round((SIDES[0] + (SIDES[1] - SIDES[0]) * draw[0]) * min(height, width))
    top, left = int(draw[1] * (height - side + 1)), int(draw[2] * (width - side + 1))
    return slice(None), slice(top, top + side), slice(left, left + side)
