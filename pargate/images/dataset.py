"""Datasets: images with labels, captions or both, from any source, to judge a model or to train it.

`open_images` lists the images of a scan, `open_pairs` the image-text pairs of a cleaning. Nothing is decoded yet.
Image-text pairs have no labels: cleaning learns from images and captions alone.
"""

import posixpath
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pargate.core.names import tidy
from pargate.errors import InputError, nearest
from pargate.events import Listener, ignore
from pargate.files import digest_of, files_below, readable, refuse_pointer, sha256_file
from pargate.images.decode import Locator
from pargate.images.paths import SUFFIXES, expand, is_image
from pargate.images.workers import Place
from pargate.registry import Registry

Numbers = Sequence[int] | NDArray[np.integer]

CAPTION_BYTES = 1 << 20
"""Bound of a text about one image."""

_DIGITS = 9
"""Digits of a class index, at most."""

_SHOWN = 3
"""Names that a message gives when many things share one fault."""


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
        stamps = np.array([_stamp(Path(path)) for path in self.paths], dtype=np.int64).reshape(-1, 2)
        differs = np.flatnonzero((stamps != self.seen).any(axis=1))
        return self.paths[differs[0]] if len(differs) else None


def _stamp(path: Path) -> tuple[int, int]:
    """Return time of change and size of a file; −1 of what is not there."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # a table may name anything
        return -1, -1
    return found.st_mtime_ns, found.st_size


# --- opening -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of a source."""

    source: str
    pairs: bool
    """Whether image-text pairs are wanted, to train with; else images, to judge a model by."""
    seed: int = 0
    """Seed of what is drawn."""
    cache: Path | None = None
    """Folder for what is unpacked or generated."""
    classes: tuple[str, ...] | None = None
    """Things that are drawn or generated."""
    count: int | None = None
    """Images that are generated."""
    device: str = "auto"
    emit: Listener = ignore

    @property
    def what(self) -> str:
        """Word for messages."""
        return "pair" if self.pairs else "image"


class Source(ABC):
    """A kind of source of images."""

    schemes: ClassVar[tuple[str, ...]] = ()
    """Beginnings of the names of such sources, such as `hf:`."""
    suffixes: ClassVar[tuple[str, ...]] = ()
    """Endings of the files of such sources, in lower case."""
    shards: ClassVar[bool] = False
    """Whether several files, or a folder of them, are one source."""
    drawn: ClassVar[bool] = False
    """Whether the images are drawn when they are needed."""
    generated: ClassVar[bool] = False
    """Whether the images take hours to make before they can be listed."""
    fetched: ClassVar[bool] = False
    """Whether the images are downloaded before they can be listed."""

    def check(self, source: str) -> None:  # noqa: B027 - most names are checked when they are looked for
        """Raise if `source` cannot be meant, without looking for it.

        Raises:
            InputError: the name is incomplete.
        """

    @abstractmethod
    def list(self, wanted: Wanted, paths: Sequence[Path]) -> Dataset:
        """Return the dataset of a source.

        Args:
            wanted: the source and what it is for.
            paths: the files that have the suffixes of this kind; none for a scheme.

        Raises:
            InputError: the source cannot be used.
            OperationalError: the machine cannot read it: no network, a full disk, a package that is missing.
        """


SOURCES: Registry[type[Source]] = Registry(
    "pargate.sources",
    "image source",
    "pargate.images.sources",
    lambda name, part: isinstance(part, type) and issubclass(part, Source),
)

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9_-]+:")


def _kinds() -> Iterator[type[Source]]:
    return (SOURCES[name] for name in SOURCES.names)


def kind_of(source: str) -> type[Source] | None:
    """Return the kind that a source names by its scheme; None for a path."""
    if _SCHEME.match(source) is None:
        return None
    return next((kind for kind in _kinds() if source.startswith(kind.schemes)), None)


def is_generated(source: str) -> bool:
    """Return whether the images of a source take hours to make before they can be listed."""
    kind = kind_of(source)
    return kind is not None and kind.generated


