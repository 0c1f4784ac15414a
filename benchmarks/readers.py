"""Compare what pargate reads of generated model files with what torch, safetensors and open_clip load.

    python -m benchmarks.readers [--cases N] [--seed N] [--python OTHER] [--before FOLDER] [--no-evidence]

Honest files are changed at random: the records of a zip, the operations of a pickle, the header of a safetensors
file, the files of a folder. A child process loads each as open_clip does. Whatever pargate accepts must be equal
to that, to the last bit, pargate must refuse in its own words, and it must not say that code could run where torch's
weights-only reader loads. Ends with 1 if a case breaks this. What pargate accepts and no loader loads is counted: it
is no second model.

`--python` names another interpreter for the child, for another torch; what was found with others stays.
"""

import argparse
import dataclasses
import hashlib
import io
import json
import os
import pickle
import pickletools
import random
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PATIENCE = 30.0
"""Seconds to wait for an answer of the child."""

ROOM = 1 << 30
"""Memory that loading a case may take."""

Tensors = dict[str, tuple[str, tuple[int, ...], str]]
"""dtype, shape and digest of the values, by name."""


# --- the child: what loaders get -----------------------------------------------------------------------


def answer() -> None:
    """Load one file after the other, as they are named on standard input; a crash costs one answer."""
    import open_clip.factory
    import torch

    torch.set_num_threads(1)
    print(json.dumps({"torch": torch.__version__, "open_clip": open_clip.__version__}), flush=True)
    while True:
        process = os.fork()
        if not process:
            # A place in a pickle's memo, or a size, may ask for any amount of memory.
            most = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + ROOM
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
            while line := _line():
                print(json.dumps({"path": line, **_loaded(Path(line), torch, open_clip.factory)}), flush=True)
            os._exit(0)
        if os.waitpid(process, 0)[1] == 0:
            return
        print(json.dumps({"refused": "the process died"}), flush=True)


def _line() -> str:
    """Read one line of standard input, and nothing of the next."""
    read = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        read += byte
    return read.decode()


def _loaded(path: Path, torch: Any, factory: Any) -> dict[str, Any]:
    import warnings

    found: dict[str, Any] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = factory._find_checkpoint_in_dir(path) if path.is_dir() else path
            if file is None:  # of no kind that open_clip looks for, so a user has to name it
                (file,) = (part for part in path.iterdir() if not part.name.endswith(".json"))
            try:
                state = factory.load_state_dict(str(file))
            except pickle.UnpicklingError:
                # The weights-only reader knows protocol 2 alone. What runs here was made by this script.
                state = factory.load_state_dict(str(file), weights_only=False)
                found["free"] = True
            found["tensors"] = {name: _digest(tensor, torch) for name, tensor in state.items()}
    except BaseException as error:
        found["refused"] = f"{type(error).__name__}: {error}"[:200]
    return found


def _digest(tensor: Any, torch: Any) -> tuple[str, list[int], str]:
    values = tensor.detach().resolve_neg().resolve_conj().contiguous()
    flat = values.reshape(-1).view(torch.uint8) if values.numel() else torch.empty(0, dtype=torch.uint8)
    return str(tensor.dtype), list(tensor.shape), hashlib.sha256(flat.numpy().tobytes()).hexdigest()


