"""Patterns that a search climbs: free pixels, lines, tiles, smooth fields, waves, patches and colour curves.

A pattern has few parameters θ, and `spread` makes pictures of them, through which the gradient flows back.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Size = tuple[int, int]
"""Rows and columns of an image."""

COARSE = 8
"""Points of a smooth field along each side."""

PERIODS = 6
"""Most periods of a wave along each side."""

KNOTS = 9
"""Points of a colour curve."""


def _clamped(theta: Tensor) -> Tensor:
    return theta.clamp(0, 1)


@dataclass(frozen=True, slots=True)
class Pattern:
    """One way to make pictures of parameters."""

    draw: Callable[[int, Size, torch.Generator], Tensor]
    """Draws the parameters of k restarts: float32 [k, …]."""
    spread: Callable[[Tensor, Size], Tensor] = lambda theta, size: theta
    """Makes pictures of them: [k, h, w, 3] in [0, 1]."""
    project: Callable[[Tensor], Tensor] = _clamped
    """Brings parameters back into their range after a step."""


def free(*starts: Pattern) -> Pattern:
    """Return the pattern whose pixels are all free; its restarts begin as the patterns of `starts` in turn."""

    def draw(count: int, size: Size, generator: torch.Generator) -> Tensor:
        chosen = [starts[number % len(starts)] for number in range(count)]
        return torch.cat([start.spread(start.draw(1, size, generator), size) for start in chosen])

    return Pattern(draw)


def lines(axis: int) -> Pattern:
    """Return the pattern that is constant along an axis of the image: 0 for columns, 1 for rows."""

    def draw(count: int, size: Size, generator: torch.Generator) -> Tensor:
        shape = [count, *size, 3]
        shape[axis + 1] = 1
        return torch.rand(shape, generator=generator)

    return Pattern(draw, lambda theta, size: theta.expand(-1, *size, -1))


def tiles(part: int, channels: int = 3) -> Pattern:
    """Return the pattern that repeats one tile, a `part`th of each side; with one channel it is grey."""

    def draw(count: int, size: Size, generator: torch.Generator) -> Tensor:
        height, width = (max(1, round(length / part)) for length in size)
        return torch.rand(count, height, width, channels, generator=generator)

    def spread(theta: Tensor, size: Size) -> Tensor:
        counts = [-(-length // side) for length, side in zip(size, theta.shape[1:3], strict=True)]
        return theta.repeat(1, *counts, 3 // channels)[:, : size[0], : size[1]]

    return Pattern(draw, spread)


def _smooth(theta: Tensor, size: Size) -> Tensor:
    return functional.interpolate(theta, size, mode="bicubic").permute(0, 2, 3, 1).clamp(0, 1)


def _waves(theta: Tensor, size: Size) -> Tensor:
    """Return ½ + ½ Σ aₙ · wave n, for every wave of at most `PERIODS` periods a side."""
    rows, columns = (torch.arange(length, device=theta.device) / length for length in size)
    numbers = torch.arange(-PERIODS, PERIODS + 1, device=theta.device)
    vertical, horizontal = (2 * math.pi * numbers[:, None] * points for points in (rows, columns))
    angle = vertical[:, None, :, None] + horizontal[None, :, None, :]
    both = torch.stack([angle.cos(), angle.sin()], 2)
    return (0.5 + 0.5 * torch.einsum("kuvpc,uvphw->khwc", theta, both)).clamp(0, 1)


def _one_wave(count: int, size: Size, generator: torch.Generator) -> Tensor:
    """Draw one grey wave of a random direction, period and phase for each restart."""
    side = 2 * PERIODS + 1
    theta = torch.zeros(count, side, side, 2, 3)
    for one in theta:
        row, column = (int(torch.randint(side, (), generator=generator)) for _ in range(2))
        phase = 2 * math.pi * float(torch.rand((), generator=generator))
        one[row, column] = torch.tensor([[math.cos(phase)], [math.sin(phase)]]) / math.sqrt(3)
    return theta


def _within_unit(theta: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(theta, dim=tuple(range(1, theta.ndim)), keepdim=True)
    return theta / norms.clamp(min=1)


def _knots(count: int, size: Size, generator: torch.Generator) -> Tensor:
    return torch.rand(count, KNOTS, 1, 3, generator=generator)


NOISE = Pattern(lambda count, size, generator: torch.rand(count, *size, 3, generator=generator))
ROWS, COLUMNS = lines(1), lines(0)
SMOOTH = Pattern(lambda count, size, generator: torch.rand(count, 3, COARSE, COARSE, generator=generator), _smooth)
WAVE = Pattern(_one_wave, _waves, _within_unit)
CURVES = Pattern(_knots)
FREE = free(NOISE, COLUMNS, ROWS, tiles(16), tiles(16, 1), tiles(8), tiles(8, 1), SMOOTH)


def square(part: int) -> Pattern:
    """Return the pattern of a patch, one `part`th of the shorter side."""

    def draw(count: int, size: Size, generator: torch.Generator) -> Tensor:
        side = max(1, round(min(size) / part))
        return torch.rand(count, side, side, 3, generator=generator)

    return Pattern(draw)
