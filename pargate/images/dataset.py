"""Datasets: images with labels, captions or both, to judge a model by or to train it with. Nothing is decoded yet."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pargate.errors import InputError
from pargate.files import digest_of, readable, sha256_file
from pargate.images.decode import Locator
from pargate.images.workers import Place

Numbers = Sequence[int] | NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Item:
    """One image before it is read."""

    key: str
    """Name within its source, unique and the same on every machine."""
    place: Place
    label: str | int | None = None
    """Name of its true class, or its index in the list of classes."""
    caption: str | None = None


@dataclass(frozen=True, slots=True)
class Split:
    """One of several disjoint parts of a dataset."""

    name: str
    number: int
    keys: frozenset[str] | None
    """Names of the images in it; None for drawn scenes."""
    digest: str
    """Hex SHA-256 over what is in it."""


class Dataset(ABC):
    """The images of a source, numbered from 0."""

    source: str
    """Name that the user gave."""
    notices: tuple[str, ...]
    """Remarks for the user, such as what was left out."""
    drawn: ClassVar[bool] = False
    """Whether the built-in renderer draws the images when they are needed."""

    @property
    @abstractmethod
    def count(self) -> int | None:
        """Number of images; None where there is no end."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """Hex SHA-256 of everything that decides the images, labels and captions."""

    @abstractmethod
    def places(self, numbers: Numbers) -> list[Place]:
        """Return where these images are, in a form that another process can read."""

    @abstractmethod
    def captions(self, numbers: Numbers) -> list[str]:
        """Return the captions of these images; empty where there is none."""

    @abstractmethod
    def items(self) -> list[Item]:
        """Return all images of a finite dataset with their labels and captions, in the order of the source."""

    @abstractmethod
    def take(self, split: Split) -> "Dataset":
        """Return the images that are in `split`."""

    def changed(self) -> str | None:
        """Return a file that is no longer what it was when it was listed, if there is one."""
        return None


def check_unchanged(dataset: Dataset) -> None:
    """Raise if a file was written since it was listed: what was read of it is not what the digest stands for.

    Raises:
        InputError: a file has another size or time of change.
    """
    if (path := dataset.changed()) is not None:
        raise InputError(
            f"{readable(path)} was changed while it was in use: what was read is not what was listed",
            "begin anew, and leave the images as they are meanwhile",
        )


@dataclass(frozen=True)
class Listed(Dataset):
    """Images on disk, column by column in arrays, because there may be millions."""

    source: str
    notices: tuple[str, ...]
    keys: tuple[str, ...]
    labels: tuple[str | int | None, ...]
    texts: tuple[str, ...]
    """Captions; empty where there is none."""
    file: NDArray[np.int32]
    """[n], index in `paths`."""
    offset: NDArray[np.int64]
    """[n], where the image begins in its file."""
    size: NDArray[np.int64]
    """[n], bytes of the image, or −1 for all of the file."""
    paths: tuple[str, ...]
    """Files that hold images."""
    seen: NDArray[np.int64]
    """[paths, 2], time of change in ns and size of each file before it was read."""
    files: tuple[tuple[str, Path], ...]
    """Names and paths of all files that decide the digest."""
    ordered: bool
    """Whether the order of `files` counts."""
    unpacked: object = None
    """A temporary folder that must be there as long as the dataset is in use."""

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.keys)

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 over names and bytes; a file that is missing counts as such."""
        try:
            found = [(name, sha256_file(path) if path.is_file() else "missing") for name, path in self.files]
        except OSError as error:
            raise InputError(
                f"cannot read {error.filename or self.source}: {error.strerror}", "check the path and its permissions"
            ) from error
        return digest_of(found if self.ordered else sorted(found))

    def places(self, numbers: Numbers) -> list[Place]:
        """Return where these images are."""
        return [Locator(self.paths[self.file[n]], int(self.offset[n]), int(self.size[n])) for n in numbers]

    def captions(self, numbers: Numbers) -> list[str]:
        """Return the captions of these images; empty where there is none."""
        return [self.texts[number] for number in numbers]

    def items(self) -> list[Item]:
        """Return all images."""
        columns = zip(self.keys, self.places(range(self.count)), self.labels, self.texts, strict=True)
        return [Item(key, place, label, text or None) for key, place, label, text in columns]

    def take(self, split: Split) -> "Listed":
        """Return the images that are in `split`."""
        rows = [row for row, key in enumerate(self.keys) if split.keys is not None and key in split.keys]
        return replace(
            self, keys=tuple(self.keys[row] for row in rows), labels=tuple(self.labels[row] for row in rows),
            texts=tuple(self.texts[row] for row in rows), file=self.file[rows], offset=self.offset[rows],
            size=self.size[rows],
        )  # fmt: skip

    def changed(self) -> str | None:
        """Return a file that is no longer what it was when it was listed, if there is one."""
        stamps = np.array([stamp(Path(path)) for path in self.paths], dtype=np.int64).reshape(-1, 2)
        differs = np.flatnonzero((stamps != self.seen).any(axis=1))
        return self.paths[differs[0]] if len(differs) else None


def stamp(path: Path) -> tuple[int, int]:
    """Return time of change and size of a file; −1 of what is not there."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # a table may name anything
        return -1, -1
    return found.st_mtime_ns, found.st_size
