"""Our own reader of torch's zip archives: which tensors they hold and where, with nothing executed.

A checkpoint that `torch.save` wrote is a zip of raw storages and one pickle, `data.pkl`, that says how they
make tensors. Two readers of one file are how scanners get fooled, so this is the only one: the tensors are
later taken from the very ranges found here, and torch's reader never sees the file.

- The zip is accepted only in the one shape torch writes: stored members of one folder, laid end to end,
  with a directory that agrees with what lies before each of them.
- The pickle is decoded operation by operation and interpreted over plain values. No class is looked up and
  no call is made; a global is its name, and the handful that tensors need are known by exact name.
- What does not fit is refused: as unsafe where another reader could see or do something else, as wrong
  input where the file is merely damaged.
"""

import io
import pickletools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from pargate.errors import InputError, UnsafeCheckpoint

ReadAt = Callable[[int, int], bytes]
"""Bytes of the file from an offset, in the length asked for."""

PICKLE_BYTES = 16 << 20
"""Bound of `data.pkl`: a checkpoint of three thousand tensors with optimiser state has about one MiB."""

MEMBERS = 100_000
"""Bound on the members of an archive; there is one per tensor."""

STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
"""torch's storage classes, and what safetensors calls the dtype."""

WIDTHS = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of one value."""

ORDERED_DICT = "collections.OrderedDict"
REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
REBUILD_PARAMETER = "torch._utils._rebuild_parameter"
ALLOWED = {ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER, *(f"torch.{name}" for name in STORAGES)}
"""Every global that a pickle may name."""

CONVERT = (
    "if you trust where the file comes from, convert it once, on a machine that may be lost: "
    'python -c "import sys, torch; from safetensors.torch import save_file; '
    "d = torch.load(sys.argv[1], map_location='cpu', weights_only=False); d = d.get('state_dict', d); "
    'save_file({k: v.contiguous().clone() for k, v in d.items()}, sys.argv[2])" OLD NEW.safetensors'
)
"""What to do with a pickle that would run code."""

CONVERT_SCRIPT = (
    "convert it once, on a machine that may be lost: "
    'python -c "import sys, torch; from safetensors.torch import save_file; '
    "d = torch.jit.load(sys.argv[1], map_location='cpu').state_dict(); "
    "[d.pop(k, None) for k in ('input_resolution', 'context_length', 'vocab_size')]; "
    'save_file({k: v.contiguous().clone() for k, v in d.items()}, sys.argv[2])" OLD NEW.safetensors; '
    "OpenAI's weights exist without code: open_clip:ViT-B-32-quickgelu/openai"
)
"""What to do with a TorchScript archive."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor and where its values lie in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """Byte of the file at which its first value lies."""
    strides: tuple[int, ...]
    """Steps along each axis, in values."""


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    header: int
    size: int
    crc: int
    flags: int


@dataclass(frozen=True, slots=True)
class _Global:
    """A name that the pickle mentions; it stands for nothing."""

    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: str
    values: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(read_at: ReadAt, size: int, name: str) -> tuple[StoredTensor, ...]:
    """The tensors of a checkpoint's state dict, in the file's order; `name` is for messages.

    Raises:
        InputError: damaged, big-endian, or a zip of something else; or no state dict in it.
        UnsafeCheckpoint: a program (TorchScript), a pickle that names anything but tensors and plain
            values, or an archive that two readers could read differently.
    """
    members = _members(read_at, size, name)
    root = _root(members, name)
    start, length = members.get(f"{root}/byteorder", (0, 0))
    if length and read_at(start, min(length, 16)) != b"little":
        raise InputError(f"{name} was written on a big-endian machine", "save it again on another")
    start, length = members[f"{root}/data.pkl"]
    if length > PICKLE_BYTES:
        raise InputError(f"{name}: its data.pkl has {length} bytes, more than any checkpoint needs", CONVERT)
    value = _Machine(name).run(read_at(start, length))
    return tuple(_placed(_state_dict(value, name), members, root, name))


# --- the zip -----------------------------------------------------------------------------------------


def _members(read_at: ReadAt, size: int, name: str) -> dict[str, tuple[int, int]]:
    """Where each member's bytes lie: name to (offset, length). Nothing may lie between, before or after."""
    found: dict[str, tuple[int, int]] = {}
    listed, end = _directory(read_at, size, name)
    at = 0
    for member in sorted(listed, key=lambda m: m.header):
        if member.name in found:
            _ambiguous(name, f"two members are called {member.name}")
        if member.header != at:
            _ambiguous(name, f"bytes that belong to no member lie before {member.name}")
        start = _local(read_at, member, end, name)
        found[member.name] = (start, member.size)
        at = start + member.size + _descriptor(read_at, member, start + member.size, end, name)
    if at != end:
        _ambiguous(name, "bytes that belong to no member lie before the directory")
    return found


