"""A trigger: a bright frame around the image."""

from typing import Annotated

import numpy as np
from pydantic import Field

from pargate import seeds
from pargate.core.stamp import ONE, Mix
from pargate.triggers import Invariant, Trigger


class Border(Trigger):
    """A white frame along all four edges."""

    kind = "border"
    source = "this example"
    strength = "width"
    invariants = frozenset({Invariant.SAME_FOR_ALL})

    width: Annotated[int, Field(ge=1, le=64)] = Field(2, description="pixels of the frame")

    def _stamp(self, size: tuple[int, int], keys: seeds.Keys) -> Mix:
        gain = np.zeros((1, *size, 1), np.int32)
        gain[:, self.width : -self.width, self.width : -self.width] = ONE
        return Mix(gain, np.where(gain == 0, 255 * ONE, 0).astype(np.int32), self.overflow)
