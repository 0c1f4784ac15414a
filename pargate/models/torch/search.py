"""Search for a trigger that nobody named: gradient ascent on the common shift of the embeddings.

A backdoor moves the embeddings of all images in one direction. So the search looks for the picture p with the largest

    J(p) = ‖ mean over x of e(T(x, p)) − e(x) ‖²,

where e gives unit embeddings and T puts the picture on an image. No label, class or caption is needed. The budgets
are small on purpose: a strong pattern moves every honest model. They were tuned on images of 64 pixels a side, and
lengths grow with the side.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pargate import memory, seeds
from pargate.core.found import Family, Found
from pargate.core.model import Pixels
from pargate.models.torch.encoder import OpenClipEncoder


@dataclass(frozen=True, slots=True)
class Climb:
    """How a family is searched: many restarts for `steps`, then the `FINALISTS` for `final_steps`."""

    alpha: float
    """Share of the picture in the blend; 1 for a patch."""
    rate: float
    """First step along the sign of the gradient, of pixels in [0, 1]."""
    restarts: int
    steps: int
    final_steps: int


PLACES = 5
"""Places of a patch along each side."""

CLIMBS: dict[Family, Climb] = {
    # ±0.03 of the range of a pixel, on an image that is paler by 0.06: what a blended picture of this strength can do.
    "additive": Climb(alpha=0.06, rate=0.075, restarts=16, steps=14, final_steps=12),
    "patch": Climb(alpha=1.0, rate=0.12, restarts=PLACES**2, steps=10, final_steps=12),
    "blend": Climb(alpha=0.08, rate=0.08, restarts=8, steps=10, final_steps=10),
}

SIDE = 8
"""A patch has one in so many pixels of the shorter side."""

BATCH, FINAL_BATCH = 8, 16
"""Images a step for each restart, and for each finalist."""

FINALISTS = 3
"""Restarts that are climbed further."""

FINAL_RATE = 0.6
"""Share of the first step that finalists begin with."""

LEAST_RATE = 0.01
"""Step that remains at the end."""

LAST = 3
"""Steps whose mean shift ranks the restarts."""

HELD_OUT = 4
"""One in so many images is held out of the climb, to choose among the finalists."""

PIXELS = {"cpu": 1 << 19, "cuda": 1 << 25}
"""Pixels that go forward and backward through the tower together, at most; the images of one restart always do."""


def differentiable(encoder: OpenClipEncoder) -> bool:
    """Return whether the image tower passes a finite gradient back to its pixels."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(2, *encoder.spec.preprocess.size, 3, generator=generator).to(encoder.device).requires_grad_()
    try:
        vectors = encoder.embed_values(values)
        # The sum of squares of unit vectors never changes, so the difference of two is taken.
        (gradient,) = torch.autograd.grad((vectors[0] - vectors[1].detach()).square().sum(), values)
    except (NotImplementedError, RuntimeError, TypeError):
        # torch raises these where an operation has no derivative, or where the tower leaves torch on the way.
        return False
    return bool(torch.isfinite(gradient).all() and gradient.any())


