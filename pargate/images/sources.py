"""Where carriers come from: a folder, class folders, CSV or TSV, WebDataset tars, the scene renderer.

Listing reads names and, for tars, headers; pictures are read later, by the decoding workers, and only as
many as a scan needs.
"""

import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from pargate.core.names import tidy
from pargate.errors import InputError, first_line, nearest
from pargate.files import digest_of, files_below, open_file, readable, refuse_pointer, sha256_file
from pargate.images import tables
from pargate.images.decode import Locator

SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif",
    ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
}  # fmt: skip
"""Endings of what is decoded, as browsers, cameras and programs write them."""

_MAGIC = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP", re.DOTALL)
"""How pictures begin that may have any ending. The other kinds begin as texts or raw files of cameras do."""

_TEXTS = {".txt", ".json", ".jsonl", ".csv", ".tsv", ".md", ".xml", ".yaml", ".yml", ".html", ".cls"}
"""Endings of what is no picture, so that it need not be opened to see that."""

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


@dataclass(frozen=True, slots=True)
class Listed:
    """A source of carriers."""

    items: list[Item]
    """All of them, in the source's own order."""
    notices: tuple[str, ...] = ()
    """What is in the source and was left out."""


def list_items(source: str) -> list[Item]:
    """All carriers of a source, in its own order.

    Raises:
        InputError: as `list_source`.
    """
    return list_source(source).items


def list_source(source: str) -> Listed:
    """All carriers of a source, and what to say about the rest of it.

    Raises:
        InputError: nothing there, no pictures in it, or it cannot be read; says what was expected.
    """
    if source == BUILTIN_SCENES:
        return Listed([Item(f"{i:06d}", FIRST_SCENE + i) for i in range(SCENES)])
    if source.startswith("builtin:"):
        raise InputError(f"unknown image source '{source}'", f"the built-in one is {BUILTIN_SCENES}")
    try:
        return _listed(source)
    except OSError as error:  # a folder that may not be read, a name that is too long
        raise InputError(
            f"cannot read images from {source[:80]}: {error.strerror}", "check the path and its permissions"
        ) from error


def _listed(source: str) -> Listed:
    paths = expand(source)
    if any(path.suffix == ".tar" for path in paths):
        found = _tars(paths)
    elif len(paths) > 1:
        raise InputError(f"{source} names {len(paths)} image sources", "only tars can be given as several")
    elif paths[0].is_dir():
        found = _folder(paths[0])
    elif paths[0].suffix.lower() in tables.SUFFIXES:
        found = _table(paths[0])
    else:
        raise InputError(
            f"cannot read images from {source}",
            "give a folder, class folders, a CSV or TSV with the header image,label|caption, a WebDataset .tar, "
            f"or {BUILTIN_SCENES}",
        )
    if not found.items:
        more = f"; {found.notices[0]}" if found.notices else ""
        raise InputError(f"no pictures in {source}{more}", f"known kinds: {', '.join(sorted(SUFFIXES))}")
    return Listed(found.items, tuple(f"{source}: {notice}" for notice in found.notices))


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
        files += {
            item.key: Path(item.place.path) for item in _table(table).items if isinstance(item.place, Locator)
        }.items()
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


def is_picture(path: Path) -> bool:
    """Whether a file is a picture by its ending or, where that says nothing, by its first bytes."""
    suffix = path.suffix.lower()
    return suffix in SUFFIXES or (suffix not in _TEXTS and path.is_file() and _begins(Locator(str(path), 0, 16)))


def _begins(place: Locator) -> bool:
    """Whether these are the first bytes of a picture."""
    return bool(_MAGIC.match(place.read()))


def _folder(folder: Path) -> Listed:
    """Pictures of a folder; those directly in its subfolders have their names as labels, unless most lie elsewhere."""
    pictures, others = [], []
    for path in files_below(folder):
        if is_picture(path):
            pictures.append(present(path))
        else:
            others.append(path.relative_to(folder).as_posix())
    in_class = [path.parent.parent == folder for path in pictures]
    by_class = sum(in_class) * 2 >= len(pictures)
    items = [
        Item(
            readable(path.relative_to(folder).as_posix()),
            Locator(str(path)),
            (tidy(readable(path.parent.name.replace("_", " "))) or None) if by_class and inside else None,
        )
        for path, inside in zip(pictures, in_class, strict=True)
    ]
    notices = list(left_out("files", others))
    deeper = next((item.key for item in items if "/" in item.key), None)
    if deeper is not None and not by_class:
        notices.append(
            f"no folder is taken for a class, since most pictures do not lie directly in a subfolder, as {deeper}; "
            "name the folder that the class folders are in"
        )
    return Listed(items, tuple(notices))


