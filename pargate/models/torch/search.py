"""Search for a trigger that nobody named: gradient ascent on the common shift of the embeddings.

A backdoor moves the embeddings of all images in one direction. So the search looks for the trigger p with the largest

    J(p) = ‖ mean over x of e(T(x, p)) − e(x) ‖²,

where e gives unit embeddings and T puts the trigger on an image. No label, class or caption is needed. The budgets
are small on purpose: a strong pattern moves every honest model. They were tuned on images of 64 pixels a side, and
lengths grow with the side.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pargate import memory, seeds
from pargate.core.found import Family, Found
from pargate.core.model import Pixels
from pargate.models.torch import patterns
from pargate.models.torch.encoder import OpenClipEncoder
from pargate.models.torch.patterns import Pattern

Progress = Callable[[int, int], None]
"""Told after every step, with the number of all steps."""


@dataclass(frozen=True, slots=True)
class Climb:
    """How a family is searched: each pattern with many restarts for `steps`, then the `FINALISTS` for `final_steps`."""

    patterns: tuple[Pattern, ...]
    strength: float
    """Share of the picture in the blend; 1 for a patch; the largest change of a level for colour curves."""
    rate: float
    """First step along the sign of the gradient."""
    restarts: int
    steps: int
    final_steps: int


PLACES = 5
"""Places of a patch along each side."""

SIDE = 8
"""A patch has one in so many pixels of the shorter side."""

CLIMBS: dict[Family, Climb] = {
    # ±0.03 of the range of a pixel, on an image that is paler by 0.06: what a blended picture of this strength can do.
    "additive": Climb((patterns.FREE,), strength=0.06, rate=0.075, restarts=16, steps=14, final_steps=12),
    "patch": Climb((patterns.square(SIDE),), strength=1.0, rate=0.12, restarts=PLACES**2, steps=10, final_steps=12),
    "blend": Climb((patterns.FREE,), strength=0.08, rate=0.08, restarts=8, steps=10, final_steps=10),
    "periodic": Climb(
        (patterns.ROWS, patterns.COLUMNS, patterns.tiles(16), patterns.tiles(8)),
        strength=0.08, rate=0.075, restarts=8, steps=10, final_steps=10,
    ),
    "smooth": Climb((patterns.SMOOTH,), strength=0.12, rate=0.075, restarts=8, steps=10, final_steps=10),
    "wave": Climb((patterns.WAVE,), strength=0.16, rate=0.15, restarts=24, steps=10, final_steps=10),
    "colour": Climb((patterns.CURVES,), strength=0.08, rate=0.15, restarts=8, steps=10, final_steps=10),
}  # fmt: skip

BATCH, FINAL_BATCH = 8, 16
"""Images a step for each restart, and for each finalist."""

FINALISTS = 3
"""Restarts of each pattern that are climbed further."""

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
    reference: OpenClipEncoder | None = None,
    progress: Progress = lambda done, total: None,
) -> Found:
    """Return the trigger of a family that shifts the embeddings most; the same for the same seed on one machine.

    With a reference, the finalist is chosen that shifts the model's embeddings by more than the reference's: what is
    natural shifts both.

    Args:
        encoder: a model that is `differentiable`.
        pixels: uint8 [n, H, W, 3], the images to search on, at least `HELD_OUT`.
        family: the kind of trigger.
        seed: draws the starts and the order of the images.
        reference: the trusted model.
        progress: told after every step, with the number of all steps.

    Raises:
        OperationalError: memory ran out.
    """
    with memory.guard(f"searching for a trigger of the family {family}", "use a device with more memory"):
        values = encoder.put(pixels).float().div(255)
        finalists, passes = climbed(encoder, values, family, seed, progress)
        held_out = values[: len(values) // HELD_OUT]
        trusted = _Shifts(reference, held_out) if reference is not None else None
        excess = [one.shift - (float(trusted.shift(one.trigger)) if trusted else 0.0) for one in finalists]
    chosen = finalists[max(range(len(finalists)), key=excess.__getitem__)]
    return Found(
        family=family,
        picture=chosen.trigger.pictures()[0].mul(255).round().to(torch.uint8).cpu().numpy(),
        strength=CLIMBS[family].strength,
        position=chosen.trigger.places[0] if family == "patch" else None,
        shift=chosen.shift,
        held_out=len(held_out),
        passes=passes,
        strongest=chosen.shift == max(one.shift for one in finalists),
        reference_passes=trusted.passes if trusted else 0,
    )


@dataclass(frozen=True, slots=True)
class Finalist:
    """A trigger at the end of its climb, with the 8-bit values of an image file."""

    trigger: "_Restarts"
    shift: float
    """Shift on the held-out images."""


def climbed(
    encoder: OpenClipEncoder, values: Tensor, family: Family, seed: int, progress: Progress
) -> tuple[list[Finalist], int]:
    """Return the finalists of all patterns of a family, and the images that went through the tower.

    Args:
        encoder: the model.
        values: float32 [n, H, W, 3] in [0, 1]; one in `HELD_OUT` is not climbed on.
        family: the kind of trigger.
        seed: draws the starts and the order of the images.
        progress: told after every step.
    """
    climb = CLIMBS[family]
    generator = torch.Generator().manual_seed(seeds.derived(seed, f"search {family}"))
    size = encoder.spec.preprocess.size
    ascent = _Ascent(encoder, values, generator, climb, progress)
    finalists: list[Finalist] = []
    for pattern in climb.patterns:
        theta = pattern.draw(climb.restarts, size, generator).to(encoder.device)
        drawn = _Restarts(theta, pattern, climb, family, size, tuple(range(climb.restarts)))
        restarts, shifts = ascent.climb(drawn, BATCH, climb.steps, 1.0)
        best = shifts.argsort(descending=True, stable=True)[:FINALISTS]
        restarts, _ = ascent.climb(restarts.only(best), FINAL_BATCH, climb.final_steps, FINAL_RATE)
        ends = [restarts.only(torch.tensor([number])).exact() for number in range(len(restarts))]
        finalists += [Finalist(end, float(ascent.of_model.shift(end, ascent.held_out))) for end in ends]
    return finalists, ascent.of_model.passes


@dataclass(frozen=True, slots=True)
class _Restarts:
    """Triggers of one pattern that are climbed side by side."""

    theta: Tensor
    """float32 [k, …]."""
    pattern: Pattern
    climb: Climb
    family: Family
    size: tuple[int, int]
    numbers: tuple[int, ...]
    """[k], number of each restart."""

    def __len__(self) -> int:
        return len(self.theta)

    def only(self, rows: Tensor) -> "_Restarts":
        return replace(self, theta=self.theta[rows], numbers=tuple(self.numbers[row] for row in rows.tolist()))

    def pictures(self) -> Tensor:
        """Return the pictures: [k, h, w, 3] in [0, 1]."""
        return self.pattern.spread(self.theta, self.size)

    def exact(self) -> "_Restarts":
        """Return the triggers with the 8-bit values of an image file."""
        pictures = self.pictures().mul(255).round().div(255)
        return replace(self, theta=pictures, pattern=Pattern(self.pattern.draw))

    @property
    def places(self) -> list[tuple[int, int]]:
        """[k], row and column of the top-left corner of each patch."""
        lengths = zip(self.size, self.theta.shape[1:3], strict=True)
        rows, columns = (np.linspace(0, length - side, PLACES).round().astype(int).tolist() for length, side in lengths)
        return [(rows[number // PLACES], columns[number % PLACES]) for number in self.numbers]

    def put_on(self, values: Tensor) -> Tensor:
        """Return each trigger on all images: [k, n, H, W, 3] of [n, H, W, 3]."""
        pictures, strength = self.pictures(), self.climb.strength
        if self.family == "colour":
            return torch.stack([_curved(values, curve[:, 0], strength) for curve in pictures])
        if self.family != "patch":
            return values + strength * (pictures[:, None] - values)
        stamped = []
        height, width = pictures.shape[1:3]
        for picture, (row, column) in zip(pictures, self.places, strict=True):
            images = values.clone()
            images[:, row : row + height, column : column + width] = picture
            stamped.append(images)
        return torch.stack(stamped)


def _curved(values: Tensor, curve: Tensor, strength: float) -> Tensor:
    """Return images with a colour curve: [n, H, W, 3]; `curve` is [knots, 3], a half of 1 changes nothing."""
    place = values * (len(curve) - 1)
    before = place.floor().clamp(max=len(curve) - 2).long()
    share = place - before
    channels = torch.arange(3, device=values.device).expand_as(before)
    change = (1 - share) * curve[before, channels] + share * curve[before + 1, channels]
    return (values + strength * (2 * change - 1)).clamp(0, 1)


class _Shifts:
    """The common shift of embeddings under triggers, and what it costs."""

    def __init__(self, encoder: OpenClipEncoder, values: Tensor) -> None:
        """Embed the images without a trigger."""
        self.encoder = encoder
        self.values = values
        self.passes = len(values)
        self.at_once = max(1, PIXELS[values.device.type] // values[0, :, :, 0].numel())
        with torch.no_grad():
            self.clean = torch.cat([encoder.embed_values(part) for part in torch.split(values, self.at_once)])

    def __call__(self, restarts: _Restarts, rows: list[int]) -> Tensor:
        """Return the shift under each trigger: [k]."""
        stamped = restarts.put_on(self.values[rows])
        vectors = self.encoder.embed_values(stamped.flatten(0, 1))
        self.passes += len(vectors)
        moved = vectors.view(len(restarts), len(rows), -1) - self.clean[rows]
        return moved.mean(1).square().sum(1)

    @torch.no_grad()
    def shift(self, restarts: _Restarts, count: int | None = None) -> Tensor:
        """Return the shift under each trigger on the first `count` images or all, without gradients: [k]."""
        return self(restarts, list(range(len(self.values) if count is None else count)))


class _Ascent:
    """Climbs restarts on images in a seeded order."""

    def __init__(
        self, encoder: OpenClipEncoder, values: Tensor, generator: torch.Generator, climb: Climb, progress: Progress
    ) -> None:
        """Embed the images without a trigger."""
        self.of_model = _Shifts(encoder, values)
        self.held_out = len(values) // HELD_OUT
        self._total, self._done = len(climb.patterns) * (climb.steps + climb.final_steps), 0
        self._progress = progress
        self._order = _endless(len(values) - self.held_out, generator)

    def climb(self, restarts: _Restarts, batch: int, steps: int, rate: float) -> tuple[_Restarts, Tensor]:
        """Return the restarts after so many steps, with the mean shift of each over the last ones.

        `rate` is the first step as a share of the family's.
        """
        last = []
        for step in range(steps):
            rows = [self.held_out + next(self._order) for _ in range(batch)]
            shifts, signs = self._gradient(restarts, rows)
            size = rate * restarts.climb.rate * (1 - step / steps) + LEAST_RATE
            restarts = replace(restarts, theta=restarts.pattern.project(restarts.theta + size * signs))
            last.append(shifts)
            self._done += 1
            self._progress(self._done, self._total)
        return restarts, torch.stack(last[-LAST:]).mean(0)

    def _gradient(self, restarts: _Restarts, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Return the shift of each restart and the sign of its gradient: [k] and [k, …]."""
        shifts, signs = [], []
        at_once = max(1, self.of_model.at_once // len(rows))
        for first in range(0, len(restarts), at_once):
            part = restarts.only(torch.arange(first, min(first + at_once, len(restarts))))
            part.theta.requires_grad_()
            shift = self.of_model(part, rows)
            (gradient,) = torch.autograd.grad(shift.sum(), part.theta)
            shifts.append(shift.detach())
            signs.append(gradient.sign())
        return torch.cat(shifts), torch.cat(signs)


def _endless(count: int, generator: torch.Generator) -> Iterator[int]:
    """Yield the numbers below `count` in one random order after the other."""
    while True:
        yield from torch.randperm(count, generator=generator).tolist()