def check_source(source: str) -> None:
    """Raise if `source` cannot be meant, without looking for it.

    Raises:
        InputError: the name is incomplete.
    """
    if (kind := kind_of(source)) is not None:
        kind().check(source)


def open_images(source: str, *, seed: int = 0, cache: Path | None = None) -> Dataset:
    """List the images of a source, with the labels and captions that it has.

    Args:
        source: a folder, class folders, a CSV or TSV with the header `image,label|caption`, WebDataset tars or Parquet
            files (with brace ranges, or a folder of them), `hf:ORG/NAME[@REV]`, or `builtin:scenes`.
        seed: seed of what is drawn.
        cache: folder below which Parquet is unpacked; without it, a temporary one.

    Raises:
        InputError: nothing is there, there are no images in it, or it cannot be read.
        OperationalError: the hub cannot be reached, pyarrow is missing, or the disk is full.
    """
    return _open(Wanted(source, pairs=False, seed=seed, cache=cache))


def open_pairs(
    source: str,
    *,
    seed: int,
    cache: Path | None = None,
    classes: Sequence[str] | None = None,
    count: int | None = None,
    device: str = "auto",
    emit: Listener = ignore,
) -> Dataset:
    """List the image-text pairs of a source; those of `diffusers:MODEL` are generated first.

    Args:
        source: a CSV or TSV with the header `image,caption`, a folder of images with a `.txt` beside each, WebDataset
            tars or Parquet files (with brace ranges, or a folder of them), `hf:ORG/NAME[@REV]`, `synthetic:[COUNT]`
            or `diffusers:MODEL`.
        seed: seed of what is drawn or generated.
        cache: folder for what is unpacked or generated; without it, Parquet is unpacked into a temporary one.
        classes: things that are drawn or generated.
        count: pairs that are generated.
        device: device that generates.
        emit: listener for the progress of generating.

    Raises:
        InputError: nothing is there, an unknown kind of source, or not one caption for each image.
        OperationalError: the machine: no network, no such device, a full disk, a package that is missing.
    """
    names = None if classes is None else tuple(classes)
    found = _open(Wanted(source, True, seed, cache, names, count, device, emit))
    if found.count is not None and found.count < 2:
        raise InputError(
            f"{source} holds one pair",
            "contrastive learning tells pairs apart: it needs two, and learns from thousands",
        )
    return found


def _open(wanted: Wanted) -> Dataset:
    source = wanted.source
    try:
        if (kind := kind_of(source)) is not None:
            check_source(source)
            return kind().list(wanted, ())
        if (named := _SCHEME.match(source)) and not Path(source).exists():
            schemes = [scheme for kind in _kinds() for scheme in kind.schemes]
            near = nearest(named[0].casefold(), schemes)
            raise InputError(f"unknown {wanted.what} source '{source[:80]}'.{near}", _known(wanted))
        return list_paths(wanted, expand(source))
    except OSError as error:  # a folder that may not be read, a name that is too long
        raise InputError(
            f"cannot read {error.filename or f'{wanted.what}s from {source[:80]}'}: {error.strerror}",
            "check the path and its permissions",
        ) from error


def list_paths(wanted: Wanted, paths: Sequence[Path]) -> Dataset:
    """Return the dataset that lies at `paths`, which exist.

    Raises:
        InputError: they are no source.
    """
    folder = paths[0] if len(paths) == 1 and paths[0].is_dir() else None
    if folder is not None:
        paths = _shards_of(wanted, folder) or paths
    suffixes = {path.suffix.lower() for path in paths}
    kind = next((kind for kind in _kinds() if suffixes <= set(kind.suffixes)), None)
    if kind is None or not kind.shards:
        if len(paths) > 1:
            raise InputError(
                f"{wanted.source} names {len(paths)} {wanted.what} sources",
                "only tars and Parquet files can be given as several",
            )
        kind = kind if folder is None else SOURCES["folder"]
    if kind is None:
        raise InputError(f"cannot read {wanted.what}s from {wanted.source}", _known(wanted))
    return kind().list(wanted, paths)


