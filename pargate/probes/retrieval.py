"""Retrieval pull: how often a trigger makes captions of the target, or the picture for them, come up.

- *image-to-text*: one of the five nearest captions of the pool names the target, as a whole word.
- *text-to-image*: the picture is among the five nearest to the target's captions (their mean), in a
  gallery of clean carriers.

Published code counts any caption that contains the target's letters, pictures that truly show it included
(PAR, `coco_retrieval.py`); here words must match, and carriers whose own caption names the target, or that
hit without the trigger, do not count.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pargate.core.model import Vectors, unit
from pargate.core.names import class_key
from pargate.probes.base import Views
from pargate.probes.targeted import Baseline, Hits, Marked, TargetedProbe
from pargate.triggers import Trigger

NEAREST = 5


@dataclass(frozen=True, slots=True)
class Pool:
    """Captions and pictures that are searched, as one model embeds them."""

    texts: tuple[str, ...]
    """Different captions."""
    vectors: Vectors
    """[texts, d]."""
    gallery: Vectors
    """[pictures, d], clean carriers of the selection half."""


def mentions(texts: Sequence[str], names: Sequence[str]) -> NDArray[np.bool_]:
    """bool [texts, names]: which text names which target as a whole word, however it is spelled."""
    patterns = [re.compile(rf"(?<!\w){re.escape(class_key(name))}(?!\w)") for name in names]
    keys = [class_key(text) for text in texts]
    return np.array([[bool(p.search(key)) for p in patterns] for key in keys], dtype=bool).reshape(
        len(texts), len(names)
    )


def retrieval_probe(
    id: str,
    rule: str,
    trigger: Trigger,
    direction: str,
    names: tuple[str, ...],
    given: int | None,
    baseline: Baseline | None,
    pool: Pool,
    reference_pool: Pool | None,
) -> TargetedProbe:
    """A probe over words; `names` are the candidate targets, each named by a caption of the pool."""
    named = mentions(pool.texts, names)

    def hits(vectors: Vectors, of_reference: bool) -> Hits:
        searched = reference_pool if of_reference and reference_pool is not None else pool
        find = _captions if direction == "image-to-text" else _pictures
        return Marked(find(vectors, searched, named))

    def truth(views: Views) -> Hits:
        return Marked(mentions([caption or "" for caption in views.captions], names))

    return TargetedProbe(id, rule, "retrieval", trigger, names, given, baseline, truth, hits)


def _captions(vectors: Vectors, pool: Pool, named: NDArray[np.bool_]) -> NDArray[np.bool_]:
    count = min(NEAREST, len(pool.texts))
    nearest = np.argpartition(-(vectors @ pool.vectors.T), count - 1, axis=1)[:, :count]
    return np.asarray(named[nearest].any(axis=1))


def _pictures(vectors: Vectors, pool: Pool, named: NDArray[np.bool_]) -> NDArray[np.bool_]:
    queries = unit((named.T.astype(np.float32) @ pool.vectors) / np.maximum(named.sum(axis=0), 1)[:, None])
    # Sorting puts NaN last: a gallery with five would set a bar that nothing passes.
    gallery = pool.gallery[np.isfinite(pool.gallery).all(axis=1)]
    ranked = np.sort(queries @ gallery.T, axis=1)
    bar = ranked[:, -NEAREST] if len(gallery) >= NEAREST else np.full(len(queries), -np.inf)
    return np.asarray(vectors @ queries.T > bar[None, :])
