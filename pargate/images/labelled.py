"""Order the images of a scan and assign their classes.

Order and halves follow from the seed and each image's name alone, so the batch size and the machine do not matter. A
scan reads only as many images as it needs.
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
"""Number of images between two looks at the intervals, and in one entry of the cache."""

SELECTION = 64
"""Number of images on which an unknown target is chosen, at most half of the set. So few suffice to show a target that
exceeds a limit of some ten points; the other images measure it."""


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Labelled images in a fixed, seeded order."""

    source: str
    items: tuple[Item, ...]
    labels: NDArray[np.int64]
    """[items], index into the class list, −1 where the true class is not known."""
    classes: ClassList
    selection: int
    """Number of items that choose unknown targets, from the first; the others measure."""
    notices: tuple[str, ...] = ()
    """Notices about files that were left out, and about labels."""
    dataset: Dataset | None = None
    """Dataset of the images, which must exist as long as they are read."""

    @property
    def blocks(self) -> list[NDArray[np.int64]]:
        """The positions in `items`, block by block; no block holds images of both halves."""
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
    selection: int = SELECTION,
) -> LabelledImages:
    """Assign the classes of a dataset, and put its images in their seeded order.

    Targets of rules and labels that are not among the classes are added to them, with a notice, so that every target
    and every true class can be predicted.

    Args:
        dataset: the images.
        classes_source: source of `names`, for messages.
        names: the classes of the policy or the command line; None for the built-in nouns.
        targets: classes that rules name.
        templates: prompts with {} for a class's name.
        seed: seed of the order.
        selection: number of images that choose unknown targets; beyond `SELECTION` at most a quarter of all.

    Raises:
        InputError: the classes do not fit the images.
    """
    source, items = dataset.source, dataset.items()
    given = names is not None
    if names is None:
        names = builtin_nouns()
        if any(isinstance(item.label, int) for item in items):
            raise InputError(
                f"the labels of {source} are class indices, but there is no list of classes",
                "give the names with --classes FILE, one per line, the first for index 0",
            )
    found = _Classes(source, classes_source, list(names), {class_key(name): i for i, name in enumerate(names)})
    found.add_targets(targets)
    labels = np.array([found.label(item) for item in items], dtype=np.int64)
    if given and not dataset.drawn:
        found.refuse_foreign()
    elif not given and dataset.drawn:
        found.added.clear()  # no notice about drawn things that are not among the nouns
    notices = (*dataset.notices, *found.notices(), *_unlabelled(source, items))
    order = _order([item.key for item in items], seed)
    classes = ClassList(classes_source, tuple(found.names), tuple(templates))
    return LabelledImages(
        source,
        tuple(items[i] for i in order),
        labels[order],
        classes,
        choosing(len(items), selection),
        notices,
        dataset,
    )


def choosing(images: int, wanted: int) -> int:
    """Return the number of images that choose unknown targets, where `wanted` are wanted."""
    return max(min(SELECTION, images // 2), min(wanted, images // 4))


_ID = re.compile(r"\d+|n\d{8}")
"""Pattern of numbers and WordNet synset ids, which stand for a class without naming it."""

_CLOSE = 0.85
"""Similarity in `difflib` from which one spelling is a typo of the other: `bananas` of `banana`, but not `mouse` of
`moose`."""


@dataclass(slots=True)
class _Classes:
    """The classes of a source of images, collected from its labels."""

    source: str
    listed_in: str
    names: list[str]
    """Names of the classes: those of the list, then those that were added."""
    known: dict[str, int]
    """Index of each class, by key."""
    targets: dict[str, str] = field(default_factory=dict)
    """Targets of rules, by key."""
    listed: int = field(init=False)
    """Number of names in the list."""
    added: dict[str, list[str]] = field(default_factory=dict)
    """Names of images, by a label that is not in the list."""
    respelled: dict[str, str] = field(default_factory=dict)
    """Names in the list, by a label in another spelling."""
    matched: int = 0
    """Number of images whose label is in the list, or a target."""

    def __post_init__(self) -> None:
        self.listed = len(self.names)

    def add_targets(self, targets: Sequence[str]) -> None:
        """Add the targets of rules to the classes.

        Raises:
            InputError: a target is not in the list, but nearly spelled like a class in it.
        """
        for target in targets:
            key = class_key(target)
            if key not in self.known:
                for near in get_close_matches(key, list(self.known)[: self.listed], n=1, cutoff=_CLOSE):
                    self._refuse_near("target", target, self.names[self.known[near]])
                self._add(key, target)
            self.targets[key] = target

    def label(self, item: Item) -> int:
        """Return the index of an image's class, −1 where it is not known.

        Raises:
            InputError: the label is a number that is not an index or may be a name, or an id that no model can read.
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
                    "use names that are not numbers, in the list and as labels",
                )
            return item.label
        if key not in self.known:
            if _ID.fullmatch(key):
                raise InputError(
                    f"{self.source}: {item.key} has the label '{item.label}', which {self.listed_in} does not list: it "
                    "is a number or a WordNet id, not text that a model could read",
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
            f"write '{other}' if you mean that class, or list both with --classes FILE",
        )

    def refuse_foreign(self) -> None:
        """Raise if the list has none of the labels.

        Raises:
            InputError: as above.
        """
        if self.added and not self.matched:
            some = ", ".join(f"'{self.names[self.known[key]]}'" for key in list(self.added)[:5])
            raise InputError(
                f"none of the {len(self.added)} labels of {self.source} is in {self.listed_in}: {some}",
                "give the list of classes that belongs to these images, or none",
            )

    def notices(self) -> Iterator[str]:
        """Yield notices about labels and targets that are not in the list, or have another spelling."""
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
                f"labels of {self.source} with another spelling than in {self.listed_in}: {len(self.respelled)}, such "
                f"as '{label}' for '{name}'"
            )


def _unlabelled(source: str, items: Sequence[Item]) -> Iterator[str]:
    """Yield a notice if only some images have labels."""
    without = [item.key for item in items if item.label is None]
    if without and len(without) < len(items):
        yield f"images of {source} without a label: {len(without)} of {len(items)}; the first is {without[0]}"


def _order(keys: Sequence[str], seed: int) -> NDArray[np.int64]:
    digests = [hashlib.sha256(key.encode()).hexdigest() for key in keys]
    return np.argsort(seeds.image_keys(seed, "order of carriers", digests), kind="stable")
