"""Captioned pictures on disk: a table, a folder with a text beside each picture, WebDataset tars.

Listing reads names, headers and captions, and every byte once for the digest; pictures are decoded later. A
source that does not pair each picture with one caption is refused as a whole: which half is at fault only
its owner knows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pargate.errors import InputError
from pargate.files import digest_of, files_below, open_file, read_bytes, readable, refuse_pointer, sha256_file
from pargate.images.decode import Locator
from pargate.images.sources import SUFFIXES, is_picture, present, tar_picture, tar_samples
from pargate.images.tables import check_once, read_table

CAPTION_BYTES = 1 << 20
"""Bound of the text of one picture."""

_SHOWN = 3
"""Names that a message gives when many things share one fault."""


@dataclass(frozen=True, slots=True)
class Captioned:
    """Captions and where their pictures are; as arrays, because there may be millions."""

    paths: tuple[str, ...]
    """Files that hold pictures."""
    file: NDArray[np.int32]
    """[n], index in `paths`."""
    offset: NDArray[np.int64]
    """[n], where the picture begins in its file."""
    size: NDArray[np.int64]
    """[n], bytes of the picture, or −1 for all of the file."""
    captions: tuple[str, ...]
    """One per picture."""
    digest: str
    """Hex SHA-256 over the names and bytes of all that was read."""
    seen: NDArray[np.int64]
    """[paths, 2], time of change in ns and size of each file before it was read for the digest."""
    left_out: tuple[str, ...] = ()
    """Names of what is in the source and is neither a picture nor a caption."""

    def place(self, number: int) -> Locator:
        """Where picture `number` is."""
        return Locator(self.paths[self.file[number]], int(self.offset[number]), int(self.size[number]))

    def changed(self) -> str | None:
        """A file that is not what it was when it was listed, if there is one."""
        differs = np.flatnonzero((_stamps(map(Path, self.paths)) != self.seen).any(axis=1))
        return self.paths[differs[0]] if len(differs) else None


def from_folder(folder: Path) -> Captioned:
    """Pictures of a folder, at any depth, each with a `.txt` of the same name beside it.

    Raises:
        InputError: a picture without a text, a text without a picture, an empty or unreadable text.
    """
    pictures: dict[str, list[Path]] = {}
    texts: dict[str, Path] = {}
    others: list[str] = []
    for path in files_below(folder):
        stem = path.with_suffix("").relative_to(folder).as_posix()
        if path.suffix.lower() == ".txt":
            if stem in texts:
                raise InputError(f"{texts[stem]} and {path.name} are captions of one picture", "keep one of them")
            texts[stem] = present(path)
        elif is_picture(path):
            pictures.setdefault(stem, []).append(present(path))
        else:
            others.append(path.relative_to(folder).as_posix())
    _check_matched(
        str(folder),
        [found[0].relative_to(folder).as_posix() for stem, found in pictures.items() if stem not in texts],
        [path.relative_to(folder).as_posix() for stem, path in texts.items() if stem not in pictures],
        len(pictures),
    )
    if double := [stem for stem, found in pictures.items() if len(found) > 1]:
        raise InputError(f"{folder}: several pictures share one caption: {_some(double)}", "give each its own text")
    captions = [_text(texts[stem]) for stem in pictures]
    _check_captions(str(folder), captions, [texts[stem].relative_to(folder).as_posix() for stem in pictures])
    files = [found[0] for found in pictures.values()]
    seen = _stamps(files)
    found = _of_files(files, captions, _digest(folder, [*files, *texts.values()]), seen)
    return replace(found, left_out=tuple(others))


def from_table(path: Path) -> Captioned:
    """Rows of a CSV or TSV with the header `image,caption`; images are named relative to the table.

    Raises:
        InputError: another header, a row without image or caption or with too many fields, an image that is not there.
    """
    rows = read_table(path, lambda header: _check_header(path, header))
    if unnamed := [f"line {row.line}" for row in rows if not row.fields["image"]]:
        raise InputError(f"{path}: {_count(unnamed, 'row')} without an image: {_some(unnamed)}", "fill them in")
    captions = [" ".join(row.fields["caption"].split()) for row in rows]
    _check_captions(str(path), captions, [f"line {row.line}" for row in rows])
    files = [path.parent / row.fields["image"] for row in rows]
    if absent := [
        f"line {row.line}: {row.fields['image']}" for row, file in zip(rows, files, strict=True) if not file.is_file()
    ]:
        raise InputError(
            f"{path}: {_count(absent, 'caption')} without a picture ({_some(absent)})",
            f"paths are read relative to {path.parent}: add the pictures, or remove the rows",
        )
    seen = _stamps(files)
    return _of_files(files, captions, _digest(path.parent, [path, *files]), seen)


def _check_header(path: Path, header: tuple[str, ...]) -> None:
    if missing := {"image", "caption"} - set(header):
        raise InputError(
            f"{path}: the header is {', '.join(header) or 'empty'}",
            f"pairs need the columns `image` and `caption`; there is no {' and no '.join(sorted(missing))}",
        )
    check_once(path, header, ("image", "caption"))


def from_tars(paths: Sequence[Path]) -> Captioned:
    """Samples of WebDataset tars: a picture and a `.txt` that share a name.

    Raises:
        InputError: a damaged tar, a picture without a text, several with one, a text without a picture, an empty text.
    """
    seen = _stamps(paths)
    rows: list[tuple[int, int, int]] = []
    captions: list[str] = []
    names: list[str] = []
    alone: list[str] = []
    mute: list[str] = []
    others: list[str] = []
    for number, path in enumerate(paths):
        samples = tar_samples(path)
        with open_file(path) as stream:
            for stem, members in samples.items():
                name = f"{path.name}/{stem}" if len(paths) > 1 else stem
                picture, text = tar_picture(path, stem, members), members.get(".txt")
                if picture is None or text is None:
                    if picture is not None:
                        mute.append(name)
                    elif text is not None:
                        alone.append(f"{name}.txt")
                    else:
                        others += (f"{name}{suffix}" for suffix in members)
                    continue
                stream.seek(text.offset_data)
                captions.append(_decoded(f"{path}: {text.name}", stream.read(min(text.size, CAPTION_BYTES + 1))))
                names.append(name)
                rows.append((number, picture.offset_data, picture.size))
    source = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    _check_matched(source, mute, alone, len(rows) + len(mute))
    _check_captions(source, captions, names)
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return Captioned(
        tuple(map(str, paths)),
        columns[:, 0].astype(np.int32),
        columns[:, 1],
        columns[:, 2],
        tuple(captions),
        digest_of([[path.name, sha256_file(path)] for path in paths]),
        seen,
        tuple(others),
    )


def _stamps(files: Iterable[Path]) -> NDArray[np.int64]:
    """Time of change and size of files, [n, 2]; −1 of what is not there."""

    def stamp(path: Path) -> tuple[int, int]:
        try:
            found = path.stat()
        except OSError:
            return -1, -1
        return found.st_mtime_ns, found.st_size

    return np.array([stamp(path) for path in files], dtype=np.int64).reshape(-1, 2)


def _of_files(files: Sequence[Path], captions: Sequence[str], digest: str, seen: NDArray[np.int64]) -> Captioned:
    """One picture per file."""
    n = len(files)
    whole = np.full(n, -1, dtype=np.int64)
    places = np.arange(n, dtype=np.int32)
    return Captioned(tuple(map(str, files)), places, np.zeros(n, np.int64), whole, tuple(captions), digest, seen)


def _digest(root: Path, files: Iterable[Path]) -> str:
    """Names relative to `root`, so that a source may move, and contents."""
    found = {}
    for file in files:
        try:
            found[readable(file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file))] = (
                sha256_file(file)
            )
        except OSError as error:
            raise InputError(f"cannot read {file}: {error.strerror}", "check its permissions") from error
    return digest_of(sorted(found.items()))


def _decoded(where: str, content: bytes) -> str:
    """A caption as one line."""
    refuse_pointer(where, content)
    if len(content) > CAPTION_BYTES:
        raise InputError(f"{where} is larger than {CAPTION_BYTES >> 20} MiB", "a caption is a sentence")
    try:
        return " ".join(content.decode("utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not text: {error}", "save it as UTF-8") from error


def _text(path: Path) -> str:
    """The caption that a file holds."""
    try:
        return _decoded(str(path), read_bytes(path, CAPTION_BYTES))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "a caption is a text file") from error


def _check_matched(source: str, mute: Sequence[str], alone: Sequence[str], pictures: int) -> None:
    """Every picture has its caption, and every caption its picture."""
    if not pictures and not alone:
        raise InputError(
            f"no pictures in {source}",
            f"pairs are a picture ({', '.join(sorted(SUFFIXES))}) and a .txt of the same name",
        )
    if mute and len(mute) == pictures and not alone:
        raise InputError(
            f"{source} has {_count(mute, 'picture')} and no captions",
            f"write one into a text beside each, such as {Path(mute[0]).with_suffix('.txt').as_posix()}, or give a CSV "
            "with the header image,caption",
        )
    wrong = []
    if mute:
        wrong.append(f"{_count(mute, 'picture')} without a caption ({_some(mute)})")
    if alone:
        wrong.append(f"{_count(alone, 'caption')} without a picture ({_some(alone)})")
    if wrong:
        raise InputError(f"{source}: {' and '.join(wrong)}", "complete the pairs, or remove what is alone")


def _check_captions(source: str, captions: Sequence[str], names: Sequence[str]) -> None:
    if empty := [name for name, caption in zip(names, captions, strict=True) if not caption]:
        raise InputError(
            f"{source}: {_count(empty, 'caption')} empty: {_some(empty)}", "write them, or remove the pairs"
        )


def _count(things: Sequence[str], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _some(names: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(map(readable, names[:_SHOWN])) + (", …" if len(names) > _SHOWN else "")