class Child:
    """The loaders, in a process of their own."""

    def __init__(self, python: str) -> None:
        self.python = python
        self._start()

    def _start(self) -> None:
        self.process = subprocess.Popen(
            [self.python, __file__, "--child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True, bufsize=0,
        )  # fmt: skip
        self.versions: dict[str, str] = self._answer(600)

    def _answer(self, patience: float) -> Any:
        output = self.process.stdout
        if output is None or not select.select([output], [], [], patience)[0]:
            raise TimeoutError("the child does not answer")
        return json.loads(output.readline())

    def load(self, path: Path) -> dict[str, Any]:
        """Return what the loaders get from a file or folder."""
        if self.process.stdin is None:
            raise RuntimeError("the child has no input")
        self.process.stdin.write(f"{path}\n".encode())
        self.process.stdin.flush()
        try:
            found: dict[str, Any] = self._answer(PATIENCE)
            while found.get("path", str(path)) != str(path):  # of a process that died after its answer
                found = self._answer(PATIENCE)
        except TimeoutError:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.close()
            self._start()
            return {"refused": f"no answer within {PATIENCE:.0f} s"}
        return found

    def close(self) -> None:
        """End it."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait(PATIENCE)
        if self.process.stdout is not None:
            self.process.stdout.close()


# --- pargate -------------------------------------------------------------------------------------------

DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "U16": "uint16", "U32": "uint32", "U64": "uint64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip


def accepted(path: Path) -> Tensors:
    """Return what pargate reads from a file or folder.

    Raises:
        PargateError: it refuses.
    """
    import numpy as np

    from pargate.models import weights
    from pargate.models.open import open_model

    if path.is_dir():
        with open_model(str(path)) as opened:
            tensors, content = opened.tensors, bytes(opened.take())
    else:
        file = weights.read(path, path.name, keep=True)
        tensors, content = file.tensors, bytes(file.content or b"")
    found: Tensors = {}
    for tensor in tensors:
        width = weights.WIDTHS[tensor.dtype]
        places = np.zeros(tensor.shape, np.int64)
        for axis, (n, step) in enumerate(zip(tensor.shape, tensor.strides, strict=True)):
            places += (np.arange(n) * step).reshape(n, *([1] * (len(tensor.shape) - axis - 1)))
        values = b"".join(content[at : at + width] for at in (tensor.offset + places.reshape(-1) * width).tolist())
        dtype = f"torch.{DTYPES[tensor.dtype]}"
        found[tensor.name] = (dtype, tensor.shape, hashlib.sha256(values).hexdigest())
    if all(name.startswith("module.") for name in found):  # what DDP puts before names, open_clip cuts
        return {name.removeprefix("module."): tensor for name, tensor in found.items()}
    return found


# --- honest files --------------------------------------------------------------------------------------


def honest(draw: random.Random, other: int = 0) -> Any:
    """Return a checkpoint as people save them; `other` changes the values, not the form."""
    import torch

    def values(*shape: int) -> Any:
        return torch.arange(float(torch.Size(shape).numel())).reshape(shape) + 100 * other + draw.random()

    state: Any = OrderedDict(a=values(3, 4), b=values(5), c=values(2, 2).half())
    state["d"] = state["a"].T if draw.random() < 0.5 else state["a"][1:, ::2]
    if draw.random() < 0.3:
        state["e"] = torch.nn.Parameter(values(2))
    if draw.random() < 0.3:
        state["f"] = torch.tensor(7 + other)
        state["g"] = torch.ones(3, dtype=torch.bfloat16)
    if draw.random() < 0.2:
        state["h"] = torch.empty(0, 3)
    if draw.random() < 0.3:
        state._metadata = OrderedDict({"": {"version": 1}})
    elif draw.random() < 0.3:
        state = dict(state)
    if draw.random() < 0.5:
        return state
    extras = [
        torch.Size([3, 64]), torch.float16, torch.device("cpu"), {"a", "b"}, Counter("aab"), b"abc", bytearray(b"ab"),
        {1.5: 2, None: 3, (1, 2): 4}, 1 + 2j, torch.strided, {"state": {0: {"exp_avg": values(3)}}}, None, True, [1, 2.5],
    ]  # fmt: skip
    return {"epoch": 3, "extra": draw.choice(extras), "state_dict": state, "optimizer": {"a": values(4)}}


def saved(value: Any, protocol: int = 2) -> bytes:
    """As `torch.save` writes it."""
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_protocol=protocol)
    return buffer.getvalue()


def members_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


# --- zips, record by record ----------------------------------------------------------------------------


@dataclasses.dataclass
class Record:
    """One member, with every field that the two records of it have."""

    name: bytes
    data: bytes
    flags: int = 0x0808
    method: int = 0
    attributes: int = 0
    extra: bytes = b""
    local: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What the header before the data says instead."""
    descriptor: int = 16
    gap: bytes = b""
    """Bytes before the header."""
    offset: int | None = None
    """Where the directory says that it lies, if elsewhere."""
    large: int = 0
    """Which of size, packed size and offset the directory keeps in a zip64 field, as bits."""
    hidden: bool = False
    """Whether the directory leaves it out."""


@dataclasses.dataclass
class Archive:
    """A zip of records."""

    records: list[Record]
    prefix: bytes = b""
    behind: bytes = b""
    comment: bytes = b""
    large: bool = False
    count: int | None = None
    shuffled: bool = False

    def write(self, draw: random.Random) -> bytes:
        """Return the bytes."""
        out, entries = bytearray(self.prefix), []
        for record in self.records:
            out += record.gap
            at = len(out)
            packed = record.data
            if record.method == 8:
                packed = zlib.compress(packed, wbits=-15)
            told = {"name": record.name, "flags": record.flags, "method": record.method, "extra": record.extra,
                    "crc": zlib.crc32(record.data), "packed": len(packed), "size": len(record.data), **record.local}  # fmt: skip
            descriptor = b""
            if record.flags & 8:
                form = "<IQQ" if record.descriptor == 24 else "<III"
                descriptor = b"PK\x07\x08" + struct.pack(form, zlib.crc32(record.data), len(packed), len(record.data))
                told |= {"crc": 0, "packed": 0, "size": 0}
            out += b"PK\x03\x04" + struct.pack(
                "<5H3I2H", 20, told["flags"], told["method"], 0, 0, told["crc"], told["packed"], told["size"],
                len(told["name"]), len(told["extra"]),
            )  # fmt: skip
            out += told["name"] + told["extra"] + packed + descriptor
            if not record.hidden:
                entries.append(self._entry(record, record.offset if record.offset is not None else at, len(packed)))
        if self.shuffled:
            draw.shuffle(entries)
        out += self.behind
        start, directory = len(out), b"".join(entries)
        out += directory
        count = len(entries) if self.count is None else self.count
        if self.large:
            end = len(out)
            out += b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, len(directory), start)
            out += b"PK\x06\x07" + struct.pack("<IQI", 0, end, 1)
            if draw.random() < 0.5:
                count, start, directory = 0xFFFF, 0xFFFFFFFF, b""
        length = 0xFFFFFFFF if self.large and not directory else len(directory)
        out += b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, count, count, length, start, len(self.comment))
        return bytes(out + self.comment)

    @staticmethod
    def _entry(record: Record, at: int, packed: int) -> bytes:
        real = (len(record.data), packed, at)
        size, packed, at = (0xFFFFFFFF if record.large >> i & 1 else value for i, value in enumerate(real))
        values = [value for i, value in enumerate(real) if record.large >> i & 1]
        extra = record.extra
        if values:
            extra += struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values)
        return (
            b"PK\x01\x02"
            + struct.pack(
                "<6H3I5H2I", 20, 20, record.flags, record.method, 0, 0, zlib.crc32(record.data), packed, size,
                len(record.name), len(extra), 0, 0, 0, record.attributes, at,
            )
            + record.name
            + extra
        )  # fmt: skip


