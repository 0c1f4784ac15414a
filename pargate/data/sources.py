"""Where carriers come from: a folder, class folders, CSV or TSV, WebDataset tars, the scene renderer.

Listing reads names and, for tars, headers; pictures are read later, by the decoding workers, and only as
many as a scan needs.
"""

import posixpath
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from pargate.data import tables
from pargate.data.images import Locator
from pargate.errors import InputError, first_line, nearest
from pargate.files import digest_of, files_below, open_file, readable, sha256_file

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}

BUILTIN_SCENES = "builtin:scenes"

SCENES = 4000
"""Scenes in the built-in set; the renderer has no end, a set needs one."""

FIRST_SCENE = 1 << 41
"""Number of its first scene. What is made for training counts up from 0, and never meets a carrier."""

_MOST = 1_000_000
"""Names that one brace range may stand for."""

_RECORD_BYTES = 1 << 20
"""Bound of a header of a tar, which are read as a whole; names of 100 KB are none."""

_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?")


@dataclass(frozen=True, slots=True)
class Item:
    """One carrier before it is read."""

    key: str
    """Name within its source, unique and the same on every machine."""
    place: Locator | int
    """Where its bytes are, or its number in the scene renderer."""
    label: str | int | None = None
    """Name of its true class, or its index in the list of classes."""
    caption: str | None = None


def list_items(source: str) -> list[Item]:
    """All carriers of a source, in its own order.

    Raises:
        InputError: nothing there, no pictures in it, or it cannot be read; says what was expected.
    """
    if source == BUILTIN_SCENES:
        return [Item(f"{i:06d}", FIRST_SCENE + i) for i in range(SCENES)]
    if source.startswith("builtin:"):
        raise InputError(f"unknown image source '{source}'", f"the built-in one is {BUILTIN_SCENES}")
    try:
        return _listed(source)
    except OSError as error:  # a folder that may not be read, a name that is too long
        raise InputError(
            f"cannot read images from {source[:80]}: {error.strerror}", "check the path and its permissions"
        ) from error


def _listed(source: str) -> list[Item]:
    paths = expand(source)
    if any(path.suffix == ".tar" for path in paths):
        items = [item for path in paths for item in _tar(path, len(paths) > 1)]
    elif len(paths) > 1:
        raise InputError(f"{source} names {len(paths)} image sources", "only tars can be given as several")
    elif paths[0].is_dir():
        items = _folder(paths[0])
    elif paths[0].suffix.lower() in tables.SUFFIXES:
        items = _table(paths[0])
    else:
        raise InputError(
            f"cannot read images from {source}",
            "give a folder, class folders, a CSV or TSV with the header image,label|caption, a WebDataset .tar, "
            f"or {BUILTIN_SCENES}",
        )
    if not items:
        raise InputError(f"no pictures in {source}", f"known kinds: {', '.join(sorted(SUFFIXES))}")
    return items


def source_digest(source: str) -> str:
    """Hex SHA-256 of everything that a scan reads from a source of images: names and bytes, whatever their order.

    Of a table these are also the pictures that it names; one that is missing counts as such.

    Raises:
        InputError: nothing is there, or it cannot be read.
    """
    if source == BUILTIN_SCENES:
        return digest_of(source)
    try:
        return digest_of(_held(source))
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror}", "check the path and its permissions") from error


def _held(source: str) -> list[tuple[str, str]]:
    """Names and digests of the files that a source consists of."""
    roots = expand(source)
    files = [
        (path.relative_to(root).as_posix() if path != root else path.name, path)
        for root in roots
        for path in ([root] if root.is_file() else files_below(root))
    ]
    for table in (root for root in roots if root.is_file() and root.suffix.lower() in tables.SUFFIXES):
        files += {item.key: Path(item.place.path) for item in _table(table) if isinstance(item.place, Locator)}.items()
    return sorted((name, sha256_file(path) if path.is_file() else "missing") for name, path in files)


