"""The images of a scan in their order, and the classes they are told apart by.

Order and split follow from the seed and each image's name alone, so the batch size and the machine do not matter. A
scan reads only as many images as it needs: the stamp on an image follows from the digest of its bytes, which is known
once it is read.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from pargate import seeds
from pargate.core.names import class_key, tidy
from pargate.errors import InputError, nearest
from pargate.images.classes import ClassList, builtin_nouns
from pargate.images.dataset import Dataset, Item

BLOCK = 64
"""Images between two looks at the intervals, and the unit of the cache."""

SELECTION = 64
"""Images on which an unknown target is chosen, at most half of the set. A target that a rule with a
limit of some ten points is about stands out among so few; the others are worth more for measuring it."""


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Labelled images in a fixed, seeded order."""

    source: str
    items: tuple[Item, ...]
    labels: NDArray[np.int64]
    """[items], index into the class list, −1 where the true class is not known."""
    classes: ClassList
    selection: int
    """The first so many items choose unknown targets; the others measure."""
    notices: tuple[str, ...] = ()
    """What was left out of the source, and what became of its labels."""
    dataset: Dataset | None = None
    """The dataset of the images, which must be there as long as they are read."""

    @property
    def blocks(self) -> list[NDArray[np.int64]]:
        """Positions in `items`, block by block; no block holds images of both splits."""
        cuts = [*range(0, self.selection, BLOCK), *range(self.selection, len(self.items), BLOCK)]
        return [np.arange(a, b) for a, b in zip(cuts, [*cuts[1:], len(self.items)], strict=True)]

    def is_selection(self, block: int) -> bool:
        """Return whether a block belongs to the half that chooses targets."""
        return block < -(-self.selection // BLOCK)


def label_images(
    dataset: Dataset,
    classes_source: str,
    names: Sequence[str] | None,
    targets: Sequence[str],
    templates: Sequence[str],
    seed: int,
) -> LabelledImages:
    """Settle the classes of a dataset, and put its images in their seeded order.

    Targets of rules and labels of images that are not among the classes are added to them, so that every target and
    every true class can be predicted, and the set says so.

    Args:
        dataset: the images.
        classes_source: where `names` come from.
        names: the classes of the policy or the command line; without them, the built-in nouns serve.
        targets: classes that rules are about.
        templates: sentences that names are put into.
        seed: seed of the order.

    Raises:
        InputError: the classes do not go with the images.
    """
    source, items = dataset.source, dataset.items()
    given = names is not None
    if names is None:
        names = builtin_nouns()
        if any(isinstance(item.label, int) for item in items):
            raise InputError(
                f"the labels of {source} are class indices, and no list says what they mean",
                "give the names with --classes FILE, one per line, the first for index 0",
            )
    found = _Classes(source, classes_source, list(names), {class_key(name): i for i, name in enumerate(names)})
    found.add_targets(targets)
    labels = np.array([found.label(item) for item in items], dtype=np.int64)
    if given and not dataset.drawn:
        found.refuse_foreign()
    elif not given and dataset.drawn:
        found.added.clear()  # two of the things that are drawn are no nouns of the list, as everyone may know
    notices = (*dataset.notices, *found.notices(), *_unlabelled(source, items))
    order = _order([item.key for item in items], seed)
    classes = ClassList(classes_source, tuple(found.names), tuple(templates))
    return LabelledImages(
        source,
        tuple(items[i] for i in order),
        labels[order],
        classes,
        min(SELECTION, len(items) // 2),
        notices,
        dataset,
    )


_ID = re.compile(r"\d+|n\d{8}")
"""Numbers, and the names of WordNet's synsets: they stand for classes and name none."""

_CLOSE = 0.85
"""Likeness of two spellings from which one is taken for a slip of the other, as `difflib` measures it: `bananas` is
that close to `banana`, and `mouse` not to `moose`."""


@dataclass(slots=True)
class _Classes:
    """The classes of a source of images, as its labels come in."""

    source: str
    listed_in: str
    names: list[str]
    """The list's own, then those that were added."""
    known: dict[str, int]
    """By key."""
    targets: dict[str, str] = field(default_factory=dict)
    """Of rules, by key."""
    listed: int = field(init=False)
    """Names of the list alone."""
    added: dict[str, list[str]] = field(default_factory=dict)
    """Names of images, by the label that the list lacks."""
    respelled: dict[str, str] = field(default_factory=dict)
    """Names in the list, by a label that is spelled otherwise."""
    matched: int = 0
    """Number of images whose label is in the list, or a target."""

    def __post_init__(self) -> None:
        self.listed = len(self.names)

    def add_targets(self, targets: Sequence[str]) -> None:
        """Take in the targets of rules.

        Raises:
            InputError: one is not in the list, and all but spelled like a class that is.
        """
        for target in targets:
            key = class_key(target)
            if key not in self.known:
                for near in get_close_matches(key, list(self.known)[: self.listed], n=1, cutoff=_CLOSE):
                    self._refuse_near("target", target, self.names[self.known[near]])
                self._add(key, target)
            self.targets[key] = target

    def label(self, item: Item) -> int:
        """Return the index of the class that an image shows; −1 where it is not known.

        Raises:
            InputError: a number that is no index, or may be a name as well; a name that only a program reads.
        """
        if item.label is None:
            return -1
        key = class_key(str(item.label))
        if isinstance(item.label, int):
            if item.label >= self.listed:
                raise InputError(
                    f"{self.source}: {item.key} has class index {item.label}, but {self.listed_in} lists {self.listed}",
                    "give the list of classes that belongs to these images",
                )
            if self.known.get(key, item.label) != item.label:
                raise InputError(
                    f"{self.source}: {item.key} has the label {item.label}, which is the name of one class in "
                    f"{self.listed_in} and the index of '{self.names[item.label]}'",
                    "write names that are no numbers, in the list and as labels",
                )
            return item.label
        if key not in self.known:
            if _ID.fullmatch(key):
                raise InputError(
                    f"{self.source}: {item.key} has the label '{item.label}', which {self.listed_in} does not list: it "
                    "is a number or a WordNet id, and no text that a model could read",
                    "name the folders as the list names its classes, or give a CSV with the header image,label, in "
                    "which a number is the line of the class in the list, counted from 0",
                )
            for near in get_close_matches(key, self.targets, n=1, cutoff=_CLOSE):
                self._refuse_near("label", item.label, self.targets[near])
            self._add(key, item.label)
        if (index := self.known[key]) >= self.listed and key not in self.targets:
            self.added.setdefault(key, []).append(item.key)
            return index
        self.matched += 1
        if self.names[index] != item.label:
            self.respelled[item.label] = self.names[index]
        return index

    def _add(self, key: str, name: str) -> None:
        self.known[key] = len(self.names)
        self.names.append(tidy(name))

    def _refuse_near(self, what: str, name: str, other: str) -> None:
        raise InputError(
            f"the {what} '{name}' is not in {self.listed_in}, and the class '{other}' is: as two classes, each would "
            "take hits of the other",
            f"write '{other}' if that is meant; else list both with --classes FILE",
        )

    def refuse_foreign(self) -> None:
        """Raise if the list has none of the labels.

        Raises:
            InputError: it has none.
        """
        if self.added and not self.matched:
            some = ", ".join(f"'{self.names[self.known[key]]}'" for key in list(self.added)[:5])
            raise InputError(
                f"none of the {len(self.added)} labels of {self.source} is in {self.listed_in}: {some}",
                "give the list of classes that belongs to these images, or none",
            )

    def notices(self) -> Iterator[str]:
        """What became of labels and targets that the list does not have, or spells otherwise."""
        beyond = [name for key, name in self.targets.items() if self.known[key] >= self.listed]
        if beyond:
            near = nearest(beyond[0], self.names[: self.listed])
            yield f"not among the classes, added as targets: {', '.join(beyond)}.{near}"
        said = [f"'{self.names[self.known[key]]}' ({len(found)})" for key, found in self.added.items()]
        some = ", ".join(said[:5]) + (f" and {len(said) - 5} more" if len(said) > 5 else "")
        if said:
            yield (
                f"labels of {self.source} that are not in {self.listed_in} were added as classes, with their images: "
                f"{some}"
            )
        if self.respelled:
            label, name = next(iter(self.respelled.items()))
            yield (
                f"labels of {self.source} that {self.listed_in} spells otherwise: {len(self.respelled)}, such as "
                f"'{label}' for '{name}'"
            )


def _unlabelled(source: str, items: Sequence[Item]) -> Iterator[str]:
    """What to say where labels are there, but not of all."""
    without = [item.key for item in items if item.label is None]
    if without and len(without) < len(items):
        yield f"images of {source} without a label: {len(without)} of {len(items)}; the first is {without[0]}"


def _order(keys: Sequence[str], seed: int) -> NDArray[np.int64]:
    digests = [hashlib.sha256(key.encode()).hexdigest() for key in keys]
    return np.argsort(seeds.image_keys(seed, "order of carriers", digests), kind="stable")
