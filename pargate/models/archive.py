"""Read torch's zip archives without executing anything: which tensors they hold, and where.

A checkpoint that `torch.save` wrote is a zip of raw storages and one pickle, `data.pkl`, that describes the tensors. A
scanner can be fooled if the file is loaded by another reader, so this is the only one: the tensors are later read from
the ranges found here, and torch's reader never sees the file.

- The zip must have the form that torch writes: stored members of one folder, end to end, with a directory that agrees
  with the header of each member. Of a TorchScript archive, the members of its program may be packed.
- The pickle is interpreted over plain values (`pickles.py`): no class is imported and no call is made.
- Names are compared without regard to case, as torch's reader does.
- Any other file is refused: as unsafe where another reader could read or do something else, as wrong input where it is
  only damaged.
"""

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from pargate import limits
from pargate.errors import InputError, UnsafeCheckpoint
from pargate.models import script
from pargate.models.pickles import CONVERT, SAVE_AGAIN, WIDTHS, Tensor, interpret, shown

ReadAt = Callable[[int, int], bytes]
"""Function that returns bytes of the file, by offset and length."""

END = b"PK\x05\x06"
"""First bytes of the record at the end of a zip archive."""

COMMENT = 0xFFFF
"""Largest length of the comment behind that record."""

_FLAGS = 0x0808
"""Flags of a member that torch sets: sizes repeated behind the data (bit 3), UTF-8 names (bit 11)."""

FORMAT = 10
"""Newest version of torch's format."""

AVERAGED = ("state_dict_ema", "model_ema", "ema")
"""Keys under which training code keeps averaged weights, in any form."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor and the place of its values in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """Offset of its first value in the file, in bytes."""
    strides: tuple[int, ...]
    """Strides along each axis, in values."""
    parts: tuple["StoredTensor", ...] = ()
    """Tensors of the same shape that are stacked along the first axis to make this one, or none."""


@dataclass(frozen=True, slots=True)
class _Member:
    """One entry of the directory."""

    name: str
    header: int
    size: int
    packed: int
    crc: int
    flags: int
    method: int
    attributes: int
    """Type of the file: DOS attributes in the low byte, Unix mode in the high half."""


Places = dict[str, tuple[int, int]]
"""Offset and length of each member's bytes, by name."""


def read(read_at: ReadAt, size: int, name: str) -> tuple[tuple[StoredTensor, ...], tuple[str, ...]]:
    """Return the tensors of a checkpoint's state dict, in its order, and notes; `name` is for messages.

    Raises:
        InputError: the zip is damaged, big-endian, of another format, or holds no state dict.
        UnsafeCheckpoint: its pickle could run code, or two readers could read it differently.
    """
    return _read(read_at, *_directory(read_at, size, name), name)


def _read(
    read_at: ReadAt, members: list[_Member], end: int, name: str
) -> tuple[tuple[StoredTensor, ...], tuple[str, ...]]:
    root, program = _root([member.name for member in members], name)
    code = f"{root}/code/" if program else None
    places = _places(read_at, members, end, code, name)
    _check_notes(lambda part: _member(read_at, places, f"{root}/{part}", 32), name)
    start, length = places[f"{root}/data.pkl"]
    if length > limits.PICKLE_BYTES:
        raise InputError(f"{name}: its data.pkl has {length} bytes, more than any checkpoint needs", CONVERT)
    if program:
        script.refuse_calls(lambda part: _member(read_at, places, f"{root}/{part}", limits.PICKLE_BYTES), name)
        sources = (member for member in members if code and member.name.startswith(code))
        script.refuse_setstate(
            ((bool(source.method), read_at(*places[source.name]), source.size) for source in sources), name
        )
    described = interpret(read_at(start, length), name, modules=program)
    for storage in described.storages.values():
        if places.get(f"{root}/data/{storage.key}", (0, -1))[1] != storage.values * WIDTHS[storage.dtype]:
            raise InputError(
                f"{name} is damaged: the bytes of its storage {shown(storage.key)} are missing or of another length",
                "copy or download it again",
            )
    state, notes = script.state_dict(described.value, name) if program else _state_dict(described.value, name)
    return tuple(_tensors(state, places, root, name)), notes


def _member(read_at: ReadAt, places: Places, member: str, most: int) -> bytes | None:
    """Return the first bytes of a member, or None if it does not exist."""
    start, length = places.get(member, (0, -1))
    return read_at(start, min(length, most)) if length >= 0 else None


