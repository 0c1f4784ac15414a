"""Zero-shot heads from class names and templates, and predictions from image embeddings.

Scheme of CLIP (Radford et al. 2021, §3.1.4): the unit vectors of a class's prompts are averaged and scaled to unit
length again. The logit scale does not change the arg max and is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pargate.core.model import Vectors, unit


class TextEncoder(Protocol):
    """Anything that embeds texts."""

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Return the embeddings of texts: float32 [m, d], unit rows."""
        ...


def prompts(names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Return all prompts, class by class: the templates of the first name, then those of the second."""
    return [template.replace("{}", name) for name in names for template in templates]


def head(encoder: TextEncoder, names: Sequence[str], templates: Sequence[str]) -> Vectors:
    """Return the zero-shot head: float32 [classes, d], unit rows."""
    encoded = encoder.encode_texts(prompts(names, templates))
    return unit(encoded.reshape(len(names), len(templates), -1).mean(axis=1))


def predict(vectors: Vectors, weights: Vectors) -> NDArray[np.int64]:
    """Return the class of highest cosine per image: int64 [n], the first of equals; −1 where a cosine is not finite."""
    with np.errstate(invalid="ignore"):  # zero times infinity gives −1 below
        cosines = vectors @ weights.T
    return np.where(np.isfinite(cosines).all(axis=1), cosines.argmax(axis=1), -1)


ALIKE = 0.005
"""Distance of unit vectors up to which two classes are one: no image's cosines with them differ by more.

Prompts of the same tokens give the same vectors up to rounding, 0.0005 in float32; the closest two of the built-in
nouns are 0.021 apart in the trained models that pargate was measured on (`docs/evidence.md`)."""

_ROWS = 1024
"""Rows that are compared at once."""


def alike(weights: Vectors) -> dict[int, int]:
    """Return the classes that cannot be told from an earlier class, each with the first such class.

    Args:
        weights: float32 [classes, d], unit rows.
    """
    found: dict[int, int] = {}
    for begin in range(0, len(weights), _ROWS):
        near = weights[begin : begin + _ROWS] @ weights.T >= 1 - ALIKE**2 / 2
        for later in (begin + np.flatnonzero(near.sum(axis=1) > 1)).tolist():
            first = next((i for i in np.flatnonzero(near[later - begin, :later]).tolist() if i not in found), None)
            if first is not None:
                found[later] = first
    return found


@dataclass(frozen=True, slots=True)
class Disagreements:
    """Images to which two encodings give different classes."""

    apart: int
    """Images whose two classes do not tie, or that have a cosine that is not finite."""
    tied: int
    """Images whose two classes tie."""


def disagreements(
    first: Vectors, second: Vectors, first_head: Vectors, second_head: Vectors, tie: float
) -> Disagreements:
    """Count the images to which two encodings, each with its own head, give different classes.

    Two classes tie if their cosines differ by at most `tie` under both encodings.
    """
    a, b = first @ first_head.T, second @ second_head.T
    rows = np.arange(len(a))
    x, y = a.argmax(axis=1), b.argmax(axis=1)
    broken = ~(np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1))
    apart = (a[rows, x] - a[rows, y] > tie) | (b[rows, y] - b[rows, x] > tie)
    return Disagreements(int((broken | ((x != y) & apart)).sum()), int(((x != y) & ~apart & ~broken).sum()))


def same_top1(first: Vectors, second: Vectors, weights: Vectors, tie: float) -> bool:
    """Return whether two encodings of the same images agree on the class, except where the classes tie."""
    return disagreements(first, second, weights, weights, tie).apart == 0