def archive_of(members: dict[str, bytes]) -> Archive:
    return Archive([Record(name.encode(), data) for name, data in members.items()])


def other_case(draw: random.Random, name: bytes) -> bytes:
    """Return the name with the case of some letters changed."""
    return bytes(c ^ 32 if chr(c).isalpha() and draw.random() < 0.3 else c for c in name)


def change_zip(draw: random.Random, archive: Archive, poison: dict[str, bytes]) -> None:
    """Change one thing about the records."""
    records = archive.records
    record = draw.choice(records)
    other = poison.get(record.name.decode("latin-1"), record.data[::-1])
    known = b"data.pkl", b"byteorder", b"version", b".data/version", b".format_version", b".storage_alignment", b"x.py"

    def again(**changes: Any) -> None:
        records.insert(draw.randrange(len(records) + 1), dataclasses.replace(record, data=other, local={}, **changes))

    def swap() -> None:
        twin = draw.choice(records)
        record.name, twin.name = twin.name, record.name

    def every(**changes: Any) -> None:
        for r in records:
            for field, value in changes.items():
                setattr(r, field, value(r) if callable(value) else value)

    choices: list[Callable[[], Any]] = [
        lambda: setattr(record, "name", other_case(draw, record.name)),
        lambda: again(name=other_case(draw, record.name)),
        lambda: again(),
        lambda: again(hidden=True),
        lambda: again(name=record.name + draw.choice([b"/", b"\0", b" ", b"x", b"\xc3\xa9", b"\xe9"])),
        lambda: setattr(record, "name", record.name + draw.choice([b"/", b"\0", b".", b"\xc3\xa9"])),
        lambda: setattr(record, "name", record.name.replace(b"/", draw.choice([b"\\", b"//", b"/./", b"/../"]), 1)),
        lambda: setattr(record, "flags", draw.choice([0, 8, 0x800, 0x808, 1, 0x41, 0x20, 0x2000, draw.getrandbits(16)])),
        lambda: setattr(record, "method", draw.choice([8, 1, 9, 12])),
        lambda: setattr(record, "attributes", draw.choice([0x10, 0x20, 1, 0x41ED0010, 0o100600 << 16, 0o120777 << 16,
                                                           draw.getrandbits(32)])),
        lambda: setattr(record, "extra", draw.choice([
            struct.pack("<HH", 0x4246, 12) + bytes(12), struct.pack("<HHQ", 1, 8, 7), struct.pack("<HHI", 1, 4, 7),
            struct.pack("<HH", 1, 0), draw.randbytes(draw.randrange(9)), struct.pack("<HHQQ", 1, 16, 1, 1)])),
        lambda: record.local.update(name=draw.choice([other_case(draw, record.name), record.name + b"x",
                                                      draw.choice(records).name])),
        lambda: record.local.update(flags=draw.choice([0, 8, 0x800, 0x808, 1])),
        lambda: record.local.update(size=draw.choice([0, 1, 0xFFFFFFFF, len(record.data) + 1])),
        lambda: record.local.update(crc=draw.getrandbits(32)),
        lambda: record.local.update(extra=draw.randbytes(draw.randrange(40))),
        lambda: record.local.update(method=8),
        lambda: setattr(record, "descriptor", 24),
        lambda: setattr(record, "gap", draw.randbytes(draw.randrange(1, 30))),
        lambda: setattr(record, "offset", draw.choice([0, 30, draw.randrange(4000)])),
        lambda: setattr(record, "large", draw.randrange(1, 8)),
        lambda: setattr(record, "hidden", True),
        lambda: records.append(Record(draw.choice([b"archive/", b"ARCHIVE/", b"x/", b""]) + other_case(draw, draw.choice(known)),
                                      draw.choice([b"big", b"little", b"1", b"3", b"", b"\x80\x02}."]))),
        swap,
        lambda: draw.shuffle(records),
        lambda: setattr(archive, "shuffled", True),
        lambda: setattr(archive, "prefix", draw.choice([b"#!/bin/sh\n", b"\0" * 64, records[0].data])),
        lambda: setattr(archive, "behind", draw.randbytes(draw.randrange(1, 40))),
        lambda: setattr(archive, "comment", draw.choice([b"x", b"PK\x05\x06" + bytes(18), draw.randbytes(22)])),
        lambda: setattr(archive, "large", True),
        lambda: setattr(archive, "count", draw.choice([0, 1, len(records) - 1, len(records) + 1, 0xFFFF])),
        lambda: setattr(record, "data", other),
        lambda: setattr(record, "data", record.data[: draw.randrange(len(record.data) + 1)]),
        lambda: setattr(record, "data", record.data + draw.randbytes(draw.randrange(1, 9))),
        lambda: every(flags=0x800),
        lambda: every(name=lambda r: r.name.replace(b"archive", b"Model-B_32", 1)),
        lambda: every(data=lambda r: draw.choice([b"big", b"BIG", b"little\0", b"", b"Little"])
                      if r.name.endswith(b"byteorder") else r.data),
    ]  # fmt: skip
    draw.choice(choices)()


