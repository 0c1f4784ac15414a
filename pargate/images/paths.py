"""Expand the paths of image sources, and recognise image files."""

import re
from collections.abc import Iterable
from pathlib import Path

from pargate import limits
from pargate.errors import InputError, nearest
from pargate.files import readable
from pargate.images.decode import Locator

SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif",
    ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
}  # fmt: skip
"""Suffixes of images that are decoded."""

TEXTS = {".txt", ".json", ".jsonl", ".csv", ".tsv", ".md", ".xml", ".yaml", ".yml", ".html", ".cls"}
"""Suffixes of files that are not images, which are not opened to check."""

_MAGIC = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP", re.DOTALL)
"""First bytes of images that may have any suffix; other kinds begin like texts or raw camera files."""

_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?")


def expand(source: str) -> list[Path]:
    """Return the paths of a source, with brace ranges such as `{000..007}` expanded.

    Raises:
        InputError: a path does not exist or is named twice, or the braces cannot be read.
    """
    names: Iterable[str] = [source]
    if "{" in source and not Path(source).exists():
        from braceexpand import braceexpand

        # The library expands a range as a whole before it returns the first name.
        if any(abs(int(b) - int(a)) // (int(step or 1) or 1) >= limits.BRACED for a, b, step in _RANGE.findall(source)):
            raise InputError(
                f"the braces in {source} name more than {limits.BRACED} files", "write {000..007} or {a,b}"
            )
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
    """Return `path`.

    Raises:
        InputError: the path is not a file, or is a broken link.
    """
    if not path.is_file():
        raise InputError(f"{readable(str(path))} is not a file, or is a broken link", "repair it, or remove it")
    return path


def is_image(path: Path) -> bool:
    """Return whether a file is an image, by its suffix or, where that is unknown, by its first bytes."""
    suffix = path.suffix.lower()
    return suffix in SUFFIXES or (suffix not in TEXTS and path.is_file() and begins_image(Locator(str(path), 0, 16)))


def begins_image(place: Locator) -> bool:
    """Return whether the bytes at `place` begin an image."""
    return bool(_MAGIC.match(place.read()))
