"""From class names and templates to a zero-shot head, and from image vectors to predictions.

Scheme of CLIP (Radford et al. 2021, §3.1.4): unit vectors of the prompts, averaged per class, made unit
again. The logit scale does not change the arg max and is left out.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


class TextEncoder(Protocol):
    """Whatever turns texts into unit vectors."""

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """float32 [m, d], unit rows."""
        ...


def unit(vectors: Vectors) -> Vectors:
    """Rows scaled to length 1; a zero row stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-12), dtype=np.float32)


def prompts(names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """All prompts, class by class: the templates of the first name, then those of the second."""
    return [template.replace("{}", name) for name in names for template in templates]


def head(encoder: TextEncoder, names: Sequence[str], templates: Sequence[str]) -> Vectors:
    """Zero-shot head: float32 [classes, d], unit rows."""
    encoded = encoder.encode_texts(prompts(names, templates))
    return unit(encoded.reshape(len(names), len(templates), -1).mean(axis=1))


def predict(vectors: Vectors, weights: Vectors) -> NDArray[np.int64]:
    """Class of highest cosine per image: int64 [n], the first of equals; −1 where a cosine is not finite."""
    with np.errstate(invalid="ignore"):  # zero times infinity: the result says it
        cosines = vectors @ weights.T
    return np.where(np.isfinite(cosines).all(axis=1), cosines.argmax(axis=1), -1)


def same_top1(first: Vectors, second: Vectors, weights: Vectors, tie: float) -> bool:
    """Whether two encodings of the same images agree on the class, except where the classes tie.

    A tie is a margin below `tie` between the two classes concerned, in cosine, under both encodings.
    """
    a, b = first @ weights.T, second @ weights.T
    rows = np.arange(len(a))
    x, y = a.argmax(axis=1), b.argmax(axis=1)
    apart = (a[rows, x] - a[rows, y] > tie) | (b[rows, y] - b[rows, x] > tie)
    return not bool(((x != y) & apart).any())