# --- pickles, operation by operation -------------------------------------------------------------------


def operations(content: bytes) -> list[bytes]:
    places = [position or 0 for _, _, position in pickletools.genops(content)]
    return [content[begin:end] for begin, end in zip(places, [*places[1:], len(content)], strict=True)]


def text(value: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value


GLOBALS = (
    b"ccollections\nOrderedDict\n", b"ctorch\nHalfStorage\n", b"ctorch\nIntStorage\n", b"ctorch\nFloatStorage\n",
    b"ctorch\nBFloat16Storage\n", b"ctorch.storage\nUntypedStorage\n", b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch._utils\n_rebuild_tensor\n", b"ctorch._utils\n_rebuild_tensor_v3\n", b"ctorch\nSize\n", b"ctorch\nfloat16\n",
    b"ctorch\nTensor\n", b"c__builtin__\nset\n", b"ccollections\nCounter\n", b"ctorch._utils\n_rebuild_parameter_with_state\n",
    b"ctorch._utils\n_rebuild_device_tensor_from_cpu_tensor\n", b"ctorch._tensor\n_rebuild_from_type_v2\n",
    b"ccollections\n\\117rderedDict\n", b"ctorch\n_utils._rebuild_tensor_v2\n", b"ctorch\nComplexFloatStorage\n",
)  # fmt: skip


def change_pickle(draw: random.Random, content: bytes) -> bytes:
    """Change one thing about the operations."""
    ops = operations(content)
    at = draw.randrange(1, len(ops))
    op = ops[at]
    texts = [i for i, o in enumerate(ops) if o[:1] == b"X"]
    numbers = [i for i, o in enumerate(ops) if o[:1] in b"KMJ"]
    names = [i for i, o in enumerate(ops) if o[:1] == b"c"]
    gets = [i for i, o in enumerate(ops) if o[:1] in b"hq"]
    tuples = [i for i, o in enumerate(ops) if o[:1] == b"t"]

    def number(value: int) -> bytes:
        return draw.choice(
            [b"J" + struct.pack("<i", value), b"\x8a\x04" + struct.pack("<i", value), b"K" + bytes([value & 255]),
             b"M" + struct.pack("<H", value & 65535), b"I%d\n" % value, b"L%dL\n" % value, b"\x8a\x00",
             b"\x88", b"G" + struct.pack(">d", value)]
        )  # fmt: skip

    def words() -> None:
        i = draw.choice(texts)
        value = ops[i][5:]
        if draw.random() < 0.5:
            value = draw.choice(
                [other_case(draw, value), b"\xc3\xa9" + value, value + b"0", value[:-1], ops[draw.choice(texts)][5:]]
            )
        ops[i] = draw.choice(
            [text(value), b"U" + bytes([len(value) & 255]) + value, b"T" + struct.pack("<I", len(value)) + value,
             b"\x8c" + bytes([len(value) & 255]) + value, b"C" + bytes([len(value) & 255]) + value, b"V" + value + b"\n"]
        )  # fmt: skip

    def chunk() -> None:
        end = draw.randrange(at, min(len(ops), at + 40))
        ops[draw.randrange(1, len(ops)) : 0] = ops[at:end]

    def swap() -> None:
        i = draw.randrange(1, len(ops))
        ops[i], ops[at] = ops[at], ops[i]

    def argument() -> None:
        """Another argument for a call, or for a persistent id."""
        i = draw.choice(tuples)
        ops.insert(
            i, draw.choice([b"}", b"N", b"}" + text(b"neg") + b"\x88s", b"}" + text(b"conj") + b"\x88s", b"K\x01"])
        )

    def shadow() -> None:
        """Attributes for what is on the stack."""
        state = b"}(" + text(draw.choice([b"_metadata", b"items", b"keys", b"x", b"__class__", b"dtype"]))
        ops.insert(at, draw.choice([state + draw.choice(GLOBALS) + b"ub", state + b"N" + b"ub", b"}b", b"N}\x86b"]))

    def pair() -> None:
        """Something under another key, or under one that is there already."""
        key = draw.choice([ops[draw.choice(texts)], text(b"a"), text(b"state_dict"), b"K\x01", b"N", b"\x88", b")"])
        ops.insert(at, draw.choice([key + b"Ns", b"(" + key + b"Nu", key + b"h" + bytes([draw.randrange(30)]) + b"s",
                                    key + b"}s"]))  # fmt: skip

    def replaced(places: list[int], value: bytes) -> None:
        if places:
            ops[draw.choice(places)] = value

    choices: list[Callable[[], Any]] = [
        lambda: ops.pop(at),
        lambda: ops.insert(at, op),
        chunk,
        swap,
        words,
        words,
        lambda: replaced(numbers, number(draw.choice([0, 1, 2, 3, 4, 5, 6, 12, 20, 255, -1, 1 << 20]))),
        lambda: replaced(numbers, number(draw.choice([0, 1, 2, 3, 4, 5, 6, 12, 20, 255, -1, 1 << 20]))),
        lambda: replaced(names, draw.choice(GLOBALS)),
        lambda: replaced(names, draw.choice(GLOBALS)),
        lambda: replaced(names, ops[draw.choice(names)]),
        lambda: replaced(gets, draw.choice([b"h", b"q"]) + bytes([draw.randrange(40)])),
        lambda: ops.insert(at, draw.choice([b"(", b"0", b"1", b"2", b"N", b"}", b"]", b")", b"\x94", b"\x8f", b"b", b"R",
                                            b"\x81", b"\x85", b"\x88", b"Q", b".", b"s", b"u", b"a", b"e", b"\x80\x04"])),
        lambda: ops.insert(at, draw.choice([b"h", b"q", b"j", b"r"]) + bytes([draw.randrange(40), 0, 0, 0])[: draw.choice([1, 4])]),
        argument,
        argument,
        shadow,
        pair,
        pair,
        lambda: ops.insert(0, b"\x80" + bytes([draw.randrange(7)])),
        lambda: ops.append(draw.choice([b"x", b"\x80\x02}."])),
    ]  # fmt: skip
    draw.choice(choices)()
    changed = b"".join(ops)
    if draw.random() < 0.05:
        spot = draw.randrange(len(changed))
        changed = changed[:spot] + bytes([draw.randrange(256)]) + changed[spot + 1 :]
    return changed


# --- safetensors ---------------------------------------------------------------------------------------


def safetensors_of(value: Any) -> bytes:
    from safetensors.torch import save

    state = value.get("state_dict", value)
    return bytes(save({name: tensor.detach().contiguous().clone() for name, tensor in state.items()}))


def change_safetensors(draw: random.Random, content: bytes) -> bytes:
    """Change one thing about the header, or about what follows."""
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length].decode(), content[8 + length :]
    entries = json.loads(header)
    name = draw.choice(list(entries))
    entry = entries[name]
    wide = json.dumps(entries, indent=draw.choice([None, 1, 4]))

    def reordered() -> str:
        pairs = list(entries.items())
        draw.shuffle(pairs)
        return json.dumps(dict(pairs))

    def put(**changes: Any) -> str:
        return json.dumps({**entries, name: {**entry, **changes}})

    def twice() -> str:
        other = draw.choice(list(entries.values()))
        return json.dumps({**entries, "?": other}).replace('"?"', json.dumps(name))

    offsets = entry["data_offsets"]
    choices: list[Callable[[], str]] = [
        lambda: wide,
        reordered,
        twice,
        lambda: header + " " * draw.randrange(1, 20),
        lambda: " " + header,
        lambda: header.rstrip() + draw.choice(["\n", "\t", "\0", "x", "{}"]),
        lambda: json.dumps({"__metadata__": draw.choice([{"a": "b"}, {}, None, {"a": 1}, [], {"format": "pt"}]), **entries}),
        lambda: header.replace(f'"{name}"', f'"\\u{ord(name[0]):04x}{name[1:]}"' , 1),
        lambda: header.replace(f'"{name}"', draw.choice(['"\\ud800"', '"é"', '"\\u0000"', '""', '"state_dict"', '"module.a"']), 1),
        lambda: put(dtype=draw.choice(["F32", "F16", "BF16", "I32", "U8", "BOOL", "I64", "F8_E4M3", "C64", "f32"])),
        lambda: put(shape=draw.choice([[0], [], [1], [2, 2], [-1], [1.0], [True], [1 << 63, 0], [0, 10**30], [4, 3]])),
        lambda: put(shape=[1, *entry["shape"]]),
        lambda: put(data_offsets=draw.choice([[0, offsets[1]], offsets[::-1], [*offsets, 1], [False, offsets[1]],
                                              draw.choice(list(entries.values())).get("data_offsets", [0, 4])])),
        lambda: put(x=1),
        lambda: put(**{draw.choice(["Dtype", "shape "]): 1}),
        lambda: header.replace("0", draw.choice(["-0", "0.0", "0e0", "00", "+0"]), 1),
        lambda: header.replace(":", draw.choice([" : ", ":\n"])),
        lambda: header.replace("{", "{ ", 2),
        lambda: header.replace(f'"{name}"', f'"{draw.choice(list(entries))}"', 1),
    ]  # fmt: skip
    changed = draw.choice(choices)().encode("utf-8", "surrogatepass")
    if draw.random() < 0.1:
        data = draw.choice([data + b"\0", data[:-1], data[::-1]])
    size = len(changed) if draw.random() > 0.03 else len(changed) + draw.choice([-1, 1, 1 << 40])
    return struct.pack("<Q", max(0, size)) + changed + data


