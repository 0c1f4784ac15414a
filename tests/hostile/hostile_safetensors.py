"""safetensors files whose headers lie."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from made import WEIGHTS, Case, in_folder, model


def file(header: dict[str, Any] | bytes, data: bytes = bytes(16), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(**changes: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **changes}}


HEADERS: dict[str, bytes] = {
    "an end beyond the file": file(entry(shape=[8], data_offsets=[0, 32])),
    "bytes behind": file(entry(), bytes(32)),
    "a hole before": file(entry(shape=[3], data_offsets=[4, 16])),
    "a hole between": file({**entry(shape=[1], data_offsets=[0, 4]), "v": entry(shape=[1], data_offsets=[12, 16])["w"]}),
    "an overlap": file({**entry(), "v": entry(shape=[2], data_offsets=[8, 16])["w"]}),
    "the same bytes twice": file({**entry(), "v": entry()["w"]}),
    "offsets that go back": file(entry(data_offsets=[16, 0])),
    "a negative offset": file(entry(data_offsets=[-16, 0])),
    "a fraction for an offset": file(entry(data_offsets=[0, 16.0])),
    "a truth for an offset": file(entry(data_offsets=[False, 16])),
    "text for an offset": file(entry(data_offsets=["0", "16"])),
    "an offset of 2^64": file(entry(data_offsets=[0, 2**64])),
    "an offset of 4,000 digits": file(b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,' + b"9" * 4000 + b"]}}"),
    "an offset of 100,000 digits": file(b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,' + b"9" * 100_000 + b"]}}"),
    "one offset": file(entry(data_offsets=[16])),
    "three offsets": file(entry(data_offsets=[0, 16, 16])),
    "null offsets": file(entry(data_offsets=None)),
    "an unknown dtype": file(entry(dtype="F4")),
    "a dtype of objects": file(entry(dtype="O")),
    "a dtype in small letters": file(entry(dtype="f32")),
    "a dtype that commands": file(entry(dtype="F32\n::error::x")),
    "a number for a dtype": file(entry(dtype=4)),
    "another shape": file(entry(shape=[5])),
    "a negative side": file(entry(shape=[-4])),
    "two negative sides": file(entry(shape=[-2, -2])),
    "a side of 10^30": file(entry(shape=[0, 10**30], data_offsets=[0, 0]), b""),
    "a product beyond 64 bits": file(entry(shape=[2**32, 2**32, 4])),
    "a side in words": file(entry(shape=["4"])),
    "a side that is true": file(entry(shape=[True, 4])),
    "a fraction for a side": file(entry(shape=[4.0])),
    "nested sides": file(entry(shape=[[4]])),
    "a thousand sides": file(entry(shape=[1] * 1000 + [4])),
    "a hundred thousand sides": file(entry(shape=[1] * 100_000 + [4])),
    "a field too many": file(entry(extra=1)),
    "a list for an entry": file({"w": [1, 2]}),
    "a number for an entry": file({"w": 7}),
    "a key twice": file(b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'),
    "a field twice": file(b'{"w":{"dtype":"F32","dtype":"F16","shape":[4],"data_offsets":[0,16]}}'),
    "notes that are no text": file({**entry(), "__metadata__": {"a": 1}}),
    "notes that are a list": file({**entry(), "__metadata__": []}),
    "no tensors": file({}, b""),
    "only notes": file({"__metadata__": {}}, b""),
    "a list": file(b"[]", b""),
    "not a number": file(b'{"w":NaN}'),
    "an infinite number": file(b'{"w":1e999}'),
    "a negative zero": file(b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[-0,16]}}'),
    "100,000 brackets": file(b'{"w":' + b"[" * 100_000),
    "100,000 objects": file(b'{"w":' * 100_000),
    "bytes that are not UTF-8": file(b'{"\xff\xfe":1}'),
    "half a character": file(b'{"\\ud800":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'),
    "a mark of the order of bytes": file(b"\xef\xbb\xbf" + json.dumps(entry()).encode()),
    "a null in a name": file({"a\0b": entry()["w"]}),
    "a name that commands": file({"\n::error::x": entry()["w"]}),
    "a name that steers": file({"\x1b[2J\x1b]0;x\x07": entry()["w"]}),
    "a name of a megabyte": file({"n" * (1 << 20): entry()["w"]}),
    "a name for all": file({"state_dict": entry()["w"]}),
    "a prefix for some": file({"module.w": entry(shape=[2], data_offsets=[0, 8])["w"], "v": entry(shape=[2], data_offsets=[8, 16])["w"]}),
    "21,000 tensors": file({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(21_000)}, b""),
    "a header longer than the file": file(entry(), length=1 << 20),
    "a header of 100 MB": file(entry(), length=100_000_000),
    "a header of 2^63": file(entry(), length=1 << 63),
    "a header of 2^64 - 1": file(entry(), length=(1 << 64) - 1),
    "an empty header": file(b""),
    "a header of spaces": file(b"{" + b" " * 4096 + b"}", b""),
    "half a length": b"\x10\0\0\0",
    "only a length": struct.pack("<Q", 100),
    "a pickle's opcodes in front": struct.pack("<Q", 0x2E80) + b"{" + b" " * 0x2E7F,
    "an ordinary file": file(entry()),
}  # fmt: skip


def _large_header(place: Path) -> list[str]:
    folder = model(place)
    text = b'{"__metadata__":{"a":"' + b"x" * (99 * 10**6) + b'"}}'
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text)
    return ["inspect", "model"]


def _terabyte(place: Path) -> list[str]:
    size = 1 << 40
    text = file({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}, b"")
    folder = model(place, {WEIGHTS: text})
    with (folder / WEIGHTS).open("r+b") as stream:
        stream.truncate(len(text) + size)
    return ["inspect", "model"]


UNSAFE = ("a pickle's opcodes in front", "a prefix for some")
"""Headers of which two readers get two models, or that lead into a pickle."""


def cases() -> Iterator[Case]:
    for name, content in HEADERS.items():
        yield in_folder(f"safetensors: {name}", content, (1, 2) if name in UNSAFE else (2,), file=WEIGHTS)
    yield Case("safetensors: a header of 99 MB of text", _large_header, (2,), "has a header of", heavy=True)
    yield Case("safetensors: a terabyte of holes", _terabyte, (2,), "never written")