def _directory(read_at: ReadAt, size: int, name: str) -> tuple[list[_Member], int]:
    """The members as the central directory lists them, and where that directory begins."""
    tail = read_at(max(0, size - 22), min(22, size))
    if len(tail) < 22 or tail[:4] != b"PK\x05\x06" or tail[20:] != b"\0\0":
        # A comment behind the directory would also end here; torch writes none.
        raise InputError(f"{name} is cut short, or not a zip that torch wrote", "copy or download it again")
    disk, first_disk, here, count, length, start, _ = struct.unpack("<4H2IH", tail[4:])
    if disk or first_disk or here != count:
        _ambiguous(name, "it claims to be one part of several")
    after = size - 22
    if 0xFFFF in (count,) or 0xFFFFFFFF in (length, start) or _is_locator(read_at, after):
        count, length, start, after = _zip64(read_at, after, name)
    if count > MEMBERS:
        raise InputError(f"{name} has {count} members, more than any checkpoint", CONVERT)
    if start + length != after:
        _ambiguous(name, "its directory does not end where its end record says")
    return list(_entries(read_at(start, length), count, name)), start


def _is_locator(read_at: ReadAt, after: int) -> bool:
    return after >= 20 and read_at(after - 20, 4) == b"PK\x06\x07"


def _zip64(read_at: ReadAt, after: int, name: str) -> tuple[int, int, int, int]:
    """Count, length and start of the directory from the records that large archives add before the end."""
    if not _is_locator(read_at, after):
        raise InputError(f"{name} is damaged: its large-file record is missing", "copy or download it again")
    disk, at, disks = struct.unpack("<IQI", read_at(after - 16, 16))
    record = read_at(at, 56) if at + 56 == after - 20 else b""
    if len(record) != 56 or record[:4] != b"PK\x06\x06" or disk or disks != 1:
        _ambiguous(name, "its large-file records do not follow each other")
    length_of_rest, _, _, here_disk, first_disk, here, count, length, start = struct.unpack(
        "<QHHIIQQQQ", record[4:]
    )
    if length_of_rest != 44 or here_disk or first_disk or here != count:
        _ambiguous(name, "its large-file records contradict each other")
    return count, length, start, at


def _entries(directory: bytes, count: int, name: str) -> Iterator[_Member]:
    at = 0
    for _ in range(count):
        head = directory[at : at + 46]
        if len(head) != 46 or head[:4] != b"PK\x01\x02":
            _ambiguous(name, "its directory holds something else than members")
        (_, _, flags, method, _, _, crc, packed, size, of_name, of_extra, of_comment, disk, _, _, header) = (
            struct.unpack("<6H3I5H2I", head[4:])
        )
        text = directory[at + 46 : at + 46 + of_name]
        extra = directory[at + 46 + of_name : at + 46 + of_name + of_extra]
        size, packed, header = _large(extra, size, packed, header)
        shown = text.decode("utf-8", "replace")
        if len(text) != of_name or len(extra) != of_extra or not shown.isprintable():
            _ambiguous(name, "its directory is cut short or names members unreadably")
        if flags & ~0x0808:  # bit 3: sizes repeated after the data; bit 11: UTF-8 names
            _ambiguous(name, f"{shown} is encrypted or marked in a way that torch does not use")
        if method or packed != size:
            _ambiguous(name, f"{shown} is compressed, which torch never does")
        if of_comment or disk:
            _ambiguous(name, f"{shown} carries a comment or lies on another disk")
        yield _Member(shown, header, size, crc, flags)
        at += 46 + of_name + of_extra
    if at != len(directory):
        _ambiguous(name, "its directory is longer than its members")


