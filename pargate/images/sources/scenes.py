"""Scenes from the built-in renderer: `builtin:scenes` to judge a model by, `synthetic:` to train with.

`synthetic:` has no end, `synthetic:COUNT` has one; `+counts` and `+lettering` after either add scenes with several
objects, and signs with a word. Their numbers count up from 0, those of `builtin:scenes` from `FIRST_SCENE`, so no image
is both. Nothing is written anywhere: an image is its number, drawn where it is needed.
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
"""Scenes in the built-in set; the renderer has no end, a set needs one."""

FIRST_SCENE = 1 << 41
"""Number of the first scene of the built-in set; those to train with have smaller ones."""


@SOURCES.add("scenes")
class Drawn(Source):
    """Scenes of either kind."""

    schemes = ("builtin:", SYNTHETIC)

    def list(self, wanted: Wanted, paths: Sequence[Path]) -> Dataset:
        """Return the scenes of a source; those to judge a model by are never trained with."""
        source = wanted.source
        if wanted.pairs and not source.startswith(SYNTHETIC):
            raise InputError(
                f"{source} are images that judge a model and must not clean it",
                f"write {SYNTHETIC} for pairs from the same renderer that never meet them",
            )
        if not wanted.pairs and source.startswith(SYNTHETIC):
            raise InputError(
                f"{source} are pairs that clean a model and must not judge it",
                f"write {BUILTIN_SCENES} for images from the same renderer that never meet them",
            )
        if wanted.pairs:
            return _open_synthetic(source, wanted.seed, wanted.classes)
        if source != BUILTIN_SCENES:
            raise InputError(f"unknown image source '{source}'", f"the built-in one is {BUILTIN_SCENES}")
        return Scenes(source, wanted.seed, SCENES, digest_of(source), first=FIRST_SCENE)


@dataclass(frozen=True, slots=True)
class Scenes(Dataset):
    """Images that are drawn."""

    source: str
    seed: int
    """Seed of the renderer."""
    count: int | None
    digest: str
    """Hex SHA-256 of all that decides how they look."""
    first: int = 0
    """Number of the first one in the renderer."""
    spelling: tuple[tuple[int, str], ...] = ()
    """Labels that may occur, in the renderer's numbers, each with the user's spelling; empty for all."""
    extras: tuple[str, ...] = ()
    """What scenes may show beyond one object."""
    notices: tuple[str, ...] = ()
    drawn = True

    def _numbers(self, numbers: Numbers) -> NDArray[np.int64]:
        """Return the numbers in the renderer, which are others where only some labels may occur."""
        from pargate.scenes import render as scenes

        wanted = np.asarray(numbers, dtype=np.int64).reshape(-1) + self.first
        if not self.spelling:
            return wanted
        # Labels come in shuffled blocks that hold each of them once; so every block gives the same number of pairs.
        some, every = len(self.spelling), len(scenes.LABELS)
        blocks, places = np.divmod(wanted, some)
        members = blocks[:, None] * every + np.arange(every)
        chosen = np.isin(scenes.labels_of(self.seed, members.reshape(-1)), [label for label, _ in self.spelling])
        first = np.argsort(~chosen.reshape(members.shape), axis=1, kind="stable")
        return np.asarray(blocks * every + first[np.arange(len(wanted)), places], dtype=np.int64)

    def captions(self, numbers: Numbers) -> list[str]:
        """Return what is true of these images."""
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
        """Return how a worker finds these images."""
        return [Scene(int(number), self.seed, self.extras) for number in self._numbers(numbers)]

    def items(self) -> list[Item]:
        """Return all scenes with the labels and captions that they are drawn from."""
        from pargate.scenes import render as scenes

        assert self.count is not None, "a dataset without end has no list"
        numbers = range(self.count)
        labels = scenes.labels_of(self.seed, self._numbers(numbers))
        columns = zip(numbers, self.places(numbers), labels, self.captions(numbers), strict=True)
        keys = self.first % FIRST_SCENE
        return [Item(f"{keys + n:06d}", place, scenes.LABELS[label], told) for n, place, label, told in columns]

    def take(self, split: Split) -> "Scenes":
        """Return as many other scenes for each split: there is no end of them."""
        assert self.count is not None, "a dataset without end has no splits"
        return replace(self, first=self.first + split.number * self.count)


def _respelled(caption: str, label: str, spelling: str) -> str:
    """Return a caption with the user's spelling of its label, in either number."""
    several = plural(label)
    shaped = several.upper() if spelling.isupper() else several.capitalize() if spelling[0].isupper() else several
    for word, wanted in ((label, spelling), (several, shaped)):
        if word != wanted:
            caption = re.sub(rf"\b{word}\b", wanted, caption, count=1)
    return caption


def _open_synthetic(source: str, seed: int, classes: Sequence[str] | None) -> Scenes:
    """Return the pairs of `synthetic:` or `synthetic:COUNT`.

    Raises:
        InputError: the count is not a number that can be had.
    """
    from pargate.scenes import render as scenes

    text, *named = source.removeprefix(SYNTHETIC).split("+")
    for name in named:
        if name not in EXTRAS:
            raise InputError(
                f"{source}: scenes have no '{name}'.{nearest(name, list(EXTRAS))}",
                f"there are +{' and +'.join(EXTRAS)}",
            )
    extras = tuple(sorted(set(named)))
    if text and not (text.isdecimal() and text.isascii() and 2 <= int(text) < FIRST_SCENE):
        raise InputError(
            f"cannot draw '{text}' pairs",
            f"write {SYNTHETIC} for as many as are needed, or {SYNTHETIC}COUNT with a count from 2 on",
        )
    count = int(text) if text else None
    known = {class_key(name): label for label, name in enumerate(scenes.LABELS)}
    wanted = {known[class_key(name)]: name for name in reversed(classes or ()) if class_key(name) in known}
    spelling = tuple(sorted(wanted.items()))
    notices = []
    if classes is not None and not spelling:
        notices.append(
            f"none of the {len(classes)} classes can be drawn: the pairs show all {len(scenes.LABELS)} things that can "
            f"({', '.join(scenes.LABELS)})"
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
