"""Search for code in files that are no checkpoints: pickles within arrays, archives and compressed streams.

A file that would run code is unsafe however it is wrapped, also where it is no model. Only what such a file can be
unpacked into without libraries of its own is searched, within limits on bytes, members, depth and time.
"""

import bz2
import contextlib
import io
import lzma
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from pargate import limits
from pargate.models.pickles import PICKLES, Found, is_marked, search

_BLOCK = 512
"""Bytes of a tar's block."""

_STREAMS: tuple[tuple[bytes, int, Callable[[], Any]], ...] = (
    (b"\x1f\x8b", 0, lambda: zlib.decompressobj(31)),
    (b"BZh", 0, bz2.BZ2Decompressor),
    (b"\xfd7zXZ\0", 0, lzma.LZMADecompressor),
    (b"\x5d\0\0", 0, lzma.LZMADecompressor),
    (b"ZF", 21, zlib.decompressobj),  # joblib before 0.10: a magic and 19 characters of length
    *((bytes([0x78, level]), 0, zlib.decompressobj) for level in (0x01, 0x5E, 0x9C, 0xDA)),
)
"""Compressed streams: first bytes, bytes before the stream, and what unpacks it."""

PICKLE_SUFFIXES = (".pkl", ".pickle", ".bin", ".pt", ".pth", ".ckpt", ".joblib", ".npy")
"""Suffixes of members that are searched first."""


@dataclass(frozen=True, slots=True)
class Code:
    """A pickle that could run code."""

    member: str
    """Its name in the file, or empty for the file itself."""
    found: Found


@dataclass(slots=True)
class _Budget:
    """What is left for one file."""

    bytes: int = limits.UNWRAPPED_BYTES
    members: int = limits.UNWRAPPED_MEMBERS
    until: float = field(default_factory=lambda: time.monotonic() + limits.UNWRAPPED_SECONDS)


def code_in(stream: BinaryIO) -> Code | None:
    """Return the first pickle that a file wraps and that could run code, or None."""
    return next(_codes(stream, "", limits.UNWRAPPED_DEPTH, _Budget()), None)


def _codes(stream: BinaryIO, name: str, depth: int, left: _Budget) -> Iterator[Code]:
    stream.seek(0)
    head = stream.read(_BLOCK)
    if not depth or time.monotonic() > left.until:
        return
    if head.startswith(b"PK"):
        for member, content in _zip(stream, left):
            yield from _codes(io.BytesIO(content), f"{name}{member}", depth - 1, left)
        return
    if head[257:262] == b"ustar" or _sum(head) is not None:
        for member, content in _tar(stream, left):
            yield from _codes(io.BytesIO(content), f"{name}{member}", depth - 1, left)
        return
    for magic, before, unpacker in _STREAMS:
        if head.startswith(magic):
            stream.seek(before)
            content = _unpacked(unpacker(), stream, left)
            yield from _codes(io.BytesIO(content), name, depth - 1, left)
            return
    values = _array(head)
    if not values and depth == limits.UNWRAPPED_DEPTH:
        return  # the file itself is not wrapped
    stream.seek(values)
    content = stream.read(limits.PICKLE_BYTES)
    found = search(content, PICKLES)
    if found.call or (found.names and is_marked(content)):
        yield Code(name, found)


def _array(head: bytes) -> int:
    """Return the number of bytes before the values of a .npy, or 0 for any other file."""
    if not head.startswith(b"\x93NUMPY"):
        return 0
    width = 2 if head[6:7] == b"\1" else 4
    return 8 + width + int.from_bytes(head[8 : 8 + width], "little")


def _unpacked(unpacker: Any, stream: BinaryIO, left: _Budget) -> bytes:
    """Return the beginning of what a stream unpacks into."""
    parts: list[bytes] = []
    with contextlib.suppress(zlib.error, OSError, EOFError, lzma.LZMAError, ValueError):
        while left.bytes > 0 and not unpacker.eof and (packed := stream.read(1 << 16)):
            part = unpacker.decompress(packed, left.bytes)
            left.bytes -= len(part)
            parts.append(part)
    return b"".join(parts)


def _zip(stream: BinaryIO, left: _Budget) -> Iterator[tuple[str, bytes]]:
    """Yield the members of a zip, those that may be pickles first."""
    with contextlib.suppress(Exception), zipfile.ZipFile(stream) as archive:  # damage raises errors of many kinds
        for info in sorted(archive.infolist(), key=lambda i: not i.filename.casefold().endswith(PICKLE_SUFFIXES)):
            if left.members <= 0 or left.bytes <= 0:
                return
            left.members -= 1
            with contextlib.suppress(Exception), archive.open(info) as member:
                content = member.read(min(left.bytes, limits.PICKLE_BYTES))
                left.bytes -= len(content)
                yield info.filename, content


def _tar(stream: BinaryIO, left: _Budget) -> Iterator[tuple[str, bytes]]:
    """Yield the plain members of a tar, by its old headers alone."""
    at = 0
    while left.members > 0 and left.bytes > 0:
        stream.seek(at)
        head = stream.read(_BLOCK)
        size = _sum(head)
        if size is None:
            return
        left.members -= 1
        if head[156:157] in (b"0", b"\0"):
            content = stream.read(min(size, left.bytes, limits.PICKLE_BYTES))
            left.bytes -= len(content)
            yield head[:100].rstrip(b"\0").decode("utf-8", "replace"), content
        at += _BLOCK + -(-size // _BLOCK) * _BLOCK


def _sum(head: bytes) -> int | None:
    """Return the size of the member that a tar's header describes, or None if it is no header."""
    try:
        told = int(head[148:156].rstrip(b"\0 ") or b"x", 8)
        size = int(head[124:136].rstrip(b"\0 ") or b"0", 8)
    except ValueError:
        return None
    return size if len(head) == _BLOCK and told == sum(head) - sum(head[148:156]) + 8 * 32 and size >= 0 else None
