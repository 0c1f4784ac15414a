"""A trigger that a search recovered: the picture and how it is put on images."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Family = Literal["additive", "patch", "blend"]
"""Families of triggers that can be searched."""


@dataclass(frozen=True, slots=True)
class Found:
    """The trigger of one family that moves the embeddings of images furthest in one direction."""

    family: Family
    picture: NDArray[np.uint8]
    """[h, w, 3]; of the size of an image where it is blended."""
    alpha: float
    """Share of the picture in the blend; 1 for a patch."""
    position: tuple[int, int] | None
    """Row and column of the top-left corner of a patch; None where the picture is blended."""
    shift: float
    """‖mean of the change of the unit embeddings‖² on held-out images; at most 4."""
    held_out: int
    """Number of held-out images."""
    passes: int
    """Images that went through the image tower, most of them forward and backward."""