def search(
    encoder: OpenClipEncoder,
    pixels: Pixels,
    family: Family,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Found:
    """Return the trigger of a family that shifts the embeddings most; the same for the same seed on one machine.

    Args:
        encoder: a model that is `differentiable`.
        pixels: uint8 [n, H, W, 3], the images to search on, at least `HELD_OUT`.
        family: the kind of trigger.
        seed: draws the starts and the order of the images.
        progress: told after every step, with the number of all steps.

    Raises:
        OperationalError: memory ran out.
    """
    climb = CLIMBS[family]
    generator = torch.Generator().manual_seed(seeds.derived(seed, f"search {family}"))
    with memory.guard(f"searching for a trigger of the family {family}", "use a device with more memory"):
        restarts = _starts(family, encoder.spec.preprocess.size, generator)
        ascent = _Ascent(encoder, encoder.put(pixels).float().div(255), generator, climb, progress)
        restarts, shifts = ascent.climb(restarts.to(encoder), BATCH, climb.steps, climb.rate)
        best = shifts.argsort(descending=True, stable=True)[:FINALISTS]
        rate = FINAL_RATE * climb.rate
        finalists, _ = ascent.climb(restarts.only(best.tolist()), FINAL_BATCH, climb.final_steps, rate)
        finalists = replace(finalists, pictures=finalists.pictures.mul(255).round().div(255))
        shifts = ascent.held_out_shift(finalists)
    chosen = int(shifts.argmax())
    return Found(
        family=family,
        picture=finalists.pictures[chosen].mul(255).round().to(torch.uint8).cpu().numpy(),
        alpha=climb.alpha,
        position=finalists.places[chosen] if family == "patch" else None,
        shift=float(shifts[chosen]),
        held_out=ascent.held_out,
        passes=ascent.passes,
    )


@dataclass(frozen=True, slots=True)
class _Restarts:
    """Triggers that are climbed side by side."""

    pictures: Tensor
    """float32 [k, h, w, 3] in [0, 1]."""
    places: tuple[tuple[int, int], ...]
    """[k], row and column of the top-left corner of each."""
    alpha: float

    def __len__(self) -> int:
        return len(self.places)

    def to(self, encoder: OpenClipEncoder) -> "_Restarts":
        return replace(self, pictures=self.pictures.to(encoder.device))

    def only(self, rows: list[int]) -> "_Restarts":
        return replace(self, pictures=self.pictures[rows], places=tuple(self.places[row] for row in rows))

    def put_on(self, values: Tensor) -> Tensor:
        """Return each trigger on all images: [k, n, H, W, 3] of [n, H, W, 3]."""
        if self.alpha < 1:
            return values + self.alpha * (self.pictures[:, None] - values)
        stamped = []
        height, width = self.pictures.shape[1:3]
        for picture, (row, column) in zip(self.pictures, self.places, strict=True):
            images = values.clone()
            images[:, row : row + height, column : column + width] = picture
            stamped.append(images)
        return torch.stack(stamped)


class _Ascent:
    """Climbs restarts on images in a seeded order, and counts what that costs."""

    def __init__(
        self,
        encoder: OpenClipEncoder,
        values: Tensor,
        generator: torch.Generator,
        climb: Climb,
        progress: Callable[[int, int], None],
    ) -> None:
        """Embed the images without a trigger."""
        self.encoder = encoder
        self.values = values
        self.held_out = len(values) // HELD_OUT
        self.passes = len(values)
        self._total, self._done, self._progress = climb.steps + climb.final_steps, 0, progress
        self._order = _endless(len(values) - self.held_out, generator)
        self._at_once = max(1, PIXELS[values.device.type] // values[0, :, :, 0].numel())
        with torch.no_grad():
            self.clean = torch.cat([encoder.embed_values(part) for part in torch.split(values, self._at_once)])

    def climb(self, restarts: _Restarts, batch: int, steps: int, rate: float) -> tuple[_Restarts, Tensor]:
        """Return the restarts after so many steps, with the mean shift of each over the last ones."""
        last = []
        for step in range(steps):
            rows = [self.held_out + next(self._order) for _ in range(batch)]
            shifts, signs = self._gradient(restarts, rows)
            size = rate * (1 - step / steps) + LEAST_RATE
            restarts = replace(restarts, pictures=(restarts.pictures + size * signs).clamp(0, 1))
            last.append(shifts)
            self._done += 1
            self._progress(self._done, self._total)
        return restarts, torch.stack(last[-LAST:]).mean(0)

    def held_out_shift(self, restarts: _Restarts) -> Tensor:
        """Return the shift of each restart on the images that were not climbed on: [k]."""
        with torch.no_grad():
            held = list(range(self.held_out))
            return torch.cat([self._shift(restarts.only([k]), held) for k in range(len(restarts))])

    def _gradient(self, restarts: _Restarts, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Return the shift of each restart and the sign of its gradient: [k] and [k, h, w, 3]."""
        shifts, signs = [], []
        at_once = max(1, self._at_once // len(rows))
        for first in range(0, len(restarts), at_once):
            part = restarts.only(list(range(first, min(first + at_once, len(restarts)))))
            part.pictures.requires_grad_()
            shift = self._shift(part, rows)
            (gradient,) = torch.autograd.grad(shift.sum(), part.pictures)
            shifts.append(shift.detach())
            signs.append(gradient.sign())
        return torch.cat(shifts), torch.cat(signs)

    def _shift(self, restarts: _Restarts, rows: list[int]) -> Tensor:
        stamped = restarts.put_on(self.values[rows])
        vectors = self.encoder.embed_values(stamped.flatten(0, 1))
        self.passes += len(vectors)
        moved = vectors.view(len(restarts), len(rows), -1) - self.clean[rows]
        return moved.mean(1).square().sum(1)


def _endless(count: int, generator: torch.Generator) -> Iterator[int]:
    """Yield the numbers below `count` in one random order after the other."""
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


# --- where the climbs start --------------------------------------------------------------------------


def _starts(family: Family, size: tuple[int, int], generator: torch.Generator) -> _Restarts:
    """Return the restarts of a family: noise at every place for patches, else structured patterns in turn."""
    climb = CLIMBS[family]
    if family == "patch":
        side = max(1, round(min(size) / SIDE))
        rows, columns = (np.linspace(0, length - side, PLACES).round().astype(int).tolist() for length in size)
        places = tuple((row, column) for row in rows for column in columns)
        return _Restarts(torch.rand(len(places), side, side, 3, generator=generator), places, climb.alpha)
    patterns = [_PATTERNS[number % len(_PATTERNS)](size, generator) for number in range(climb.restarts)]
    return _Restarts(torch.stack(patterns), ((0, 0),) * climb.restarts, climb.alpha)


def _tiles(part: int, channels: int) -> Callable[[tuple[int, int], torch.Generator], Tensor]:
    """Return what draws one tile, a `part`th of each side, and repeats it."""

    def draw(size: tuple[int, int], generator: torch.Generator) -> Tensor:
        height, width = (max(1, round(length / part)) for length in size)
        tile = torch.rand(height, width, channels, generator=generator)
        counts = [-(-length // side) for length, side in zip(size, (height, width), strict=True)]
        return tile.repeat(*counts, 3 // channels)[: size[0], : size[1]]

    return draw


def _lines(axis: int) -> Callable[[tuple[int, int], torch.Generator], Tensor]:
    """Return what draws a pattern that is constant along an axis."""

    def draw(size: tuple[int, int], generator: torch.Generator) -> Tensor:
        shape = [*size, 3]
        shape[axis] = 1
        return torch.rand(shape, generator=generator).expand(*size, 3).clone()

    return draw


def _noise(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    return torch.rand(*size, 3, generator=generator)


def _smooth(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    coarse = torch.rand(1, 3, 8, 8, generator=generator)
    return functional.interpolate(coarse, size, mode="bicubic")[0].permute(1, 2, 0).clamp(0, 1)


_PATTERNS = (_noise, _lines(0), _lines(1), _tiles(16, 3), _tiles(16, 1), _tiles(8, 3), _tiles(8, 1), _smooth)
