"""Scenes from the built-in renderer: `builtin:scenes` for a scan, `synthetic:` for training.

`synthetic:` is endless, `synthetic:COUNT` is not; `+counts` and `+lettering` after either add scenes with several
objects, and signs with a word. Their numbers start at 0, those of `builtin:scenes` at `FIRST_SCENE`, so no image is in
both. Nothing is written to disk: a scene is drawn from its number when it is needed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pargate.core.names import class_key
from pargate.errors import InputError, nearest
from pargate.files import digest_of
from pargate.images.dataset import Dataset, Item, Numbers, Split
from pargate.images.opening import SOURCES, Source, Wanted
from pargate.images.workers import Place, Scene
from pargate.scenes.extras import EXTRAS, plural

SYNTHETIC = "synthetic:"

BUILTIN_SCENES = "builtin:scenes"

SCENES = 4000
"""Number of scenes in the built-in set."""

FIRST_SCENE = 1 << 41
"""Number of the first scene of the built-in set; scenes for training have smaller numbers."""


@SOURCES.add("scenes")
class Drawn(Source):
    """Scenes of the built-in renderer, for a scan or for training."""

    schemes = ("builtin:", SYNTHETIC)

    def list(self, wanted: Wanted, paths: Sequence[Path]) -> Dataset:
        """Return the scenes of a source; scenes for a scan are never used for training."""
        source = wanted.source
        if wanted.pairs and not source.startswith(SYNTHETIC):
            raise InputError(
                f"{source} is for scanning a model, and must not clean it",
                f"write {SYNTHETIC} for other pairs from the same renderer",
            )
        if not wanted.pairs and source.startswith(SYNTHETIC):
            raise InputError(
                f"{source} is for cleaning a model, and must not scan it",
                f"write {BUILTIN_SCENES} for other images from the same renderer",
            )
        if wanted.pairs:
            return _open_synthetic(source, wanted.seed, wanted.classes)
        if source != BUILTIN_SCENES:
            raise InputError(f"unknown image source '{source}'", f"the built-in one is {BUILTIN_SCENES}")
        return Scenes(source, wanted.seed, SCENES, digest_of(source), first=FIRST_SCENE)


@dataclass(frozen=True, slots=True)
class Scenes(Dataset):
    """Images that the renderer draws."""

    source: str
    seed: int
    """Seed of the renderer."""
    count: int | None
    digest: str
    """Hex SHA-256 of everything that decides the images."""
    first: int = 0
    """Number of the first image in the renderer."""
    spelling: tuple[tuple[int, str], ...] = ()
    """Labels that may occur, by the renderer's index, each in the user's spelling; empty for all labels."""
    extras: tuple[str, ...] = ()
    """Extras that scenes may show, by name."""
    notices: tuple[str, ...] = ()
    drawn = True

    def _numbers(self, numbers: Numbers) -> NDArray[np.int64]:
        """Return the numbers in the renderer, which skip scenes whose labels may not occur."""
        from pargate.scenes import render as scenes

        wanted = np.asarray(numbers, dtype=np.int64).reshape(-1) + self.first
        if not self.spelling:
            return wanted
        # Labels come in shuffled blocks that hold each label once, so every block gives the same number of pairs.
        some, every = len(self.spelling), len(scenes.LABELS)
        blocks, places = np.divmod(wanted, some)
        members = blocks[:, None] * every + np.arange(every)
        chosen = np.isin(scenes.labels_of(self.seed, members.reshape(-1)), [label for label, _ in self.spelling])
        first = np.argsort(~chosen.reshape(members.shape), axis=1, kind="stable")
        return np.asarray(blocks * every + first[np.arange(len(wanted)), places], dtype=np.int64)

    def captions(self, numbers: Numbers) -> list[str]:
        """Return the captions of these images."""
        from pargate.scenes import render as scenes

        told = scenes.describe(self._numbers(numbers), self.seed, self.extras)
        if not self.spelling:
            return list(told.captions)
        spelling = dict(self.spelling)
        return [
            _respelled(caption, scenes.LABELS[label], spelling[int(label)])
            for label, caption in zip(told.labels, told.captions, strict=True)
        ]

    def places(self, numbers: Numbers) -> list[Place]:
        """Return the places of these images, from which a worker draws them."""
        return [Scene(int(number), self.seed, self.extras) for number in self._numbers(numbers)]

    def items(self) -> list[Item]:
        """Return all scenes with the labels and captions that they are drawn from."""
        from pargate.scenes import render as scenes

        assert self.count is not None, "an endless dataset has no list"
        numbers = range(self.count)
        labels = scenes.labels_of(self.seed, self._numbers(numbers))
        columns = zip(numbers, self.places(numbers), labels, self.captions(numbers), strict=True)
        keys = self.first % FIRST_SCENE
        return [Item(f"{keys + n:06d}", place, scenes.LABELS[label], told) for n, place, label, told in columns]

    def take(self, split: Split) -> "Scenes":
        """Return the scenes of a split: as many as in this dataset, and different ones for each split."""
        assert self.count is not None, "an endless dataset has no splits"
        return replace(self, first=self.first + split.number * self.count)


def _respelled(caption: str, label: str, spelling: str) -> str:
    """Return a caption with the user's spelling of its label, in singular and plural."""
    several = plural(label)
    shaped = several.upper() if spelling.isupper() else several.capitalize() if spelling[0].isupper() else several
    for word, wanted in ((label, spelling), (several, shaped)):
        if word != wanted:
            caption = re.sub(rf"\b{word}\b", wanted, caption, count=1)
    return caption


def _open_synthetic(source: str, seed: int, classes: Sequence[str] | None) -> Scenes:
    """Return the pairs of `synthetic:` or `synthetic:COUNT`.

    Raises:
        InputError: an unknown extra, or the count is not a valid number.
    """
    from pargate.scenes import render as scenes

    text, *named = source.removeprefix(SYNTHETIC).split("+")
    for name in named:
        if name not in EXTRAS:
            raise InputError(
                f"{source}: scenes have no '{name}'.{nearest(name, list(EXTRAS))}",
                f"use +{' or +'.join(EXTRAS)}",
            )
    extras = tuple(sorted(set(named)))
    if text and not (text.isdecimal() and text.isascii() and 2 <= int(text) < FIRST_SCENE):
        raise InputError(
            f"cannot draw '{text}' pairs",
            f"write {SYNTHETIC} for as many as are needed, or {SYNTHETIC}COUNT with a count of at least 2",
        )
    count = int(text) if text else None
    known = {class_key(name): label for label, name in enumerate(scenes.LABELS)}
    wanted = {known[class_key(name)]: name for name in reversed(classes or ()) if class_key(name) in known}
    spelling = tuple(sorted(wanted.items()))
    notices = []
    if classes is not None and not spelling:
        notices.append(
            f"none of the {len(classes)} classes can be drawn: the pairs show all {len(scenes.LABELS)} things that the "
            f"renderer can draw ({', '.join(scenes.LABELS)})"
        )
    elif classes is not None:
        notices.append(
            f"{len(spelling)} of the {len(classes)} classes can be drawn, and the pairs show only these: "
            f"{', '.join(name for _, name in spelling)}"
        )
    digest = digest_of({
        "renderer": scenes.VERSION, "seed": seed, "count": count, "spelling": [list(pair) for pair in spelling],
        **({"extras": list(extras)} if extras else {}),
    })  # fmt: skip
    return Scenes(source, seed, count, digest, spelling=spelling, extras=extras, notices=tuple(notices))
