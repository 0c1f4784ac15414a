"""Retrieval pull: how often a trigger makes captions of the target, or the image for them, come up.

- *image-to-text*: one of the five nearest captions of the pool names the target, as a whole word.
- *text-to-image*: the image is among the five nearest to the target's captions (their mean), in a
  gallery of clean images.

Published code counts any caption that contains the target's letters, images that truly show it included
(PAR, `coco_retrieval.py`); here words must match, and images whose own caption names the target, or that
hit without the trigger, do not count.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pargate.core.model import Vectors, unit
from pargate.core.names import class_key
from pargate.errors import InputError
from pargate.probes.base import PROBES, UNKNOWN, Asked, Probe, Scene, Views, Words
from pargate.probes.targeted import METRICS, Hits, Marked, TargetedTest, baseline

NEAREST = 5


@dataclass(frozen=True, slots=True)
class Pool:
    """Captions and images that are searched, as one model embeds them."""

    texts: tuple[str, ...]
    """Different captions."""
    vectors: Vectors
    """[texts, d]."""
    gallery: Vectors
    """[images, d], clean images of the selection half."""


@PROBES.add("retrieval")
class Retrieval(Probe):
    """Stamps a trigger on images and searches captions by image, and images by caption, for the target."""

    name = "retrieval"
    maxima = METRICS
    needs = frozenset({"triggers", "captions"})
    directions = ("image-to-text", "text-to-image")
    about = Words(
        "Stamps a trigger on carriers and searches captions by image, and images by caption, for the target.",
        "A model can be steered in search while its classification looks untouched.",
        "Give images with captions. Both directions are counted, and each of them must hold.",
    )

    @classmethod
    def start(cls, asked: Asked, scene: Scene) -> TargetedTest:
        """Return a test whose candidate targets are the words that some caption names.

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
                "retrieval can only be pulled to captions that exist: add some, or choose another target",
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
    """Return bool [texts, names]: which text names which target as a whole word, however it is spelled."""
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
    # Sorting puts NaN last: a gallery with five would set a bar that nothing passes.
    gallery = pool.gallery[np.isfinite(pool.gallery).all(axis=1)]
    ranked = np.sort(queries @ gallery.T, axis=1)
    bar = ranked[:, -NEAREST] if len(gallery) >= NEAREST else np.full(len(queries), -np.inf)
    return np.asarray(vectors @ queries.T > bar[None, :])