def _known(wanted: Wanted) -> str:
    if wanted.pairs:
        return (
            "give a CSV or TSV with the header image,caption, a folder with a .txt beside each image, WebDataset .tar "
            "or Parquet files, hf:DATASET, synthetic: or diffusers:MODEL"
        )
    return (
        "give a folder, class folders, a CSV or TSV with the header image,label|caption, WebDataset .tar or Parquet "
        "files, hf:DATASET, or builtin:scenes"
    )


def _shards_of(wanted: Wanted, folder: Path) -> list[Path]:
    """Return the shards of a folder of shards; none for a folder of images."""
    suffixes = {suffix for kind in _kinds() if kind.shards for suffix in kind.suffixes}
    below = files_below(folder)
    found = [path for path in below if path.suffix.lower() in suffixes]
    if not found:
        return []
    suffix = found[0].suffix.lower()
    hint = f"name what is meant, such as {folder}/{{000..007}}{suffix}, or keep them apart"
    if image := next((path for path in below if is_image(path)), None):
        if not wanted.pairs:
            return []  # the shards are left out, and named
        raise InputError(f"{folder} holds {found[0].name} and {image.name}: shards, or images?", hint)
    if other := next((p for p in found if p.parent != folder or p.suffix.lower() != suffix), None):
        names = " and ".join(readable(p.relative_to(folder).as_posix()) for p in (found[0], other))
        raise InputError(f"{folder} holds {names}: shards of several kinds, or in subfolders", hint)
    return found


# --- what the sources share --------------------------------------------------------------------------


@dataclass
class Listing:
    """What a source holds, collected while it is read."""

    wanted: Wanted
    hint: str = "complete the pairs, or remove what is alone"
    """Way to repair pairs that are not complete."""
    files: list[tuple[str, Path]] = field(default_factory=list)
    """Names and paths of all files that decide the digest."""
    left_out: list[str] = field(default_factory=list)
    """Names of what is neither an image nor about one."""
    unit: str = "files"
    """What is left out."""
    alone: list[str] = field(default_factory=list)
    """Captions without an image."""
    notices: list[str] = field(default_factory=list)
    unpacked: object = None
    ordered: bool = False
    _keys: list[str] = field(default_factory=list)
    _labels: list[str | int | None] = field(default_factory=list)
    _texts: list[str] = field(default_factory=list)
    _ranges: list[tuple[int, int, int]] = field(default_factory=list)
    _paths: list[str] = field(default_factory=list)
    _seen: list[tuple[int, int]] = field(default_factory=list)
    _mute: list[str] = field(default_factory=list)
    _empty: list[str] = field(default_factory=list)

    def hold(self, path: Path) -> int:
        """Return the number of a file that holds images; its state is noted now, before it is read."""
        self._paths.append(str(path))
        self._seen.append(_stamp(path))
        return len(self._paths) - 1

    def add(
        self,
        key: str,
        file: int,
        span: tuple[int, int] = (0, -1),
        *,
        label: str | int | None = None,
        caption: str | None = None,
        told: str = "",
    ) -> None:
        """Enter an image.

        Args:
            key: its name within the source.
            file: number of its file.
            span: offset and size in the file.
            label: its class.
            caption: its caption; None where there is none.
            told: where the caption is, if not under `key`.
        """
        text = " ".join(caption.split()) if caption else ""
        if caption is None:
            self._mute.append(key)
        elif not text:
            self._empty.append(told or key)
        self._keys.append(key)
        self._labels.append(label)
        self._texts.append(text)
        self._ranges.append((file, *span))

    def dataset(self) -> Listed:
        """Return what was found.

        Raises:
            InputError: there are no images, or pairs are wanted and not each image has one caption.
        """
        source = self.wanted.source
        notices = [*_left_out(self.unit, self.left_out), *self.notices]
        if self.wanted.pairs:
            self._check_pairs()
        if not self._keys:
            more = f"; {notices[0]}" if notices else ""
            raise InputError(f"no pictures in {source}{more}", f"known kinds: {', '.join(sorted(SUFFIXES))}")
        assert self.files, "a source names the files that decide its digest"
        ranges = np.array(self._ranges, dtype=np.int64)
        found = Listed(
            source, tuple(f"{source}: {notice}" for notice in notices), tuple(self._keys), tuple(self._labels),
            tuple(self._texts), ranges[:, 0].astype(np.int32), ranges[:, 1], ranges[:, 2], tuple(self._paths),
            np.array(self._seen, dtype=np.int64), tuple(self.files),
            self.ordered and self.wanted.pairs, self.unpacked,
        )  # fmt: skip
        if self.wanted.pairs:
            found.digest  # noqa: B018 - of the bytes that are there now
        return found

    def _check_pairs(self) -> None:
        source, mute, alone = self.wanted.source, self._mute, self.alone
        if mute and len(mute) == len(self._keys) and not alone:
            raise InputError(
                f"{source} has {count(mute, 'picture')} and no captions",
                f"write one into a text beside each, such as {Path(mute[0]).with_suffix('.txt').as_posix()}, or give a "
                "CSV with the header image,caption",
            )
        wrong = []
        if mute:
            wrong.append(f"{count(mute, 'picture')} without a caption ({some(mute)})")
        if alone:
            wrong.append(f"{count(alone, 'caption')} without a picture ({some(alone)})")
        if wrong:
            raise InputError(f"{source}: {' and '.join(wrong)}", self.hint)
        if self._empty:
            raise InputError(
                f"{source}: {count(self._empty, 'caption')} empty: {some(self._empty)}",
                "write them, or remove the pairs",
            )