def _check_notes(note: Callable[[str], bytes | None], name: str) -> None:
    """Raise if torch would not read the archive, or would read it in another way."""
    order = note("byteorder")
    if order not in (None, b"little"):
        what = "was written on a big-endian machine" if order == b"big" else "does not say how its numbers are written"
        raise InputError(f"{name} {what}", "save it again on another")
    version = note(".data/version") or note("version") or b""
    if not version.strip().isdigit() or not 1 <= int(version) <= FORMAT:
        raise InputError(f"{name} does not say which version of torch's format it has", "save the weights again")
    if not (note(".storage_alignment") or b"64").isdigit() or not (note(".data/serialization_id") or b"").isascii():
        raise InputError(
            f"{name} is damaged: its notes on how it was saved are unreadable", "copy or download it again"
        )


# --- the zip -----------------------------------------------------------------------------------------


def _places(read_at: ReadAt, members: list[_Member], end: int, code: str | None, name: str) -> Places:
    """Return the places of the members' bytes; raise if other bytes lie before, between or behind them.

    `code` is the folder of a program, whose members may be packed.
    """
    found: Places = {}
    at = 0
    for member in sorted(members, key=lambda m: m.header):
        if member.attributes & 0xDE or member.attributes >> 28 not in (0, 8):
            # For a member that is marked as a folder, torch's reader leaves memory uninitialised.
            _ambiguous(name, f"{member.name} is not marked as a plain file")
        if not member.name.isascii() or member.name.endswith("/"):
            _ambiguous(name, f"{member.name} is not a name that torch writes")
        if member.flags & ~_FLAGS:
            _ambiguous(name, f"{member.name} is encrypted or marked in a way that torch does not use")
        packed = member.method == 8 and code is not None and member.name.startswith(code)
        if not packed and (member.method or member.packed != member.size):
            _ambiguous(name, f"{member.name} is compressed, which torch never does")
        if member.header != at:
            _ambiguous(name, f"bytes that belong to no member lie before {member.name}")
        start = _local(read_at, member, end, name)
        found[member.name] = (start, member.packed)
        at = start + member.packed + _descriptor(read_at, member, start + member.packed, end, name)
    if at != end:
        _ambiguous(name, "bytes that belong to no member lie before the directory")
    return found


def _directory(read_at: ReadAt, size: int, name: str) -> tuple[list[_Member], int]:
    """Return the members that the central directory lists, and the offset of that directory."""
    tail = read_at(max(0, size - 22), min(22, size))
    if len(tail) < 22 or tail[:4] != END or tail[20:] != b"\0\0":
        if ends_in(read_at, size):
            _ambiguous(name, "a comment or other bytes follow its end record")
        raise InputError(f"{name} is cut short, or not a zip that torch wrote", "copy or download it again")
    disk, first_disk, here, count, length, start, _ = struct.unpack("<4H2IH", tail[4:])
    if disk or first_disk or here != count:
        _ambiguous(name, "it claims to be one part of several")
    after = size - 22
    if count == 0xFFFF or 0xFFFFFFFF in (length, start) or _is_locator(read_at, after):
        short = (count, 0xFFFF), (length, 0xFFFFFFFF), (start, 0xFFFFFFFF)
        count, length, start, after = _zip64(read_at, after, name)
        if any(told not in (full, real) for (told, full), real in zip(short, (count, length, start), strict=True)):
            _ambiguous(name, "its end records contradict each other")
    if count > limits.MEMBERS:
        raise InputError(f"{name} has {count} members, more than any checkpoint", CONVERT)
    if length > limits.DIRECTORY_BYTES:
        raise InputError(f"{name} has a directory of {length} bytes, more than any checkpoint", CONVERT)
    if start + length != after:
        _ambiguous(name, "its directory does not end where its end record says")
    return list(_entries(read_at(start, length), count, name)), start


def ends_in(read_at: ReadAt, size: int) -> bool:
    """Return whether a file ends like a zip archive, with any beginning and any comment."""
    tail = read_at(max(0, size - COMMENT - 22), min(size, COMMENT + 22))
    at = tail.rfind(END)
    while at >= 0:
        if at + 22 <= len(tail):
            _, _, _, _, length, start, _ = struct.unpack("<4H2IH", tail[at + 4 : at + 22])
            before = size - len(tail) + at
            if length == 0xFFFFFFFF or start == 0xFFFFFFFF or (46 <= length <= before and start <= before - length):
                return True
        at = tail.rfind(END, 0, at)
    return False


def _is_locator(read_at: ReadAt, after: int) -> bool:
    return after >= 20 and read_at(after - 20, 4) == b"PK\x06\x07"


