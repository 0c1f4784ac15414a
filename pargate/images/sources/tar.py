"""Read WebDataset tars: members with the same name up to its first dot are one sample.

Only headers and short texts are read; decoding workers read the images later.
"""

import posixpath
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from pargate import limits
from pargate.errors import InputError, first_line
from pargate.files import open_file, readable, refuse_pointer
from pargate.images.dataset import Dataset
from pargate.images.decode import Locator
from pargate.images.listing import Listing, read_label, read_text
from pargate.images.opening import SOURCES, Source, Wanted
from pargate.images.paths import SUFFIXES, TEXTS, begins_image


@SOURCES.add("tar")
class Tar(Source):
    """Plain tars with an image, a class index (`.cls`) and a caption (`.txt`) per sample."""

    suffixes = (".tar",)
    shards = True

    def list(self, wanted: Wanted, paths: Sequence[Path]) -> Dataset:
        """Return the images of tars; for training each needs a `.txt`."""
        listing = Listing(wanted, unit="members", ordered=True)
        listing.files = [(path.name, path) for path in paths]
        read_tars(listing, paths)
        return listing.dataset()


def read_tars(listing: Listing, paths: Sequence[Path], *, names: bool = False) -> None:
    """Add the images of tars to `listing`; `names` is whether a `.cls` may hold the name of a class.

    Raises:
        InputError: a damaged tar, several images in a sample, or a text that cannot be read.
    """
    for path in paths:
        _read_tar(listing, path, f"{path.name}/" if len(paths) > 1 else "", names)


def _read_tar(listing: Listing, path: Path, prefix: str, names: bool) -> None:
    file = listing.hold(path)
    samples = _samples(path)
    with open_file(path) as stream:

        def text(suffix: str) -> str | None:
            member = members.get(suffix)
            if member is None:
                return None
            stream.seek(member.offset_data)
            where = f"{path}: {readable(member.name)}"
            return read_text(where, stream.read(min(member.size, limits.CAPTION_BYTES + 1)))

        for stem, members in samples.items():
            image = _image(path, stem, members)
            name = readable(prefix + stem)
            read = {".txt"} if listing.wanted.pairs else {".cls", ".txt"} if image else set()
            listing.left_out += (f"{name}{s}" for s, m in members.items() if m is not image and s not in read)
            if image is None:
                if listing.wanted.pairs and ".txt" in members:
                    listing.alone.append(f"{name}.txt")
                continue
            label = read_label(text(".cls") or "", f"{path}: {readable(stem)}.cls") if ".cls" in read else None
            if isinstance(label, str) and not names:
                raise InputError(f"{path}: {stem}.cls holds '{label[:40]}', not a class index")
            listing.add(name, file, (image.offset_data, image.size), label=label, caption=text(".txt"))


class _Headers:
    """A stream for `tarfile` that limits the size of headers, which `tarfile` does not."""

    def __init__(self, stream: BinaryIO) -> None:
        self._read, self.seek, self.tell = stream.read, stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= limits.RECORD_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._read(size)


def _samples(path: Path) -> dict[str, dict[str, tarfile.TarInfo]]:
    """Return the members of a tar, by their name up to its first dot and then by suffix.

    Raises:
        InputError: a git-lfs pointer, not a tar, a tar that is cut short or goes on after its end, two members of the
            same name, or a link.
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
    except Exception as error:  # `tarfile` raises errors of many kinds for damaged headers
        raise InputError(f"{path} is not a complete tar: {first_line(error)}", "copy or make it again") from error
    # Python's reader takes anything but a header for the end. The real end is an empty block, followed by empty ones.
    if last is not None and end != bytes(tarfile.BLOCKSIZE):
        raise InputError(f"{path} is cut short at or after {readable(last.name)}", "copy or make it again")
    if rest:
        after = f" after {readable(last.name)}" if last else ""
        raise InputError(f"{path} is damaged, or two tars in one: data follows its end{after}", "copy or make it again")
    return samples


def _image(path: Path, stem: str, members: dict[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """Return the image among the members of sample `stem`, or None.

    Raises:
        InputError: there are several images, or the name of one has a dot before its suffix.
    """
    images = [member for suffix, member in members.items() if suffix in SUFFIXES]
    if len(images) > 1:
        raise InputError(f"{path}: sample {readable(stem)} holds {len(images)} images", "give each its own name")
    if not images and (odd := [suffix for suffix in members if suffix.endswith(tuple(SUFFIXES))]):
        raise InputError(
            f"{path}: {readable(stem + odd[0])} has a dot before its suffix",
            "use names with one dot: in WebDataset the suffix begins at the first dot",
        )
    if not images:
        images = [
            member
            for suffix, member in members.items()
            if suffix not in TEXTS and begins_image(Locator(str(path), member.offset_data, min(member.size, 16)))
        ]
    return images[0] if len(images) == 1 else None