# --- the eight forms -----------------------------------------------------------------------------------

Arrays = dict[str, Any]
"""float32 arrays by name."""


def one_tensor(array: Any, key: bytes, kind: str = "FloatStorage", more: bytes = b"") -> bytes:
    """Return the operations that make a tensor of the storage named by the operation `key`."""

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"

    steps = tuple(step // array.itemsize for step in array.strides)
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n((" + text(b"storage") + f"ctorch\n{kind}\n".encode() + key
        + text(b"cpu") + b"J" + struct.pack("<i", array.size) + b"tQK\0" + numbers(array.shape) + numbers(steps)
        + b"\x89ccollections\nOrderedDict\n)R" + more + b"tR"
    )  # fmt: skip


def one_dict(pairs: dict[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(name.encode()) + value for name, value in pairs.items()) + b"u"


def key_of(number: int, before: str = "") -> bytes:
    return text(f"{before}{number}".encode())


def checkpoint(arrays: Arrays, before: str = "", **how: Any) -> tuple[bytes, dict[str, bytes]]:
    """Return the pickle of a state dict, and its members; the keys of its storages begin with `before`."""
    tensors = {name: one_tensor(array, key_of(i, before), **how) for i, (name, array) in enumerate(arrays.items())}
    stored = {f"archive/data/{before}{i}": array.tobytes() for i, array in enumerate(arrays.values())}
    return b"\x80\x02" + one_dict(tensors) + b".", stored


def forms(clean: Arrays, poisoned: Arrays, witness: str) -> dict[str, dict[str, bytes]]:
    """Files of which two readers get two models, by what they do; the code in one makes the folder `witness`."""
    from safetensors.numpy import save

    draw = random.Random(0)
    notes = {"archive/byteorder": b"little", "archive/version": b"3\n"}
    program, stored = checkpoint(clean)
    other_program, other_stored = checkpoint(poisoned, "p")
    plain = {"archive/data.pkl": program, **notes, **stored}

    def file(members: dict[str, bytes], **changes: Any) -> dict[str, bytes]:
        archive = archive_of(members)
        for record in archive.records:
            if record.name.startswith(b"archive/data/"):
                for field, value in changes.items():
                    setattr(record, field, value)
        return {"model.pt": archive.write(draw)}

    letters = {name: b"U" + bytes([2 + len(str(i))]) + "é".encode() + b"%d" % i for i, name in enumerate(clean)}
    texts = one_dict({name: one_tensor(array, letters[name]) for name, array in clean.items()})
    both = {f"archive/data/é{i}": array.tobytes() for i, array in enumerate(poisoned.values())}
    both |= {f"archive/data/Ã©{i}": array.tobytes() for i, array in enumerate(clean.values())}
    first = one_dict({"step": one_tensor(next(iter(clean.values())), key_of(0), "IntStorage")})
    twice = b"\x80\x02" + one_dict({"optimizer": first, "state_dict": program[2:-1]}) + b"."
    negated, _ = checkpoint(clean, more=one_dict({"neg": b"\x88"}))
    return {
        "1 a key without an encoding": file({"archive/data.pkl": b"\x80\x02" + texts + b".", **notes, **both}),
        "2 DATA.PKL": file({"archive/DATA.PKL": other_program, **plain, **other_stored}),
        "2 ByteOrder": file({**{n: d for n, d in plain.items() if "byteorder" not in n}, "archive/ByteOrder": b"big"}),
        "2 CODE": file({**plain, "archive/CODE/__torch__.PY": b"class M(Module):\n"}),
        "3 one key, two dtypes": file({**plain, "archive/data.pkl": twice}),
        "4 a seventh argument": file({**plain, "archive/data.pkl": negated}),
        "5 members marked as folders": file(plain, attributes=0x10),
        "6 safetensors and a pickle": {"open_clip_pytorch_model.bin": polyglot(clean, witness)},
        "7 names that open_clip does not look for": {
            "open_clip_pytorch_model.pt": file(plain)["model.pt"],
            "weights.safetensors": bytes(save(poisoned)),
        },
    }


def polyglot(arrays: Arrays, witness: str) -> bytes:
    """Return a safetensors file that, read as a pickle, makes the folder `witness`.

    The length of its header begins with the operation of a string, which leads into a run of the operation that
    pushes None; short strings lead from there to the first tensor, in which the code is.
    """
    code = f"cos\nmkdir\n(V{witness}\ntR.".encode()
    entries: dict[str, Any] = {}
    data = bytearray()
    for name, array in sorted(arrays.items(), key=lambda item: -item[1].size):  # the first has room for the code
        values = array.tobytes()
        if not entries:
            values = code + values[len(code) :]
        entries[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(values)],
        }
        data += values
    before = json.dumps(entries)[:-1] + ', "__metadata__": {"x": "'
    run = 256 * (len(before) + 64)
    for length in range(len(before) + run, len(before) + run + 256):
        # The end of the run: one short string that ends where the tensors begin.
        behind = 'U\x20"}}'.ljust(2 + 0x20)
        if (length + len(behind)) % 256 == ord("T"):
            header = (before + "N" * (length - len(before)) + behind).encode()
            return struct.pack("<Q", len(header)) + header + bytes(data)
    raise AssertionError("every remainder occurs")


# --- cases ---------------------------------------------------------------------------------------------

SUFFIXES = (".pt", ".bin", ".pth", ".ckpt", ".safetensors", ".PT", "", ".SAFETENSORS")

FOLDER_NAMES = (
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth", "open_clip_pytorch_model.pt", "model.safetensors", "pytorch_model.safetensors",
    "pytorch_model.bin", "pytorch_model.pth", "model.pth", "model.pt", "weights.safetensors", "a.bin", "a.pth", "z.ckpt",
    "Model.BIN", "training_args.bin", "model-00001-of-00002.safetensors",
)  # fmt: skip

CONFIG = {
    "model_cfg": {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 2, "head_width": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
    }
}


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One file or folder."""

    kind: str
    files: dict[str, bytes]
    """One file, or the files of a folder with its configuration among them."""


def cases(seed: int, count: int) -> Iterator[Case]:
    """`count` cases, the same for the same seed."""
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        value, poison = honest(draw), honest(draw, other=1)
        kind = draw.choices(["zip", "pickle", "safetensors", "folder", "bytes"], [8, 10, 5, 2, 2])[0]
        yield _case(kind, draw, value, poison)


def _case(kind: str, draw: random.Random, value: Any, poison: Any) -> Case:
    times = draw.choice([1, 1, 1, 2, 3])
    if kind == "folder":
        return Case(kind, _folder(draw, value, poison))
    if kind == "safetensors" or (kind == "bytes" and draw.random() < 0.3):
        content = safetensors_of(value)
        suffix = ".safetensors" if draw.random() < 0.95 else draw.choice(SUFFIXES)
        if kind == "safetensors":
            content = change_safetensors(draw, content)
    else:
        content = saved(value, draw.choice([2, 2, 2, 3, 4, 5]))
        suffix = ".pt" if draw.random() < 0.95 else draw.choice(SUFFIXES)
        members = members_of(content)
        if kind == "pickle":
            for _ in range(times):
                try:
                    members["archive/data.pkl"] = change_pickle(draw, members["archive/data.pkl"])
                except (ValueError, IndexError, struct.error):
                    break  # the last change left nothing that can be changed again
            content = archive_of(members).write(draw)
        elif kind == "zip":
            archive = archive_of(members)
            for _ in range(times):
                change_zip(draw, archive, members_of(saved(poison)))
            content = archive.write(draw)
    if kind == "bytes":
        content = _spoilt(draw, content)
    return Case(kind, {f"case{suffix}": content})


def _spoilt(draw: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 8])):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    if draw.random() < 0.2:
        del changed[draw.randrange(len(changed)) :]
    return bytes(changed)


def _folder(draw: random.Random, value: Any, poison: Any) -> dict[str, bytes]:
    files = {"open_clip_config.json": json.dumps(CONFIG).encode()}
    for name in draw.sample(FOLDER_NAMES, draw.choice([1, 2, 2, 3])):
        chosen = poison if draw.random() < 0.4 else value
        fits = name.endswith(".safetensors") == (draw.random() < 0.97)
        files[name] = safetensors_of(chosen) if fits else saved(chosen)
    return files


# --- the comparison ------------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True)
class Outcome:
    """What became of the cases."""

    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    broken: list[str] = dataclasses.field(default_factory=list)
    """The cases in which the readers differ or pargate fails, and how."""


def compare(child: Child, seed: int, count: int) -> Outcome:
    """Read `count` cases by both."""
    from pargate.errors import PargateError, UnsafeCheckpoint

    outcome = Outcome()
    with tempfile.TemporaryDirectory() as place:
        for number, case in enumerate(cases(seed, count)):
            folder = Path(place) / str(number)
            folder.mkdir()
            for name, content in case.files.items():
                (folder / name).write_bytes(content)
            path = folder if case.kind == "folder" else folder / next(iter(case.files))
            ours: Tensors | None = None
            said, wrong, accused = "accepted", "", ""
            try:
                ours = accepted(path)
            except PargateError as error:
                said = "refused as unsafe" if isinstance(error, UnsafeCheckpoint) else "refused as wrong input"
                accused = error.message if "could run code" in error.message else ""
            except Exception:
                said, wrong = "failed", traceback.format_exc(limit=-3)
            found = child.load(path)
            theirs = found.get("tensors")
            if theirs is not None:
                theirs = {name: (dtype, tuple(shape), digest) for name, (dtype, shape, digest) in theirs.items()}
            if accused and theirs is not None and "free" not in found:
                said, wrong = "accused falsely", accused
            elif ours is not None and theirs is None:
                said = "accepted, not loaded"
            elif ours is not None and ours != theirs:
                said, wrong = "different", f"pargate {ours}, loader {theirs}"
            outcome.counts[f"{case.kind}: {said}, {'loaded' if theirs is not None else 'not loaded'}"] += 1
            outcome.counts[said] += 1
            if wrong:
                outcome.broken.append(f"seed {seed} case {number} ({path.name}): {said}: {wrong}")
            shutil.rmtree(folder)
    return outcome


# --- evidence ------------------------------------------------------------------------------------------


def took(found: dict[str, Any], models: dict[str, Tensors]) -> str:
    """Which of the models the loaders got."""
    if found.get("tensors") is None:
        return "none"
    tensors = {name: (dtype, tuple(shape), digest) for name, (dtype, shape, digest) in found["tensors"].items()}
    return next((name for name, known in models.items() if known == tensors), "another")


def exit_code(path: Path, source: Path) -> int:
    """How `pargate inspect` of the code in `source` ends."""
    command = [sys.executable, "-m", "pargate", "inspect", str(path)]
    env = {**os.environ, "PYTHONPATH": str(source)}
    return subprocess.run(command, cwd=path, env=env, capture_output=True, check=False).returncode


def eight(child: Child, before: Path | None) -> dict[str, dict[str, Any]]:
    """Return the forms from which two readers got two models, with their results and the end of pargate."""
    from safetensors.numpy import load_file

    arrays = {}
    for name in ("clean", "poisoned"):
        stored = load_file(ROOT / "examples" / "models" / name / "open_clip_model.safetensors")
        arrays[name] = {key: array.astype("float32") for key, array in stored.items()}
    models: dict[str, Tensors] = {
        name: {key: ("torch.float32", a.shape, hashlib.sha256(a.tobytes()).hexdigest()) for key, a in model.items()}
        for name, model in arrays.items()
    }
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        witness = Path(place) / "ran"
        for number, (form, files) in enumerate(forms(**arrays, witness=str(witness)).items()):
            folder = Path(place) / str(number)
            shutil.copytree(ROOT / "examples" / "models" / "clean", folder)
            (folder / "open_clip_model.safetensors").unlink()
            for name, content in files.items():
                (folder / name).write_bytes(content)
            rows[form] = {"exit": exit_code(folder, ROOT)}
            if before is not None:
                rows[form]["exit_before"] = exit_code(folder, before)
            rows[form][f"torch {child.versions['torch']}"] = took(child.load(folder), models)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", type=int, default=20_000, help="0: the eight forms alone")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--python", default=sys.executable, help="of another environment, for another torch")
    parser.add_argument("--before", type=Path, help="a checkout of pargate to compare the eight forms with")
    parser.add_argument("--no-evidence", action="store_true")
    given = parser.parse_args()
    if given.before is not None and not (given.before / "pargate" / "__init__.py").is_file():
        parser.error(f"{given.before} holds no pargate")  # else the installed one would be measured in its place
    child, began = Child(given.python), time.monotonic()
    print(f"seed {given.seed}, {given.cases} cases, {child.versions}", flush=True)
    outcome = compare(child, given.seed, given.cases)
    for name, count in sorted(outcome.counts.items()):
        print(f"{count:8} {name}")
    print(*outcome.broken[:50], sep="\n")
    if not given.no_evidence:
        run = {**child.versions, "seed": given.seed, "cases": given.cases, "broken": len(outcome.broken),
               "seconds": round(time.monotonic() - began), "counts": dict(sorted(outcome.counts.items()))}  # fmt: skip
        rows = eight(child, given.before)
        store = ROOT / "docs" / "evidence" / "readers.json"
        found = json.loads(store.read_text()) if store.is_file() else {"eight": {}, "runs": {}}
        found["eight"] = {form: {**found["eight"].get(form, {}), **row} for form, row in rows.items()}
        if given.cases:
            found["runs"][f"torch {child.versions['torch']}"] = run
        store.write_text(json.dumps(found, indent=1) + "\n")
    child.close()
    return bool(outcome.broken)


if __name__ == "__main__":
    if sys.argv[1:] == ["--child"]:
        answer()
    else:
        sys.exit(main())