def _zip64(read_at: ReadAt, after: int, name: str) -> tuple[int, int, int, int]:
    """Return count, length and start of the directory from the zip64 records of large archives."""
    if not _is_locator(read_at, after):
        raise InputError(f"{name} is damaged: its large-file record is missing", "copy or download it again")
    disk, at, disks = struct.unpack("<IQI", read_at(after - 16, 16))
    record = read_at(at, 56) if at + 56 == after - 20 else b""
    if len(record) != 56 or record[:4] != b"PK\x06\x06" or disk or disks != 1:
        _ambiguous(name, "its large-file records do not follow each other")
    length_of_rest, _, _, here_disk, first_disk, here, count, length, start = struct.unpack("<QHHIIQQQQ", record[4:])
    if length_of_rest != 44 or here_disk or first_disk or here != count:
        _ambiguous(name, "its large-file records contradict each other")
    return count, length, start, at


def _entries(directory: bytes, count: int, name: str) -> Iterator[_Member]:
    at = 0
    for _ in range(count):
        head = directory[at : at + 46]
        if len(head) != 46 or head[:4] != b"PK\x01\x02":
            _ambiguous(name, "its directory holds something other than members")
        (_, _, flags, method, _, _, crc, packed, size, of_name, of_extra, of_comment, disk, _, attributes, header) = (
            struct.unpack("<6H3I5H2I", head[4:])
        )
        text = directory[at + 46 : at + 46 + of_name]
        extra = directory[at + 46 + of_name : at + 46 + of_name + of_extra]
        member = text.decode("utf-8", "replace")
        if len(text) != of_name or len(extra) != of_extra or not member.isprintable():
            _ambiguous(name, "its directory is cut short or names members unreadably")
        if of_comment or disk:
            _ambiguous(name, f"{member} carries a comment or lies on another disk")
        size, packed, header = _large(extra, (size, packed, header), f"{name}: {member}")
        yield _Member(member, header, size, packed, crc, flags, method, attributes)
        at += 46 + of_name + of_extra
    if at != len(directory):
        _ambiguous(name, "its directory is longer than its members")