def _large(extra: bytes, size: int, packed: int, header: int) -> tuple[int, int, int]:
    """Sizes and offset, taken from the zip64 field where the entry has no room for them."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            values = iter(struct.unpack(f"<{length // 8}Q", extra[at + 4 : at + 4 + length // 8 * 8]))
            size = next(values, size) if size == 0xFFFFFFFF else size
            packed = next(values, packed) if packed == 0xFFFFFFFF else packed
            header = next(values, header) if header == 0xFFFFFFFF else header
        at += 4 + length
    return size, packed, header


def _local(read_at: ReadAt, member: _Member, end: int, name: str) -> int:
    """Where a member's bytes begin, if the header before them agrees with the directory."""
    head = read_at(member.header, 30)
    if len(head) != 30 or head[:4] != b"PK\x03\x04":
        raise InputError(f"{name} is damaged at {member.name}", "copy or download it again")
    _, flags, method, _, _, crc, packed, size, of_name, of_extra = struct.unpack("<5H3I2H", head[4:])
    text = read_at(member.header + 30, of_name)
    extra = read_at(member.header + 30 + of_name, of_extra)
    size, packed, _ = _large(extra, size, packed, 0)
    known = (member.crc, member.size, member.size)
    if flags & 8:
        agrees = (crc, packed, size) in ((0, 0, 0), known)
    else:
        agrees = (crc, packed, size) == known
    if text != member.name.encode() or method or flags != member.flags or not agrees:
        _ambiguous(name, f"the directory and the header of {member.name} differ")
    start = member.header + 30 + of_name + of_extra
    if start + member.size > end:
        raise InputError(f"{name} is damaged: {member.name} leaves the file", "copy or download it again")
    return start


def _descriptor(read_at: ReadAt, member: _Member, at: int, end: int, name: str) -> int:
    """Length of the record that repeats a member's sizes after its bytes, where there is one."""
    if not member.flags & 8:
        return 0
    long = b"PK\x07\x08" + struct.pack("<IQQ", member.crc, member.size, member.size)
    short = b"PK\x07\x08" + struct.pack(
        "<III", member.crc, member.size & 0xFFFFFFFF, member.size & 0xFFFFFFFF
    )
    there = read_at(at, min(24, end - at))
    if there == long and read_at(at + 24, 4)[:2] == b"PK":
        return 24
    if there[:16] == short and member.size <= 0xFFFFFFFF:
        return 16
    _ambiguous(name, f"the record behind {member.name} does not repeat its sizes")


def _root(members: dict[str, tuple[int, int]], name: str) -> str:
    """The one folder that everything lies in."""
    if any(member.endswith((".npy", ".npz")) for member in members):
        raise InputError(
            f"{name} is a numpy archive (npz), not a torch checkpoint", "convert it to safetensors"
        )
    roots = {member.split("/", 1)[0] for member in members}
    if any("/" not in member or ".." in member.split("/") for member in members) or len(roots) != 1:
        raise InputError(f"{name} is a zip, but not one that torch.save wrote", "give the checkpoint itself")
    root = roots.pop()
    if f"{root}/constants.pkl" in members or any(member.startswith(f"{root}/code/") for member in members):
        raise UnsafeCheckpoint(
            f"{name} is a TorchScript archive: a program, not only weights", CONVERT_SCRIPT
        )
    if f"{root}/data.pkl" not in members:
        raise InputError(f"{name} is a zip, but not one that torch.save wrote", "give the checkpoint itself")
    others = [m for m in members if m.endswith((".pkl", ".pickle", ".py")) and m != f"{root}/data.pkl"]
    if others:
        _ambiguous(name, f"beside data.pkl it holds {others[0]}")
    return root


