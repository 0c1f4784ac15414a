"""Pairs from the built-in renderer: `synthetic:` without end, `synthetic:COUNT` with one.

`+counts` and `+lettering` after either add scenes with several objects, and signs with a word.

Their numbers count up from 0, and those of carriers from `FIRST_SCENE`, so that no picture is both. Nothing
is written anywhere: a pair is its number, drawn where it is needed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pargate.core.names import class_key
from pargate.errors import InputError, nearest
from pargate.files import digest_of
from pargate.images.sources import FIRST_SCENE
from pargate.images.workers import Place, Scene
from pargate.scenes.extras import EXTRAS, plural

SCHEME = "synthetic:"


@dataclass(frozen=True, slots=True)
class SyntheticPairs:
    """Pairs that are drawn."""

    source: str
    """What the user named."""
    seed: int
    """The renderer's seed."""
    count: int | None
    """How many, or None: there is no last one."""
    spelling: tuple[tuple[int, str], ...]
    """Labels that may occur, in the renderer's numbers, each with the user's spelling; empty for all."""
    extras: tuple[str, ...]
    """What scenes may show beyond one object."""
    digest: str
    """Hex SHA-256 of all that decides how they look."""
    notices: tuple[str, ...]
    """What the user should know."""

    def _scenes(self, numbers: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int64]:
        """Numbers in the renderer, which are others where only some labels may occur."""
        from pargate.scenes import render as scenes

        wanted = np.asarray(numbers, dtype=np.int64).reshape(-1)
        if not self.spelling:
            return wanted
        # Labels come in shuffled blocks that hold each of them once; so every block gives the same number of pairs.
        some, every = len(self.spelling), len(scenes.LABELS)
        blocks, places = np.divmod(wanted, some)
        members = blocks[:, None] * every + np.arange(every)
        chosen = np.isin(scenes.labels_of(self.seed, members.reshape(-1)), [label for label, _ in self.spelling])
        first = np.argsort(~chosen.reshape(members.shape), axis=1, kind="stable")
        return np.asarray(blocks * every + first[np.arange(len(wanted)), places], dtype=np.int64)

    def captions(self, numbers: Sequence[int] | NDArray[np.integer]) -> list[str]:
        """What is true of these pictures."""
        from pargate.scenes import render as scenes

        told = scenes.describe(self._scenes(numbers), self.seed, self.extras)
        if not self.spelling:
            return list(told.captions)
        spelling = dict(self.spelling)
        return [
            _respelled(caption, scenes.LABELS[label], spelling[int(label)])
            for label, caption in zip(told.labels, told.captions, strict=True)
        ]

    def changed(self) -> None:
        """Nothing: what is drawn lies in no file."""

    def places(self, numbers: Sequence[int] | NDArray[np.integer]) -> list[Place]:
        """How a worker finds these pictures."""
        return [Scene(int(number), self.seed, self.extras) for number in self._scenes(numbers)]


def _respelled(caption: str, label: str, spelling: str) -> str:
    """A caption with the user's spelling of its label, in either number."""
    several = plural(label)
    shaped = several.upper() if spelling.isupper() else several.capitalize() if spelling[0].isupper() else several
    for word, wanted in ((label, spelling), (several, shaped)):
        if word != wanted:
            caption = re.sub(rf"\b{word}\b", wanted, caption, count=1)
    return caption


def open_synthetic(source: str, seed: int, classes: Sequence[str] | None) -> SyntheticPairs:
    """The pairs of `synthetic:` or `synthetic:COUNT`.

    Raises:
        InputError: the count is not a number that can be had.
    """
    from pargate.scenes import render as scenes

    text, *named = source.removeprefix(SCHEME).split("+")
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
            f"write {SCHEME} for as many as are needed, or {SCHEME}COUNT with a count from 2 on",
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
    return SyntheticPairs(source, seed, count, spelling, extras, digest, tuple(notices))
