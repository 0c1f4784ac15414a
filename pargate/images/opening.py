"""Open the images of a scan and the image-text pairs of a cleaning, from any kind of source.

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
    """A request for the images or image-text pairs of a source."""

    source: str
    pairs: bool
    """Whether image-text pairs are wanted, for training; otherwise images for a scan."""
    seed: int = 0
    """Seed of drawn or generated images."""
    cache: Path | None = None
    """Folder for unpacked or generated images."""
    classes: tuple[str, ...] | None = None
    """Classes that are drawn or generated."""
    count: int | None = None
    """Number of images that are generated."""
    device: str = "auto"
    emit: Listener = ignore

    @property
    def what(self) -> str:
        """The word for one of them in messages."""
        return "pair" if self.pairs else "image"


class Source(ABC):
    """A kind of source of images."""

    schemes: ClassVar[tuple[str, ...]] = ()
    """Prefixes of the names of such sources, such as `hf:`."""
    suffixes: ClassVar[tuple[str, ...]] = ()
    """Suffixes of the files of such sources, in lower case."""
    shards: ClassVar[bool] = False
    """Whether several files, or a folder of them, are one source."""
    generated: ClassVar[bool] = False
    """Whether the images must be generated, which takes hours, before they can be listed."""
    fetched: ClassVar[bool] = False
    """Whether the images are downloaded before they can be listed."""

    def check(self, source: str) -> None:  # noqa: B027 - most names are checked when they are opened
        """Raise if the name of a source is wrong, without opening it.

        Raises:
            InputError: the name is incomplete.
        """

    @abstractmethod
    def list(self, wanted: Wanted, paths: Sequence[Path]) -> Dataset:
        """Return the dataset of a source.

        Args:
            wanted: the source and its use.
            paths: the files with the suffixes of this kind; none for a scheme.

        Raises:
            InputError: the source cannot be used.
            OperationalError: no network, a full disk, or a missing package.
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
    """Return the kind of a source by its scheme, or None for a path."""
    if _SCHEME.match(source) is None:
        return None
    return next((kind for kind in _kinds() if source.startswith(kind.schemes)), None)


def is_generated(source: str) -> bool:
    """Return whether the images of a source must be generated, which takes hours."""
    kind = kind_of(source)
    return kind is not None and kind.generated


def check_source(source: str) -> None:
    """Raise if the name of a source is wrong, without opening it.

    Raises:
        InputError: the name is incomplete.
    """
    if (kind := kind_of(source)) is not None:
        kind().check(source)


def open_images(source: str, *, seed: int = 0, cache: Path | None = None) -> Dataset:
    """List the images of a source, with their labels and captions.

    Args:
        source: a folder, class folders, a CSV or TSV with the header `image,label|caption`, WebDataset tars or Parquet
            files (with brace ranges, or a folder of them), `hf:ORG/NAME[@REV]`, or `builtin:scenes`.
        seed: seed of drawn images.
        cache: folder below which Parquet is unpacked; None for a temporary one.

    Raises:
        InputError: the source does not exist, holds no images, or cannot be read.
        OperationalError: the hub cannot be reached, pyarrow is missing, or the disk is full.
    """
    return open_wanted(Wanted(source, pairs=False, seed=seed, cache=cache))


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
        seed: seed of drawn or generated images.
        cache: folder for unpacked or generated images; without it, Parquet is unpacked into a temporary one.
        classes: classes that are drawn or generated.
        count: number of pairs that are generated.
        device: device on which images are generated.
        emit: listener for the progress of generating.

    Raises:
        InputError: the source does not exist, is of an unknown kind, or lacks an image or caption.
        OperationalError: no network, no such device, a full disk, or a missing package.
    """
    names = None if classes is None else tuple(classes)
    found = open_wanted(Wanted(source, True, seed, cache, names, count, device, emit))
    if found.count is not None and found.count < 2:
        raise InputError(
            f"{source} holds one pair",
            "give more: contrastive learning compares pairs, and needs thousands to learn well",
        )
    return found


def open_wanted(wanted: Wanted) -> Dataset:
    """Return the dataset of a request.

    Raises:
        InputError, OperationalError: as `open_images` and `open_pairs`.
    """
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
    except OSError as error:  # such as an unreadable folder, or a name that is too long
        raise InputError(
            f"cannot read {error.filename or f'{wanted.what}s from {source[:80]}'}: {error.strerror}",
            "check the path and its permissions",
        ) from error


def list_paths(wanted: Wanted, paths: Sequence[Path]) -> Dataset:
    """Return the dataset at existing `paths`.

    Raises:
        InputError: the paths are not a source.
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
    """Return the shards of a folder of shards, or none for a folder of images."""
    suffixes = {suffix for kind in _kinds() if kind.shards for suffix in kind.suffixes}
    below = files_below(folder)
    found = [path for path in below if path.suffix.lower() in suffixes]
    if not found:
        return []
    suffix = found[0].suffix.lower()
    hint = f"name the files, such as {folder}/{{000..007}}{suffix}, or move the others"
    if image := next((path for path in below if is_image(path)), None):
        if not wanted.pairs:
            return []  # the listing reports that the shards are left out
        raise InputError(f"{folder} holds {found[0].name} and {image.name}: shards, or images?", hint)
    if other := next((p for p in found if p.parent != folder or p.suffix.lower() != suffix), None):
        names = " and ".join(readable(p.relative_to(folder).as_posix()) for p in (found[0], other))
        raise InputError(f"{folder} holds {names}: shards of several kinds, or in subfolders", hint)
    return found