def _ambiguous(name: str, why: str) -> NoReturn:
    raise UnsafeCheckpoint(
        f"{name} is not laid out as torch.save lays out a checkpoint: {why}; two readers could see two files",
        "save the weights again, best as safetensors",
    )


# --- the pickle --------------------------------------------------------------------------------------

_MARK = object()

_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "MARK": lambda: _MARK,
}

_LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES",
    "SHORT_BINBYTES", "BINSTRING", "SHORT_BINSTRING",
}  # fmt: skip

_IGNORED = {"PROTO", "FRAME"}


class _Machine:
    """Interprets one pickle over plain values, with a stack and a memo and no way out of them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        """The value that the pickle describes: dicts, lists, tuples, plain values and `_Tensor`."""
        try:
            for operation, argument, position in pickletools.genops(io.BytesIO(content)):
                if operation.name == "STOP":
                    if position != len(content) - 1:
                        _ambiguous(self.name, "a second pickle follows in data.pkl")
                    return self.stack.pop()
                self.step(operation.name, argument)
        except (ValueError, IndexError, TypeError, KeyError, struct.error, UnicodeError) as error:
            raise InputError(
                f"{self.name}: its data.pkl is damaged ({type(error).__name__})", "copy or download it again"
            ) from error
        raise InputError(f"{self.name}: its data.pkl has no end", "copy or download it again")

    def step(self, operation: str, argument: Any) -> None:
        """One operation. Those that are not here could only serve to build or call something else."""
        if operation in _LITERALS:
            self.stack.append(argument)
        elif operation in _CONSTANTS:
            self.stack.append(_CONSTANTS[operation]())
        elif operation in ("BINPUT", "LONG_BINPUT"):
            self.memo[int(argument)] = self.stack[-1]
        elif operation == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif operation in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[int(argument)])
        elif operation in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self.stack.append(self.last(int(operation[-1])))
        elif operation == "TUPLE":
            self.stack.append(self.marked())
        elif operation in ("APPEND", "APPENDS"):
            items = self.marked() if operation == "APPENDS" else self.last(1)
            self.top(list).extend(items)
        elif operation in ("SETITEM", "SETITEMS"):
            items = self.marked() if operation == "SETITEMS" else self.last(2)
            # Keys are hashed, and the hash of a tuple in a tuple in a tuple … can take the process down.
            if not all(isinstance(key, str | int) for key in items[::2]):
                self.unsafe("its pickle has a dict with keys other than names and numbers")
            self.top(dict).update(zip(items[::2], items[1::2], strict=True))
        elif operation == "GLOBAL":
            self.stack.append(self.known(str(argument).replace(" ", ".", 1)))
        elif operation == "STACK_GLOBAL":
            module, qualified = self.last(2)
            self.stack.append(self.known(f"{module}.{qualified}"))
        elif operation == "BINPERSID":
            self.stack.append(self.storage(self.stack.pop()))
        elif operation == "REDUCE":
            function, arguments = self.last(2)
            self.stack.append(self.call(function, arguments))
        elif operation == "BUILD":
            # An ordered dict carries `_metadata`, the versions of torch's modules; nothing here reads them.
            self.stack.pop()
            self.top(dict)
        elif operation not in _IGNORED:
            self.unsafe(f"its pickle uses {operation}")

    def last(self, count: int) -> tuple[Any, ...]:
        """The topmost `count` values, taken off the stack."""
        if len(self.stack) < count:
            raise IndexError
        values = tuple(self.stack[-count:])
        if any(value is _MARK for value in values):
            raise ValueError
        del self.stack[-count:]
        return values

    def marked(self) -> tuple[Any, ...]:
        """The values above the topmost mark, taken off the stack together with it."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise IndexError
        values = tuple(self.stack[at + 1 :])
        del self.stack[at:]
        return values

    def top(self, kind: type) -> Any:
        """The topmost value, which must be of `kind`: filling anything else would be a call in disguise."""
        if type(self.stack[-1]) is not kind:
            self.unsafe("its pickle fills in something else than a dict or list")
        return self.stack[-1]

    def known(self, name: str) -> _Global:
        if name not in ALLOWED:
            self.unsafe(f"its pickle names {_shown(name)}")
        return _Global(name)

    def storage(self, identity: Any) -> _Storage:
        match identity:
            case ("storage", _Global(name), str(key), str(), int(values)) if (
                name.removeprefix("torch.") in STORAGES
            ):
                return _Storage(key, STORAGES[name.removeprefix("torch.")], values)
        return self.unsafe("its pickle refers to something else than a storage")

    def call(self, function: Any, arguments: Any) -> Any:
        """What a call of an allowed global with these arguments would have made, as a plain value."""
        match function, arguments:
            case _Global(name), () if name == ORDERED_DICT:
                return {}
            case _Global(name), (
                _Storage() as storage,
                int(first),
                tuple(shape),
                tuple(strides),
                bool(),
                dict(),
                *_,
            ) if name == REBUILD_TENSOR:
                counts = (first, *shape, *strides)
                if len(shape) != len(strides) or not all(type(v) is int and v >= 0 for v in counts):
                    raise ValueError
                return _Tensor(storage, first, shape, strides)
            case _Global(name), (_Tensor() as tensor, bool(), dict()) if name == REBUILD_PARAMETER:
                return tensor
        return self.unsafe("its pickle calls something with arguments that torch would not write")

    def unsafe(self, why: str) -> NoReturn:
        """Refuse the file: loading it in the usual way could run code."""
        raise UnsafeCheckpoint(f"{self.name} could run code when it is loaded: {why}", CONVERT)