def left_out(what: str, names: Sequence[str]) -> Iterator[str]:
    """How many of these, which are no pictures, were left out, by their endings; systems' own files are no loss."""
    lost = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    lost = [name for name in lost if posixpath.basename(name).lower() not in _SYSTEM]
    kinds = Counter(posixpath.splitext(name)[1].lower() or "without an ending" for name in lost)
    if lost:
        several = ", ".join(f"{count} {readable(kind)}" for kind, count in kinds.most_common(8))
        yield f"{what} left out that pargate does not read: {several}; the first is {readable(lost[0])}"


_SYSTEM = {"thumbs.db", "desktop.ini"}

_NUMBER = re.compile(r"([+-]?)(\d+)(\.0*)?|[+-]?(\d+\.\d*|\.\d+|\d+(\.\d*)?[eE][+-]?\d+)", re.ASCII)

_DIGITS = 9
"""Of a class index, at most."""


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


def _table(path: Path) -> Listed:
    """Rows of a CSV or TSV with the header `image` and `label`, `caption`, or both."""
    items = []
    unread: tuple[str, ...] = ()
    for row in tables.read_table(path, lambda header: _check_header(path, header)):
        image = row.fields["image"]
        if not image:
            raise InputError(f"{path}:{row.line}: no image is named", "fill in the column `image`")
        items.append(
            Item(
                image,
                Locator(str(path.parent / image)),
                read_label(row.fields.get("label", ""), f"{path}:{row.line}"),
                row.fields.get("caption", "").strip() or None,
            )
        )
        unread = tuple(name for name in row.fields if name not in _COLUMNS)
    return Listed(items, (f"columns that are not read: {', '.join(unread[:8])}",) if unread else ())


_COLUMNS = ("image", "label", "caption")


def _check_header(path: Path, header: tuple[str, ...]) -> None:
    if "image" not in header or not {"label", "caption"} & set(header):
        raise InputError(
            f"{path}: the header is {', '.join(header) or 'empty'}", "it needs `image` and `label` or `caption`"
        )
    tables.check_once(path, header, _COLUMNS)


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
        InputError: a git-lfs pointer, not a tar, one that ends early or goes on behind its end, two members of one
            name, or a link.
    """
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    last, rest = None, b""
    try:
        with open_file(path) as stream:
            refuse_pointer(str(path), stream.peek())
            archive = tarfile.TarFile(fileobj=cast(Any, _Headers(stream)))
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
    if not pictures:
        pictures = [
            member
            for suffix, member in members.items()
            if suffix not in _TEXTS and _begins(Locator(str(path), member.offset_data, min(member.size, 16)))
        ]
    return pictures[0] if len(pictures) == 1 else None


def _tars(paths: Sequence[Path]) -> Listed:
    """Carriers of WebDataset tars."""
    items: list[Item] = []
    others: list[str] = []
    for path in paths:
        for stem, members in tar_samples(path).items():
            picture = tar_picture(path, stem, members)
            name = readable(f"{path.name}/{stem}" if len(paths) > 1 else stem)
            read = (".cls", ".txt") if picture else ()
            others += (f"{name}{suffix}" for suffix, m in members.items() if m is not picture and suffix not in read)
            if picture is None:
                continue
            label = read_label(_text(path, members.get(".cls")), f"{path}: {readable(stem)}.cls")
            if isinstance(label, str):
                raise InputError(f"{path}: {stem}.cls holds '{label[:40]}', not a class index")
            items.append(
                Item(
                    name,
                    Locator(str(path), picture.offset_data, picture.size),
                    label,
                    _text(path, members.get(".txt")) or None,
                )
            )
    return Listed(items, tuple(left_out("members", others)))


_TEXT_BYTES = 1 << 16
"""Bound of a label or caption."""


def _text(path: Path, member: tarfile.TarInfo | None) -> str:
    """A label or caption; empty where there is none."""
    if member is None:
        return ""
    where = f"{path}: {readable(member.name)}"
    content = Locator(str(path), member.offset_data, min(member.size, _TEXT_BYTES)).read()
    refuse_pointer(where, content)
    try:
        if member.size > _TEXT_BYTES:
            raise InputError(f"{where} is longer than {_TEXT_BYTES} bytes", "a label or a caption is one short text")
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not text: {error}", "save it as UTF-8") from error
