"""Opening the images of a scan and the image-text pairs of a cleaning, from any kind of source.

Image-text pairs have no labels: cleaning learns from images and captions alone.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pargate.errors import InputError, nearest
from pargate.events import Listener, ignore
from pargate.files import files_below, readable
from pargate.images.dataset import Dataset
from pargate.images.paths import expand, is_image
from pargate.registry import Registry


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
    return (SOURCES[name] for name in SOURCES)


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
