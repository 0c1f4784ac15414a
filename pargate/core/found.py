"""A trigger that a search recovered: the picture and how it is put on images."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Family = Literal["additive", "patch", "blend", "periodic", "smooth", "wave", "colour"]
"""Families of triggers that can be searched."""

PASSES: dict[Family, int] = {
    "additive": 2368, "patch": 2576, "blend": 1120, "periodic": 4480, "smooth": 1120, "wave": 2400, "colour": 1120,
}  # fmt: skip
"""Images that go forward and backward through the image tower for the search of a family."""


@dataclass(frozen=True, slots=True)
class Found:
    """The trigger of one family that moves the embeddings of images furthest in one direction."""

    family: Family
    picture: NDArray[np.uint8]
    """[h, w, 3]: a patch, or of the size of an image where it is blended; [knots, 1, 3] for colour curves."""
    strength: float
    """Share of the picture in the blend; 1 for a patch; the largest change of a level for colour curves."""
    position: tuple[int, int] | None
    """Row and column of the top-left corner of a patch; None for others."""
    shift: float
    """‖mean of the change of the unit embeddings‖² on held-out images; at most 4."""
    held_out: int
    """Number of held-out images."""
    passes: int
    """Images that went through the image tower, most of them forward and backward."""
    strongest: bool = True
    """Whether no other trigger that the search found shifts more; False where one works on the other model too."""
    reference_passes: int = 0
    """Images that went through the image tower of the reference."""
