"""Collect the content of a source into a dataset; refuse incomplete pairs and report files that are left out."""

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pargate import limits
from pargate.core.names import tidy
from pargate.errors import InputError
from pargate.files import readable, refuse_pointer
from pargate.images.dataset import Listed, stamp
from pargate.images.opening import Wanted
from pargate.images.paths import SUFFIXES

_SHOWN = 3
"""Number of names that a message gives of many."""


@dataclass
class Listing:
    """The content of a source, collected while it is read."""

    wanted: Wanted
    hint: str = "complete the pairs, or remove the incomplete ones"
    """Advice for pairs that are not complete."""
    files: list[tuple[str, Path]] = field(default_factory=list)
    """Names and paths of all files that decide the digest."""
    left_out: list[str] = field(default_factory=list)
    """Names of files that are neither images nor texts about them."""
    unit: str = "files"
    """Word for these files in messages."""
    alone: list[str] = field(default_factory=list)
    """Names of captions without an image."""
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
        """Return the number of a file that holds images; record its state before it is read."""
        self._paths.append(str(path))
        self._seen.append(stamp(path))
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
        """Add an image.

        Args:
            key: name of the image within the source.
            file: number of its file.
            span: offset and size in the file.
            label: class of the image.
            caption: caption of the image, or None.
            told: name of the caption in messages, if not `key`.
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
        """Return the dataset.

        Raises:
            InputError: there are no images, or pairs are wanted and an image or caption is missing.
        """
        source = self.wanted.source
        notices = [*_left_out(self.unit, self.left_out), *self.notices]
        if self.wanted.pairs:
            self._check_pairs()
        if not self._keys:
            more = f"; {notices[0]}" if notices else ""
            raise InputError(f"no images in {source}{more}", f"known kinds: {', '.join(sorted(SUFFIXES))}")
        assert self.files, "a source names the files that decide its digest"
        ranges = np.array(self._ranges, dtype=np.int64)
        found = Listed(
            source, tuple(f"{source}: {notice}" for notice in notices), tuple(self._keys), tuple(self._labels),
            tuple(self._texts), ranges[:, 0].astype(np.int32), ranges[:, 1], ranges[:, 2], tuple(self._paths),
            np.array(self._seen, dtype=np.int64), tuple(self.files),
            self.ordered and self.wanted.pairs, self.unpacked,
        )  # fmt: skip
        if self.wanted.pairs:
            found.digest  # noqa: B018 - cached now, before the files can change
        return found

    def _check_pairs(self) -> None:
        source, mute, alone = self.wanted.source, self._mute, self.alone
        if mute and len(mute) == len(self._keys) and not alone:
            raise InputError(
                f"{source} has {count(mute, 'image')} and no captions",
                f"write one into a text beside each, such as {Path(mute[0]).with_suffix('.txt').as_posix()}, or give a "
                "CSV with the header image,caption",
            )
        wrong = []
        if mute:
            wrong.append(f"{count(mute, 'image')} without a caption ({some(mute)})")
        if alone:
            wrong.append(f"{count(alone, 'caption')} without an image ({some(alone)})")
        if wrong:
            raise InputError(f"{source}: {' and '.join(wrong)}", self.hint)
        if self._empty:
            raise InputError(
                f"{source}: {count(self._empty, 'caption')} empty: {some(self._empty)}",
                "write them, or remove the pairs",
            )


def count(things: Sequence[str], noun: str) -> str:
    """Return the number of things with the noun, in singular or plural."""
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def some(names: Sequence[str]) -> str:
    """Return the first few of many names."""
    return ", ".join(map(readable, names[:_SHOWN])) + (", …" if len(names) > _SHOWN else "")


_SYSTEM = {"thumbs.db", "desktop.ini"}
"""Files that operating systems create."""


def _left_out(unit: str, names: Sequence[str]) -> Iterator[str]:
    lost = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    lost = [name for name in lost if posixpath.basename(name).lower() not in _SYSTEM]
    kinds = Counter(posixpath.splitext(name)[1].lower() or "without a suffix" for name in lost)
    if lost:
        several = ", ".join(f"{number} {readable(kind)}" for kind, number in kinds.most_common(8))
        yield f"{unit} left out that pargate does not read: {several}; the first is {readable(lost[0])}"


_NUMBER = re.compile(r"([+-]?)(\d+)(\.0*)?|[+-]?(\d+\.\d*|\.\d+|\d+(\.\d*)?[eE][+-]?\d+)", re.ASCII)


def read_label(text: str, where: str) -> str | int | None:
    """Return a label as a class index, a name, or None where there is none; 3.0 is an index too.

    Raises:
        InputError: the label is a number that is not an index; `where` names the label.
    """
    told = tidy(text)
    if told.lower() in ("", "nan"):
        return None
    number = _NUMBER.fullmatch(told)
    if number is None:
        return told
    digits = (number[2] or "").lstrip("0") or "0"
    if number[1] or not number[2] or len(digits) > limits.LABEL_DIGITS:
        raise InputError(
            f"{where}: the label {told[:40]} is not a class index",
            "an index is the line of a class in the list, counted from 0; leave the label empty where there is none",
        )
    return int(digits)


def read_text(where: str, content: bytes) -> str:
    """Return the text of a label or caption.

    Raises:
        InputError: the content is a git-lfs pointer, longer than `CAPTION_BYTES`, or not UTF-8; `where` names the text.
    """
    refuse_pointer(where, content)
    if len(content) > limits.CAPTION_BYTES:
        raise InputError(
            f"{where} is longer than {limits.CAPTION_BYTES >> 20} MiB", "a label or a caption is one short text"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not text: {error}", "save it as UTF-8") from error
