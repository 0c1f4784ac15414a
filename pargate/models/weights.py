"""Read one weights file: its bytes, digest, format and the places of its tensors.

The format follows from the bytes, and must match the file's name, by which open_clip chooses a reader. The file is
opened and read once and hashed meanwhile; what is checked and loaded is that memory. A file that is replaced meanwhile
changes nothing. Memory-mapping would follow such a change and is not used.
"""

import contextlib
import hashlib
import io
import math
import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pargate import limits
from pargate.errors import InputError, OperationalError, UnsafeCheckpoint
from pargate.files import LFS, note, open_file
from pargate.models import archive, pickles, wrapped
from pargate.models.archive import StoredTensor
from pargate.models.config import parse_object

_FORMAT_BYTES = 100_000_000
"""Largest header that the format allows."""

WIDTHS = {**pickles.WIDTHS, "U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1}
"""Bytes of one value, for each safetensors dtype that a CLIP may hold."""

_CHUNK = 1 << 20

ZIP = b"PK\x03\x04"
"""First bytes of a zip archive."""


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A weights file that was read and checked."""

    format: str
    """`safetensors` or `torch-zip`."""
    sha256: str
    size_bytes: int
    tensors: tuple[StoredTensor, ...] = field(repr=False)
    content: mmap.mmap | None = field(repr=False)
    """Content of the file, if it was kept: anonymous memory, of which parts can be freed."""
    notes: tuple[str, ...] = ()
    """Sentences on what was found beside the tensors, and not read."""


def read(path: Path, label: str, *, keep: bool) -> WeightsFile:
    """Read, hash and check the file at `path`; `label` is its name in messages.

    Raises:
        InputError: not a regular file, damaged, or in a format that is not read.
        UnsafeCheckpoint: the file could run code when loaded in the usual way.
        OperationalError: the file does not fit into memory.
    """
    with opened(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        head = _head(stream)
        if not head.startswith(ZIP):
            _refuse_code(stream, size, label)
            _refuse_by_magic(head, size, label)
        elif path.name.casefold().endswith(".npz"):
            _archive(_Source(stream, size, None), label)  # an archive of arrays is refused as one
        _refuse_misnamed(path.name, head.startswith(ZIP), label)
        sha256, content = take(stream, size, label, keep=keep)
        note(path, sha256)
        source = _Source(stream, size, content)
        if source.read_at(0, 4) == ZIP:
            form, (tensors, notes) = "torch-zip", _archive(source, label)
        else:
            form, tensors, notes = "safetensors", _safetensors(source, label), ()
    _refuse_renamed([tensor.name for tensor in tensors], label)
    for tensor in tensors:
        if len(tensor.name) > limits.TENSOR_NAME or not tensor.name.isprintable():
            raise InputError(f"{label}: a tensor has an unprintable name", "save the weights again")
    if len(tensors) > limits.TENSORS:
        raise InputError(f"{label} holds {len(tensors)} tensors, more than any CLIP", "save the model's tensors alone")
    if not tensors:
        raise InputError(f"{label} holds no tensors", "save the weights again")
    return WeightsFile(form, sha256, size, tensors, content, notes)


def _refuse_renamed(names: list[str], label: str) -> None:
    """Raise if open_clip would rename tensors in a way of its own."""
    if "state_dict" in names:
        raise InputError(f"{label}: a tensor is called state_dict, which open_clip takes for all of them", "rename it")
    names = [name for name in names if name != "n_averaged"]  # of an AveragedModel; no tensor of the model
    # open_clip looks at the first name only, and cuts the length of its prefix from every name.
    first = next((name for name in (*names[:1], min(names, default="")) if name.startswith("module")), None)
    if first is not None and not all(name.startswith("module.") for name in names):
        raise UnsafeCheckpoint(
            f"{label} means different models to different readers: {pickles.shown(first)} begins with module, "
            "and others do not",
            pickles.SAVE_AGAIN,
        )


Held = tuple[WeightsFile, Sequence[StoredTensor]]
"""A kept file and its tensors, as the model names them."""


def same_tensors(first: Held, second: Held) -> bool:
    """Return whether two kept files hold the same tensors, bit for bit."""
    return first[0].sha256 == second[0].sha256 or _digests(*first) == _digests(*second)


def _digests(file: WeightsFile, tensors: Sequence[StoredTensor]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Return the dtype, the shape and the SHA-256 of the values of each tensor."""
    if file.content is None:
        raise ValueError("the bytes were not kept")
    content, found = np.frombuffer(file.content, np.uint8), {}
    for tensor in tensors:
        width, digest = WIDTHS[tensor.dtype], hashlib.sha256()
        for part in tensor.parts or (tensor,):
            if 0 not in part.shape:
                steps = (*(step * width for step in part.strides), 1)
                values = np.lib.stride_tricks.as_strided(
                    content[part.offset :], (*part.shape, width), steps, writeable=False
                )
                digest.update(np.ascontiguousarray(values).data)
        found[tensor.name] = (tensor.dtype, tensor.shape, digest.digest())
    return found


# --- the bytes ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """Open a regular file for reading.

    Raises:
        InputError: there is no regular file, or it cannot be read to its end.
    """
    try:
        with open_file(path) as stream:
            yield stream
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "give the checkpoint itself") from error


def head(path: Path) -> bytes:
    """Return the first bytes of a file, or none if it cannot be read."""
    try:
        with open_file(path) as stream:
            return _head(stream)
    except OSError:
        return b""


def _head(stream: io.BufferedReader) -> bytes:
    head = stream.read(512)
    stream.seek(0)
    return head


def memory(size: int) -> mmap.mmap:
    """Return anonymous memory of `size` bytes, of which parts can be freed."""
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    # Private, since shared memory cannot be freed in parts.
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def take(stream: io.BufferedReader, size: int, label: str, *, keep: bool) -> tuple[str, mmap.mmap | None]:
    """Return the digest of the file and, if `keep`, its content, from one pass over it."""
    try:
        content = memory(size if keep else min(size, _CHUNK))
    except (MemoryError, OSError, OverflowError) as error:
        raise OperationalError(
            f"{label} has {size / 2**30:.1f} GiB and does not fit into memory",
            "use a machine with more memory",
        ) from error
    digest, done = hashlib.sha256(), 0
    with memoryview(content) as view:
        while done < size:
            part = view[done : done + _CHUNK] if keep else view[: size - done]
            count = stream.readinto(part)
            if not count:
                break
            digest.update(part[:count])
            done += count
    if done != size or stream.read(1):
        raise InputError(f"{label} changed while it was read", "try again once nothing writes to it")
    return digest.hexdigest(), content if keep else None


@dataclass(frozen=True, slots=True)
class _Source:
    """Random access to a file's bytes, in memory or in the open file."""

    stream: io.BufferedReader
    size: int
    content: mmap.mmap | None

    def read_at(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, fewer at the end."""
        if self.content is not None:
            return self.content[offset : offset + length]
        self.stream.seek(offset)
        parts, missing = [], max(0, min(length, self.size - offset))
        while missing and (part := self.stream.read(missing)):
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)


# --- the format --------------------------------------------------------------------------------------

_FOREIGN = (
    (LFS, "is a git-lfs pointer, not the weights", "fetch them: git lfs pull"),
    (b"\x89HDF\r\n\x1a\n", "is an HDF5 file", "convert the weights to safetensors"),
    (b"GGUF", "is a GGUF file", "give the safetensors weights it was made from"),
    (b"\x93NUMPY", "is a numpy array", "convert the weights to safetensors"),
    (b"\x1f\x8b", "is compressed (gzip)", "unpack it first"),
    (b"BZh", "is compressed (bzip2)", "unpack it first"),
    (b"\xfd7zXZ\0", "is compressed (xz)", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed (zstd)", "unpack it first"),
    (b"<", "is a web page or XML, not weights", "download the file itself"),
    (b"{", "is JSON, not weights", "give the weights file, or the folder that holds it"),
)
"""Files that people mistake for weights: first bytes, description, advice."""


def _refuse_code(stream: io.BufferedReader, size: int, label: str) -> None:
    """Raise if a file without a zip's beginning holds code, or is a zip for readers that look at its end."""
    content = stream.read(limits.PICKLE_BYTES)
    marked, is_safetensors = pickles.is_marked(content), begins_as_safetensors(content)
    found = pickles.search(content, pickles.PICKLES)
    if (marked and found.names) or found.call:
        raise UnsafeCheckpoint(f"{label} is a bare pickle: loading it can run any code; it {found}", pickles.CONVERT)
    if not is_safetensors:
        _refuse_wrapped_code(stream, label)
    if archive.ends_in(_Source(stream, size, None).read_at, size):
        raise UnsafeCheckpoint(
            f"{label} means different models to different readers: it ends as a zip archive and begins otherwise",
            pickles.SAVE_AGAIN,
        )
    stream.seek(0)
    if not marked or is_safetensors:
        return
    if not found.complete:
        raise UnsafeCheckpoint(f"{label} is a bare pickle: loading it can run any code", pickles.CONVERT)
    raise InputError(
        f"{label} is a bare pickle, torch's format before 1.6, which pargate does not read",
        pickles.CONVERT.replace("weights_only=False", "weights_only=True"),
    )


def _refuse_wrapped_code(stream: io.BufferedReader, label: str) -> None:
    """Raise if a pickle within a file that is no checkpoint could run code."""
    if (code := wrapped.code_in(stream)) is not None:
        where = f"{pickles.shown(code.member)} in it" if code.member else "the pickle in it"
        raise UnsafeCheckpoint(f"{label} could run code when it is loaded: {where} {code.found}", pickles.CONVERT)


def begins_as_safetensors(head: bytes) -> bool:
    """Return whether a file that begins with `head` is read as safetensors."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= limits.HEADER_BYTES


def _refuse_misnamed(name: str, zipped: bool, label: str) -> None:
    """Raise if loaders, which go by the file's name, would read another format than pargate."""
    content, ending = ("a torch archive", ".pt") if zipped else ("safetensors", ".safetensors")
    other = name.casefold().endswith((".safetensors", ".npy", ".npz")) if zipped else not name.endswith(ending)
    if other:
        raise UnsafeCheckpoint(
            f"{label} means different models to different readers: it holds {content}, and loaders go by its name, "
            "which has the suffix of another format",
            f"if you trust where it comes from, rename it to end in {ending}",
        )


def _refuse_by_magic(head: bytes, size: int, label: str) -> None:
    """Raise if a file is neither safetensors nor a zip; name its format where it is known."""
    if not size:
        raise InputError(f"{label} is empty", "copy or download it again")
    # safetensors comes first: its leading length may look like the first bytes of another format.
    if begins_as_safetensors(head):
        return
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length <= _FORMAT_BYTES:
        raise InputError(f"{label} has a header of {length} bytes, more than any CLIP", "save the weights again")
    for magic, what, advice in _FOREIGN:
        if head.startswith(magic):
            raise InputError(f"{label} {what}", advice)
    if head[257:262] == b"ustar":
        raise InputError(f"{label} is a tar archive", "unpack it, or convert the weights to safetensors")
    if head[:1] == b"\x08" and (b"onnx" in head[:64].lower() or b"pytorch" in head[:64]):
        raise InputError(
            f"{label} is an ONNX graph", "call it NAME.onnx, with its configuration beside it, or give the checkpoint"
        )
    if not any(head[:9]):
        raise InputError(f"{label} begins with zeros: it was never written in full", "copy it again")
    raise InputError(f"{label} is neither safetensors nor a torch zip archive", "give the weights as safetensors")


def _archive(source: _Source, label: str) -> tuple[tuple[StoredTensor, ...], tuple[str, ...]]:
    """Return the tensors of a torch archive, and notes; raise if it is none, with the code that it wraps."""
    try:
        return archive.read(source.read_at, source.size, label)
    except InputError:
        _refuse_wrapped_code(source.stream, label)
        raise


def _safetensors(source: _Source, label: str) -> tuple[StoredTensor, ...]:
    """Return the tensors of a safetensors header, which must account for every byte of the file."""
    length = int.from_bytes(source.read_at(0, 8), "little")
    if 8 + length > source.size:
        raise InputError(f"{label} is cut short within its header", "copy or download it again")
    header = parse_object(source.read_at(8, length), f"{label}: its header")
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise InputError(f"{label}: its __metadata__ is not text", "save the weights again")
    tensors, at = [], 0
    entries = sorted(((_entry(name, entry, label), name) for name, entry in header.items()), key=lambda e: e[0][2:])
    for (dtype, shape, begin, end), name in entries:
        if begin != at:
            raise InputError(f"{label}: the bytes of its tensors overlap or leave gaps", "save the weights again")
        tensors.append(StoredTensor(name, dtype, shape, 8 + length + begin, _contiguous(shape)))
        at = end
    if 8 + length + at != source.size:
        short = source.size < 8 + length + at
        raise InputError(
            f"{label} {'is cut short' if short else 'goes on after its last tensor'}: "
            f"it has {source.size} bytes, its header describes {8 + length + at}",
            "copy or download it again",
        )
    # What safetensors' `save_model` leaves out of tied tensors, it notes with the name of the one that it kept.
    kept = {tensor.name: tensor for tensor in tensors}
    tied = [replace(kept[other], name=name) for name, other in notes.items() if other in kept and name not in kept]
    return (*tensors, *tied)


def _entry(name: str, entry: Any, label: str) -> tuple[str, tuple[int, ...], int, int]:
    """Return the dtype, shape and byte range of one tensor; raise if they do not agree."""
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)], **rest} if (
            not rest and all(type(n) is int and n >= 0 for n in shape) and bool not in (type(begin), type(end))
        ):
            pass
        case _:
            raise InputError(f"{label}: its header is damaged at {pickles.shown(name)}", "save the weights again")
    if dtype not in WIDTHS:
        raise InputError(
            f"{label}: {pickles.shown(name)} has the dtype {pickles.shown(dtype)}, which pargate does not read",
            "save the weights as float32 or float16",
        )
    if not pickles.is_shape(shape) or begin < 0 or end - begin != math.prod(shape) * WIDTHS[dtype]:
        raise InputError(
            f"{label}: the shape of {pickles.shown(name)} does not fit its bytes", "save the weights again"
        )
    return dtype, tuple(shape), begin, end


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))
