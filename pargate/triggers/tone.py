"""Triggers that map colours: a tone curve, a coarser palette."""

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
