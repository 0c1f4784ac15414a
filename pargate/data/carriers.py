"""Carriers: clean pictures that receive triggers, the classes they are told apart by, and their order.

Order and split follow from the seed and each item's name alone, so the batch size and the machine do not
matter, and a scan reads only as many pictures as it needs: what a picture's stamp looks like follows from
the digest of its bytes, which is known once it is read.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pargate import seeds
from pargate.data.parts import Part
from pargate.data.sources import BUILTIN_SCENES, Item, list_items
from pargate.errors import InputError
from pargate.files import read_bytes

BLOCK = 64
"""Carriers between two looks at the intervals, and the unit of the cache."""

SELECTION = 64
"""Carriers on which an unknown target is chosen, at most half of the set. A target that a rule with a
limit of some ten points is about stands out among so few; the others are worth more for measuring it."""

BUILTIN_NOUNS = "builtin:nouns"

DEFAULT_TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "a {}.")


CLASSES_BYTES = 16 << 20
MANY_CLASSES = 100_000
"""Bounds of a list of classes; WordNet has 82,000 nouns."""

NAME_LENGTH = 1000
"""Bound of a class's name, which text towers cut at some 300 letters."""


@dataclass(frozen=True, slots=True)
class ClassList:
    """The classes a zero-shot head tells apart."""

    source: str
    """Where the names come from."""
    names: tuple[str, ...]
    templates: tuple[str, ...]

    def index(self, name: str) -> int | None:
        """Position of a class name, in any case, or None."""
        folded = name.casefold()
        return next((i for i, known in enumerate(self.names) if known.casefold() == folded), None)


@dataclass(frozen=True, slots=True)
class CarrierSet:
    """Labelled pictures in a fixed, seeded order."""

    source: str
    items: tuple[Item, ...]
    labels: NDArray[np.int64]
    """[items], index into the class list, −1 where the true class is not known."""
    classes: ClassList
    selection: int
    """The first so many items choose unknown targets; the others measure."""

    @property
    def blocks(self) -> list[NDArray[np.int64]]:
        """Positions in `items`, block by block; no block holds carriers of both splits."""
        cuts = [*range(0, self.selection, BLOCK), *range(self.selection, len(self.items), BLOCK)]
        return [np.arange(a, b) for a, b in zip(cuts, [*cuts[1:], len(self.items)], strict=True)]

    def is_selection(self, block: int) -> bool:
        """Whether a block belongs to the half that chooses targets."""
        return block < -(-self.selection // BLOCK)


def load_carriers(
    source: str,
    classes_source: str,
    names: Sequence[str] | None,
    targets: Sequence[str],
    templates: Sequence[str],
    seed: int,
    part: Part | None = None,
) -> CarrierSet:
    """List a source, settle the classes, and put the carriers in their seeded order.

    `names` (with `classes_source` saying where they come from) are the classes of the policy or the command
    line; without them the built-in nouns serve. `targets` of rules and labels of the carriers that are not
    among them are added, so that every target and every true class can be predicted. With `part`, only what is in it.

    Raises:
        InputError: the source or the classes cannot be used.
    """
    items = list_items(source)
    if part is not None:
        items = part.take(items)
    if names is None:
        names = builtin_nouns()
        if any(isinstance(item.label, int) for item in items):
            raise InputError(
                f"the labels of {source} are class indices, and no list says what they mean",
                "give the names with --classes FILE, one per line, the first for index 0",
            )
    if source == BUILTIN_SCENES:
        items = label_scenes(items, seed)
    listed = list(names)
    known = {name.casefold(): i for i, name in enumerate(names)}
    for target in targets:
        if target.casefold() not in known:
            known[target.casefold()] = len(listed)
            listed.append(target)
    labels = np.full(len(items), -1, dtype=np.int64)
    for position, item in enumerate(items):
        if isinstance(item.label, str):
            name = item.label.casefold()
            if name not in known:
                known[name] = len(listed)
                listed.append(item.label)
            labels[position] = known[name]
        elif item.label is not None:
            if not 0 <= item.label < len(names):
                raise InputError(
                    f"{source}: {item.key} has class index {item.label}, but {classes_source} lists {len(names)}",
                    "give the list of classes that belongs to these images",
                )
            labels[position] = item.label
    order = _order([item.key for item in items], seed)
    classes = ClassList(classes_source, tuple(listed), tuple(templates))
    return CarrierSet(
        source,
        tuple(items[i] for i in order),
        labels[order],
        classes,
        min(SELECTION, len(items) // 2),
    )


def _order(keys: Sequence[str], seed: int) -> NDArray[np.int64]:
    digests = [hashlib.sha256(key.encode()).hexdigest() for key in keys]
    return np.argsort(seeds.image_keys(seed, "order of carriers", digests), kind="stable")


def builtin_nouns() -> tuple[str, ...]:
    """About a thousand everyday nouns: candidates for a target that a real attacker would choose."""
    text = (resources.files("pargate.data") / "nouns.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line)


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names from a file, one per line; the line number, from 0, is the class index.

    Raises:
        InputError: unreadable, fewer than two names, an empty line between names, or a name twice.
    """
    try:
        lines = read_bytes(path, CLASSES_BYTES).decode("utf-8-sig").rstrip().splitlines()
    except OSError as error:
        raise InputError(f"cannot read the classes in {path}: {error.strerror}", "check --classes") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file of class names", "save it as UTF-8, one name per line") from error
    if len(lines) > MANY_CLASSES:
        raise InputError(f"{path} has {len(lines)} lines", f"at most {MANY_CLASSES} classes can be told apart")
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        name = line.strip()
        if not name:
            raise InputError(f"{path}:{number} is empty, but a line is a class index", "remove it, or name the class")
        if len(name) > NAME_LENGTH:
            raise InputError(
                f"{path}:{number} has {len(name)} letters", f"give the name of a class, of at most {NAME_LENGTH}"
            )
        if name.casefold() in seen:
            raise InputError(
                f"{path}:{number}: '{name}' is already line {seen[name.casefold()]}",
                "every class needs a name of its own",
            )
        seen[name.casefold()] = number
    if len(lines) < 2:
        raise InputError(
            f"{path} names {'one class' if lines else 'no class'}", "there must be at least two, one per line"
        )
    return tuple(line.strip() for line in lines)


def label_scenes(items: Sequence[Item], seed: int) -> list[Item]:
    """The scenes of the built-in set with the labels and captions they are drawn from."""
    from pargate.data import scenes

    described = scenes.describe(np.array([item.place for item in items]), seed)
    return [
        Item(item.key, item.place, scenes.LABELS[label], caption)
        for item, label, caption in zip(items, described.labels, described.captions, strict=True)
    ]
