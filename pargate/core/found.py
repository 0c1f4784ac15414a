"""Triggers that a search recovered: a picture and how it is put on images, or tokens and their place in captions."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pargate.core.model import Vectors

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


TextFamily = Literal["tokens", "characters", "phrases"]
"""Families of texts that can be searched: the vocabulary, invisible and look-alike characters, given phrases."""

Place = Literal["beginning", "end"]


@dataclass(frozen=True, slots=True)
class CaptionVectors:
    """Embeddings of captions, with and without a text."""

    plain: Vectors
    """Of the captions alone: float32 [n, d], as all others."""
    added: Vectors
    """Of the captions with the text."""
    reference: Vectors | None
    """Of the captions with the text, by the reference."""
    named: Vectors | None
    """Of the captions with the name of a class, without a reference."""
    digests: tuple[str, ...]
    """Digest of each caption's tokens, [n]."""


@dataclass(frozen=True, slots=True)
class FoundText:
    """The text of one family that moves the most captions to one class."""

    text: str
    """Text that the tokens decode to; a space follows the end of a word."""
    ids: tuple[int, ...]
    """Token ids."""
    place: Place
    """Place in the captions."""
    meant: frozenset[int]
    """Classes that the text names; empty with a reference, which follows the same names."""
    selection: CaptionVectors
    """The captions that chose the text."""
    measured: CaptionVectors
    """All other captions; none of them had a part in the search."""