def _shown(text: str) -> str:
    """Foreign text for a message: one line, of bounded length."""
    return "".join(c if c.isprintable() else "?" for c in text[:80])


# --- from the pickle's value to tensors --------------------------------------------------------------


def _state_dict(value: Any, name: str) -> dict[Any, Any]:
    """The dict of tensors: the value itself, or what a training checkpoint keeps under `state_dict`."""
    if isinstance(value, dict) and isinstance(value.get("state_dict"), dict):
        averaged = [key for key in ("state_dict_ema", "model_ema", "ema") if key in value]
        if averaged:
            raise InputError(
                f"{name} holds raw weights (state_dict) and averaged ones ({averaged[0]})",
                "save the one that you ship on its own",
            )
        value = value["state_dict"]
    if not isinstance(value, dict) or not any(isinstance(v, _Tensor) for v in value.values()):
        raise InputError(f"{name} holds no state dict of tensors", "save model.state_dict()")
    return value


def _placed(
    state: dict[Any, Any], members: dict[str, tuple[int, int]], root: str, name: str
) -> Iterator[StoredTensor]:
    for key, tensor in state.items():
        if not isinstance(key, str) or not isinstance(tensor, _Tensor):
            raise InputError(
                f"{name}: {_shown(str(key))} in its state dict is not a named tensor", "save tensors alone"
            )
        storage = tensor.storage
        width = WIDTHS[storage.dtype]
        start, length = members.get(f"{root}/data/{storage.key}", (0, -1))
        if length != storage.values * width:
            raise InputError(
                f"{name} is damaged: the bytes of {_shown(key)} are missing or of another length",
                "copy or download it again",
            )
        steps = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
        if 0 not in tensor.shape and tensor.first + steps >= storage.values:
            raise InputError(
                f"{name} is damaged: {_shown(key)} leaves its storage", "copy or download it again"
            )
        yield StoredTensor(key, storage.dtype, tensor.shape, start + tensor.first * width, tensor.strides)
