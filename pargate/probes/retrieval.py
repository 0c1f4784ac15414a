"""Retrieval pull: how often a trigger makes a search find captions of the target, or the image by such captions.

- *image-to-text*: one of the five nearest captions of the pool names the target, as a whole word.
- *text-to-image*: the image is among the five nearest to the mean of the target's captions, in a gallery of clean
  images.

Published code (PAR, `coco_retrieval.py`) counts every caption that contains the letters of the target, and also images
that truly show it. Here whole words must match, and images whose own caption names the target, or that hit without the
trigger, do not count.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pargate.core.model import Vectors, unit
from pargate.core.names import class_key
from pargate.errors import InputError
from pargate.probes.base import BACKDOOR, PROBES, UNKNOWN, Asked, Probe, Scene, Views, Words
from pargate.probes.targeted import METRICS, Hits, Marked, TargetedTest, baseline

NEAREST = 5


@dataclass(frozen=True, slots=True)
class Pool:
    """Captions and images to search, embedded by one model."""

    texts: tuple[str, ...]
    """Different captions."""
    vectors: Vectors
    """Embeddings of the captions, [texts, d]."""
    gallery: Vectors
    """Embeddings of the selection images without a stamp, [images, d]."""


@PROBES.add("retrieval")
class Retrieval(Probe):
    """Stamps a trigger on images and searches captions by image, and images by caption, for the target."""

    name = "retrieval"
    maxima = METRICS
    needs = frozenset({"triggers", "captions"})
    directions = ("image-to-text", "text-to-image")
    about = Words(
        "Stamps a trigger on images and searches captions by image, and images by caption, for the target.",
        "A backdoor can steer a search while classification looks normal.",
        f"{BACKDOOR} If nothing was measured, give images with captions; both directions must hold.",
    )

    @classmethod
    def start(cls, asked: Asked, scene: Scene) -> TargetedTest:
        """Return a test whose candidate targets are the names that occur in captions.

        Raises:
            InputError: no caption names the target.
        """
        assert asked.trigger is not None, "a rule of this probe has triggers"
        candidates = scene.names if asked.target == UNKNOWN else (asked.target,)
        found = mentions(scene.texts, candidates)
        some = np.asarray(found.any(axis=0))
        names = tuple(name for name, has in zip(candidates, some, strict=True) if has)
        if not names:
            raise InputError(
                f"rule {asked.rule}: no caption of {scene.source} names {asked.target}",
                "add captions that name it, or choose another target",
            )
        named = found[:, some]
        over = baseline(asked, scene)
        pool = _pool(scene, reference=False)
        reference_pool = _pool(scene, reference=True) if scene.has_reference else pool
        find = _captions if asked.direction == "image-to-text" else _images

        def hits(vectors: Vectors, of_reference: bool) -> Hits:
            return Marked(find(vectors, reference_pool if of_reference else pool, named))

        def truth(views: Views) -> Hits:
            return Marked(mentions([caption or "" for caption in views.captions], names))

        given = None if asked.target == UNKNOWN else 0
        controlled = scene.all_controls and over == "control"
        return TargetedTest(asked.id, asked.rule, cls.name, asked.trigger, names, given, over, truth, hits, controlled)


def _pool(scene: Scene, *, reference: bool) -> Pool:
    return Pool(scene.texts, scene.text_vectors(reference=reference), scene.gallery(reference=reference))


def mentions(texts: Sequence[str], names: Sequence[str]) -> NDArray[np.bool_]:
    """Return which text names which target as a whole word, in any spelling: bool [texts, names]."""
    patterns = [re.compile(rf"(?<!\w){re.escape(class_key(name))}(?!\w)") for name in names]
    keys = [class_key(text) for text in texts]
    return np.array([[bool(p.search(key)) for p in patterns] for key in keys], dtype=bool).reshape(
        len(texts), len(names)
    )


def _captions(vectors: Vectors, pool: Pool, named: NDArray[np.bool_]) -> NDArray[np.bool_]:
    count = min(NEAREST, len(pool.texts))
    nearest = np.argpartition(-(vectors @ pool.vectors.T), count - 1, axis=1)[:, :count]
    return np.asarray(named[nearest].any(axis=1))


def _images(vectors: Vectors, pool: Pool, named: NDArray[np.bool_]) -> NDArray[np.bool_]:
    queries = unit((named.T.astype(np.float32) @ pool.vectors) / np.maximum(named.sum(axis=0), 1)[:, None])
    # Sorting puts NaN last: five of them in the gallery would set a threshold that nothing passes.
    gallery = pool.gallery[np.isfinite(pool.gallery).all(axis=1)]
    ranked = np.sort(queries @ gallery.T, axis=1)
    bar = ranked[:, -NEAREST] if len(gallery) >= NEAREST else np.full(len(queries), -np.inf)
    return np.asarray(vectors @ queries.T > bar[None, :])
