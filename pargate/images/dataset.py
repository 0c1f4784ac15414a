"""Datasets: images with labels, captions or both, for scanning or training; images are not decoded here."""

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
    """Name within the source, unique and the same on every machine."""
    place: Place
    label: str | int | None = None
    """Name of the true class, or its index in the list of classes."""
    caption: str | None = None


@dataclass(frozen=True, slots=True)
class Split:
    """One of several disjoint splits of a dataset."""

    name: str
    number: int
    keys: frozenset[str] | None
    """Keys of the images in the split; None for drawn scenes."""
    digest: str
    """Hex SHA-256 over the digests of the images."""


class Dataset(ABC):
    """The images of a source, numbered from 0."""

    source: str
    """Name that the user gave."""
    notices: tuple[str, ...]
    """Notices for the user, such as files that were left out."""
    drawn: ClassVar[bool] = False
    """Whether the built-in renderer draws the images when they are needed."""

    @property
    @abstractmethod
    def count(self) -> int | None:
        """The number of images; None for an endless source."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """The hex SHA-256 of everything that decides the images, labels and captions."""

    @abstractmethod
    def places(self, numbers: Numbers) -> list[Place]:
        """Return the places of these images, from which another process can read or draw them."""

    @abstractmethod
    def captions(self, numbers: Numbers) -> list[str]:
        """Return the captions of these images, empty where there is none."""

    @abstractmethod
    def items(self) -> list[Item]:
        """Return all images of a finite dataset with their labels and captions, in the order of the source."""

    @abstractmethod
    def take(self, split: Split) -> "Dataset":
        """Return the images that are in `split`."""

    def changed(self) -> str | None:
        """Return a file that changed since it was listed, or None."""
        return None


def check_unchanged(dataset: Dataset) -> None:
    """Raise if a file changed since it was listed, since the digest would be wrong.

    Raises:
        InputError: a file has another size or modification time.
    """
    if (path := dataset.changed()) is not None:
        raise InputError(
            f"{readable(path)} changed while it was in use: the images are not those that were listed",
            "start again, and do not change the images meanwhile",
        )


@dataclass(frozen=True)
class Listed(Dataset):
    """Images on disk, in arrays by column, since there may be millions."""

    source: str
    notices: tuple[str, ...]
    keys: tuple[str, ...]
    labels: tuple[str | int | None, ...]
    texts: tuple[str, ...]
    """Captions, empty where there is none."""
    file: NDArray[np.int32]
    """[n], index in `paths`."""
    offset: NDArray[np.int64]
    """[n], offset of the image in its file, in bytes."""
    size: NDArray[np.int64]
    """[n], size of the image in bytes, or −1 for the whole file."""
    paths: tuple[str, ...]
    """Files that hold images."""
    seen: NDArray[np.int64]
    """[paths, 2], modification time in ns and size of each file before it was read."""
    files: tuple[tuple[str, Path], ...]
    """Names and paths of all files that decide the digest."""
    ordered: bool
    """Whether the order of `files` affects the digest."""
    unpacked: object = None
    """Temporary folder that must exist as long as the dataset is in use."""

    @property
    def count(self) -> int:
        """The number of images."""
        return len(self.keys)

    @cached_property
    def digest(self) -> str:
        """The hex SHA-256 over the names and bytes of the files, or the fact that one is missing."""
        try:
            found = [(name, sha256_file(path) if path.is_file() else "missing") for name, path in self.files]
        except OSError as error:
            raise InputError(
                f"cannot read {error.filename or self.source}: {error.strerror}", "check the path and its permissions"
            ) from error
        return digest_of(found if self.ordered else sorted(found))

    def places(self, numbers: Numbers) -> list[Place]:
        """Return the places of these images."""
        return [Locator(self.paths[self.file[n]], int(self.offset[n]), int(self.size[n])) for n in numbers]

    def captions(self, numbers: Numbers) -> list[str]:
        """Return the captions of these images, empty where there is none."""
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
        """Return a file that changed since it was listed, or None."""
        stamps = np.array([stamp(Path(path)) for path in self.paths], dtype=np.int64).reshape(-1, 2)
        differs = np.flatnonzero((stamps != self.seen).any(axis=1))
        return self.paths[differs[0]] if len(differs) else None


def stamp(path: Path) -> tuple[int, int]:
    """Return the modification time and size of a file, −1 where it does not exist."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # ValueError: a table may hold an invalid path
        return -1, -1
    return found.st_mtime_ns, found.st_size