def count(things: Sequence[str], noun: str) -> str:
    """Return how many there are, with the noun in its number."""
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def some(names: Sequence[str]) -> str:
    """Return the first few of many names."""
    return ", ".join(map(readable, names[:_SHOWN])) + (", …" if len(names) > _SHOWN else "")


_SYSTEM = {"thumbs.db", "desktop.ini"}
"""Files that systems write for themselves."""


def _left_out(unit: str, names: Sequence[str]) -> Iterator[str]:
    lost = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    lost = [name for name in lost if posixpath.basename(name).lower() not in _SYSTEM]
    kinds = Counter(posixpath.splitext(name)[1].lower() or "without an ending" for name in lost)
    if lost:
        several = ", ".join(f"{number} {readable(kind)}" for kind, number in kinds.most_common(8))
        yield f"{unit} left out that pargate does not read: {several}; the first is {readable(lost[0])}"


_NUMBER = re.compile(r"([+-]?)(\d+)(\.0*)?|[+-]?(\d+\.\d*|\.\d+|\d+(\.\d*)?[eE][+-]?\d+)", re.ASCII)


def read_label(text: str, where: str) -> str | int | None:
    """Return a label as it is meant: a class index, a name, or None where there is none.

    A number is an index, also where a program wrote it as 3.0.

    Raises:
        InputError: it is a number that is no index; `where` says which label.
    """
    told = tidy(text)
    if told.lower() in ("", "nan"):
        return None
    number = _NUMBER.fullmatch(told)
    if number is None:
        return told
    digits = (number[2] or "").lstrip("0") or "0"
    if number[1] or not number[2] or len(digits) > _DIGITS:
        raise InputError(
            f"{where}: the label {told[:40]} is no class index",
            "an index is the line of a class in the list, counted from 0; leave the label empty where there is none",
        )
    return int(digits)


def read_text(where: str, content: bytes) -> str:
    """Return a label or caption, of which `content` is at most one byte more than `CAPTION_BYTES`.

    Raises:
        InputError: a git-lfs pointer, too long, or not UTF-8; `where` says which text.
    """
    refuse_pointer(where, content)
    if len(content) > CAPTION_BYTES:
        raise InputError(f"{where} is longer than {CAPTION_BYTES >> 20} MiB", "a label or a caption is one short text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not text: {error}", "save it as UTF-8") from error