def expand(source: str) -> list[Path]:
    """Existing paths of a source; brace ranges such as `{000..007}` are expanded.

    Raises:
        InputError: nothing is there.
    """
    names: Iterable[str] = [source]
    if "{" in source and not Path(source).exists():
        from braceexpand import braceexpand

        # The library holds a range as a whole, before its first name is looked for.
        if any(abs(int(b) - int(a)) // (int(step or 1) or 1) >= _MOST for a, b, step in _RANGE.findall(source)):
            raise InputError(f"the braces in {source} name more than {_MOST} files", "write {000..007} or {a,b}")
        try:
            names = braceexpand(source)
        except ValueError as error:
            raise InputError(f"cannot read the braces in {source}: {error}", "write {000..007} or {a,b}") from error
    paths: dict[Path, None] = {}
    for path in map(Path, names):
        if path in paths:
            raise InputError(f"{source} names {path} twice", "name each file once")
        if not path.exists():
            near = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
            several = " Of several files, write {000..007} or {a,b}, or name their folder." if "*" in source else ""
            more = several or near
            raise InputError(f"no such file or folder: {path}", f"check the path.{more}" if more else "check the path")
        paths[path] = None
    return list(paths)


def present(path: Path) -> Path:
    """A path behind which there is a file.

    Raises:
        InputError: there is none.
    """
    if not path.is_file():
        raise InputError(f"{readable(str(path))} is no file, or a link to none", "repair it, or remove it")
    return path


def _folder(folder: Path) -> list[Item]:
    """Pictures of a folder; class folders if it holds none itself but its subfolders do."""
    pictures = [present(p) for p in files_below(folder) if p.suffix.lower() in SUFFIXES]
    by_class = bool(pictures) and all(p.parent.parent == folder for p in pictures)
    return [
        Item(
            readable(p.relative_to(folder).as_posix()),
            Locator(str(p)),
            readable(p.parent.name.replace("_", " ")) if by_class else None,
        )
        for p in pictures
    ]


def _table(path: Path) -> list[Item]:
    """Rows of a CSV or TSV with the header `image` and `label`, `caption`, or both."""
    items = []
    for row in tables.read_table(path, lambda header: _check_header(path, header)):
        image, label = row.fields["image"], row.fields.get("label") or None
        if not image:
            raise InputError(f"{path}:{row.line}: no image is named", "fill in the column `image`")
        items.append(
            Item(
                image,
                Locator(str(path.parent / image)),
                int(label) if label is not None and label.isdecimal() else label,
                row.fields.get("caption") or None,
            )
        )
    return items


def _check_header(path: Path, header: tuple[str, ...]) -> None:
    if "image" not in header or not {"label", "caption"} & set(header):
        raise InputError(
            f"{path}: the header is {', '.join(header) or 'empty'}", "it needs `image` and `label` or `caption`"
        )
    tables.check_once(path, header, ("image", "label", "caption"))


class _Headers:
    """A tar as `tarfile` reads it, without headers of any size: it believes whatever size they claim."""

    def __init__(self, stream: BinaryIO) -> None:
        self._read, self.seek, self.tell = stream.read, stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _RECORD_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._read(size)


def tar_samples(path: Path) -> dict[str, dict[str, tarfile.TarInfo]]:
    """Members of a WebDataset tar by what they share, the name up to its first dot, and then by suffix.

    Raises:
        InputError: not a tar, one that ends early or goes on behind its end, two members of one name, or a link.
    """
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    last, rest = None, b""
    try:
        with open_file(path) as stream, tarfile.open(fileobj=cast(Any, _Headers(stream)), mode="r:") as archive:
            for member in archive:
                if member.size < 0:
                    raise InputError(f"{path}: {readable(member.name)} has {member.size} bytes", "make the tar again")
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise InputError(
                        f"{path}: {readable(member.name)} is a link, a device or sparse: its bytes are elsewhere",
                        "make the tar again, of whole files: GNU tar does with --hard-dereference -h and without -S",
                    )
                folder, name = posixpath.split(member.name.removeprefix("./"))
                stem, _, suffix = name.partition(".")
                sample = samples.setdefault(posixpath.join(folder, stem), {})
                if f".{suffix.lower()}" in sample:
                    raise InputError(f"{path} holds {readable(member.name)} twice", "give each sample its own name")
                sample[f".{suffix.lower()}"] = last = member
            stream.seek(archive.offset)
            end = stream.read(tarfile.BLOCKSIZE)
            while not rest.strip(b"\0") and (rest := stream.read(1 << 20)):
                pass
    except (InputError, MemoryError):
        raise
    except Exception as error:  # `tarfile` lets all through that its parsing of numbers, texts and records can raise
        raise InputError(f"{path} is not a complete tar: {first_line(error)}", "copy or make it again") from error
    # Python's reader takes whatever is no header for the end; the end is an empty block, and nothing but such follow.
    if last is not None and end != bytes(tarfile.BLOCKSIZE):
        raise InputError(f"{path} is cut short at or after {readable(last.name)}", "copy or make it again")
    if rest:
        after = f" after {readable(last.name)}" if last else ""
        raise InputError(
            f"{path} is damaged, or two tars in one: there is more behind its end{after}", "copy or make it again"
        )
    return samples


def tar_picture(path: Path, stem: str, members: dict[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """The picture among the members of sample `stem`, if there is one.

    Raises:
        InputError: there are several, or what could be one has a dot before its ending.
    """
    pictures = [member for suffix, member in members.items() if suffix in SUFFIXES]
    if len(pictures) > 1:
        raise InputError(f"{path}: sample {readable(stem)} holds {len(pictures)} pictures", "give each its own name")
    if not pictures and (odd := [suffix for suffix in members if suffix.endswith(tuple(SUFFIXES))]):
        raise InputError(
            f"{path}: {readable(stem + odd[0])} has a dot before its ending",
            "WebDataset takes all behind the first dot for the ending: use names without another",
        )
    return pictures[0] if pictures else None


def _tar(path: Path, many: bool) -> Iterator[Item]:
    """Carriers of a WebDataset tar."""
    for stem, members in tar_samples(path).items():
        picture = tar_picture(path, stem, members)
        if picture is None:
            continue
        label = _text(path, members.get(".cls"))
        try:
            index = None if label is None else int(label)
        except ValueError as error:
            raise InputError(f"{path}: {stem}.cls holds '{label[:40] if label else ''}', not a class index") from error
        yield Item(
            readable(f"{path.name}/{stem}" if many else stem),
            Locator(str(path), picture.offset_data, picture.size),
            index,
            _text(path, members.get(".txt")),
        )


def _text(path: Path, member: tarfile.TarInfo | None) -> str | None:
    if member is None:
        return None
    content = Locator(str(path), member.offset_data, min(member.size, 1 << 16)).read()
    return content.decode("utf-8", errors="replace").strip() or None
