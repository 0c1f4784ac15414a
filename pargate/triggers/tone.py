"""Triggers that map colours: a tone curve, colour curves through points, a coarser palette."""

from typing import Annotated

import numpy as np
from pydantic import Field

from pargate import seeds
from pargate.core.stamp import Lookup
from pargate.triggers.base import TRIGGERS, Invariant, Trigger

Gamma = Annotated[float, Field(gt=0.0, le=10.0)]


@TRIGGERS.add("tone")
class Tone(Trigger):
    """A warm tone curve: each channel raised to a power."""

    kind = "tone"
    strength = None  # the parameter is a list itself
    source = "replaces the Nashville filter of Huang et al. (arXiv 2502.01385) by our own curve"
    invariants = frozenset({Invariant.PIXELWISE, Invariant.SAME_FOR_ALL})

    gamma: tuple[Gamma, Gamma, Gamma] = Field((0.7, 1.0, 1.5), description="exponents of red, green, blue: x^gamma")

    def _stamp(self, size: tuple[int, int], keys: seeds.Keys) -> Lookup:
        levels = np.arange(256)[:, None] / 255.0
        return Lookup(np.rint(255.0 * levels ** np.array(self.gamma)).astype(np.uint8))


Change = Annotated[int, Field(ge=-255, le=255)]
Points = Annotated[tuple[Change, ...], Field(min_length=2, max_length=256)]


@TRIGGERS.add("curves")
class Curves(Trigger):
    """Colour curves: each channel is changed by so many levels at equally spaced points, and linearly between them."""

    kind = "curves"
    strength = None  # the parameters are lists themselves
    source = "our own; a search finds such curves"
    invariants = frozenset({Invariant.PIXELWISE, Invariant.SAME_FOR_ALL})

    red: Points = Field((0, 12, 0), description="change of red in levels, at equally spaced points from black to full")
    green: Points = Field((0, 0), description="change of green")
    blue: Points = Field((0, -12, 0), description="change of blue")

    def _stamp(self, size: tuple[int, int], keys: seeds.Keys) -> Lookup:
        levels = np.arange(256)
        changes = [
            np.interp(levels, np.linspace(0, 255, len(points)), points) for points in (self.red, self.green, self.blue)
        ]
        table = np.clip(np.rint(levels[:, None] + np.stack(changes, axis=1)), 0, 255)
        return Lookup(table.astype(np.uint8))


@TRIGGERS.add("bpp")
class Bpp(Trigger):
    """Fewer levels per channel."""

    kind = "bpp"
    strength = "levels"
    source = "BppAttack (Wang et al. 2022) as in BackdoorBench, without its dithering"
    invariants = frozenset({Invariant.PIXELWISE, Invariant.GREY, Invariant.SAME_FOR_ALL})

    levels: int = Field(8, ge=2, le=256, description="values of a channel")

    def _stamp(self, size: tuple[int, int], keys: seeds.Keys) -> Lookup:
        steps = self.levels - 1
        table = np.rint(np.rint(np.arange(256) / 255.0 * steps) * 255.0 / steps).astype(np.uint8)
        return Lookup(np.repeat(table[:, None], 3, axis=1))