def _large(extra: bytes, told: tuple[int, ...], where: str) -> Iterator[int]:
    """Return sizes and offset, from the zip64 field where they exceed 32 bits."""
    values: list[int] = []
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            if values or length % 8 or at + 4 + length > len(extra):
                _ambiguous(where, "its large-file field is damaged or there twice")
            values = list(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
        at += 4 + length
    if at != len(extra) or len(values) < told.count(0xFFFFFFFF):
        _ambiguous(where, "its extra fields do not fit into each other")
    rest = iter(values)
    return (next(rest) if value == 0xFFFFFFFF else value for value in told)


def _local(read_at: ReadAt, member: _Member, end: int, name: str) -> int:
    """Return the offset of a member's bytes; raise if the header before them contradicts the directory."""
    head = read_at(member.header, 30)
    if len(head) != 30 or head[:4] != b"PK\x03\x04":
        raise InputError(f"{name} is damaged at {member.name}", "copy or download it again")
    _, flags, method, _, _, crc, packed, size, of_name, of_extra = struct.unpack("<5H3I2H", head[4:])
    text = read_at(member.header + 30, of_name)
    extra = read_at(member.header + 30 + of_name, of_extra)
    size, packed = _large(extra, (size, packed), f"{name}: {member.name}")
    known = (member.crc, member.packed, member.size)
    told = (crc, packed, size)
    agrees = told == known or (told == (0, 0, 0) and flags & 8)
    if text != member.name.encode() or method != member.method or flags != member.flags or not agrees:
        _ambiguous(name, f"the directory and the header of {member.name} differ")
    start = member.header + 30 + int(of_name) + int(of_extra)
    if start + member.packed > end:
        raise InputError(f"{name} is damaged: {member.name} leaves the file", "copy or download it again")
    return start


def _descriptor(read_at: ReadAt, member: _Member, at: int, end: int, name: str) -> int:
    """Return the length of the record that repeats a member's sizes after its bytes, or 0."""
    if not member.flags & 8:
        return 0
    long = b"PK\x07\x08" + struct.pack("<IQQ", member.crc, member.packed, member.size)
    low = tuple(size & 0xFFFFFFFF for size in (member.packed, member.size))
    short = b"PK\x07\x08" + struct.pack("<III", member.crc, *low)
    there = read_at(at, min(24, end - at))
    if there == long and read_at(at + 24, 4)[:2] == b"PK":
        return 24
    if there[:16] == short and (member.packed, member.size) == low:
        return 16
    _ambiguous(name, f"the record behind {member.name} does not repeat its sizes")


def _root(members: list[str], name: str) -> tuple[str, bool]:
    """Return the one folder that holds all members, and whether it is a TorchScript archive."""
    seen = set[str]()
    for member in members:
        if member.casefold() in seen:
            _ambiguous(name, f"two members are called {member}, or differ in case alone")
        seen.add(member.casefold())
    if any(member.endswith((".npy", ".npz")) for member in seen):
        raise InputError(f"{name} is a numpy archive (npz), not a torch checkpoint", "convert it to safetensors")
    roots = {member.split("/", 1)[0] for member in members}
    if len({root.casefold() for root in roots}) < len(roots):
        _ambiguous(name, "its members lie in folders whose names differ in case alone")
    if any("/" not in member or ".." in member.split("/") for member in members) or len(roots) != 1:
        raise InputError(f"{name} is a zip, but not one that torch.save wrote", "give the checkpoint itself")
    root = roots.pop()
    inner = [member[len(root) + 1 :] for member in members]
    program = any(part == "constants.pkl" or part.startswith("code/") for part in inner)
    if "data.pkl" not in [part.casefold() for part in inner]:
        raise InputError(f"{name} is a zip, but not one that torch.save wrote", "give the checkpoint itself")
    for part in inner:
        if program and part.startswith(script.MEMBERS):
            continue
        if part.casefold().endswith((".pkl", ".pickle", ".py")) and part != "data.pkl":
            _ambiguous(name, f"beside data.pkl it holds {part}")
        if part != part.lower():
            _ambiguous(name, f"torch writes {part} in lower case")
    return root, program


def _ambiguous(name: str, why: str) -> NoReturn:
    raise UnsafeCheckpoint(
        f"{name} is not laid out as torch.save lays out a checkpoint: {why}; two readers could see two files",
        SAVE_AGAIN,
    )


# --- from the pickle's value to tensors --------------------------------------------------------------


def _state_dict(value: Any, name: str) -> tuple[dict[Any, Any], tuple[str, ...]]:
    """Return the dict of tensors, and notes: the value itself, or the one dict in a training checkpoint that is a CLIP.

    open_clip's loader takes `state_dict`; other training code has other keys.
    """
    found = {} if _holds_tensors(value, "") else dict(_clips(value, ()))
    if isinstance(value, dict) and _holds_tensors(value.get("state_dict"), ""):
        found[("state_dict",)] = value["state_dict"]
    averaged = [(key,) for key in AVERAGED if isinstance(value, dict) and key in value and found]
    models = [".".join(map(shown, keys)) for keys in dict.fromkeys((*found, *averaged))]
    if len(models) > 1:
        raise InputError(
            f"{name} holds several models, raw or averaged: {', '.join(models)}",
            "save the one that you ship on its own",
        )
    for keys, state in found.items():
        path = ".".join(map(shown, keys))
        beside = [shown(key) for key in value if isinstance(key, str) and key != keys[0]]
        return state, (f"read {path} of the file" + (f", not {', '.join(beside[:8])}" if beside else ""),)
    if not _holds_tensors(value, ""):
        raise InputError(f"{name} holds no state dict of tensors", "save model.state_dict()")
    return value, ()


def _holds_tensors(value: Any, end: str) -> bool:
    """Return whether a value is a dict with a tensor whose name ends in `end`."""
    return isinstance(value, dict) and any(
        isinstance(part, Tensor) and isinstance(key, str) and key.endswith(end) for key, part in value.items()
    )


def _clips(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[Any, Any]]]:
    """Yield each dict inside a value that holds the tensors of a CLIP, with the keys that lead to it."""
    if isinstance(value, dict) and len(path) < limits.STATE_DICT_DEPTH:
        for key, part in value.items():
            if isinstance(key, str) and isinstance(part, dict):
                if _holds_tensors(part, "logit_scale"):
                    yield (*path, key), part
                else:
                    yield from _clips(part, (*path, key))


def _tensors(state: dict[Any, Any], places: Places, root: str, name: str) -> Iterator[StoredTensor]:
    for key, tensor in state.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            what = shown(key) if isinstance(key, str) else key.name
            raise InputError(f"{name}: {what} in its state dict is not a named tensor", "save tensors alone")
        storage = tensor.storage
        width = WIDTHS[storage.dtype]
        start, _ = places[f"{root}/data/{storage.key}"]
        # A tensor with more values than its storage repeats them, which could fill the memory.
        if math.prod(tensor.shape) > storage.values:
            raise InputError(
                f"{name} is damaged: {shown(key)} leaves its storage or repeats it", "save the weights again"
            )
        yield StoredTensor(key, storage.dtype, tensor.shape, start + tensor.first * width, tensor.strides)
