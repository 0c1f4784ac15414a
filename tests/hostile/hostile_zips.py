"""torch archives whose parts contradict each other, lie about sizes, or unpack without end."""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
from made import Case, bare, in_folder, zipped

HEAD = b"\x80\x02}(X\x01\0\0\0w"
PROGRAM = (
    HEAD + b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu"
    b"K\x04tQK\0K\x04\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRu."
)
MEMBERS = {
    "a/data.pkl": PROGRAM, "a/byteorder": b"little", "a/version": b"3\n",
    "a/data/0": np.arange(4, dtype=np.float32).tobytes(),
}  # fmt: skip
GOOD = zipped(MEMBERS)
OTHER = zipped({**MEMBERS, "a/data/0": np.full(4, 9, np.float32).tobytes()})
DIRECTORY = struct.unpack_from("<I", GOOD, len(GOOD) - 6)[0]


def patched(offset: int, layout: str, *values: int) -> bytes:
    content = bytearray(GOOD)
    struct.pack_into(layout, content, offset if offset >= 0 else len(content) + offset, *values)
    return bytes(content)


def renamed(old: bytes, new: bytes, directory: bool = True, headers: bool = True) -> bytes:
    """Other names of the same length, in the directory, the headers, or both."""
    before, after = GOOD[:DIRECTORY], GOOD[DIRECTORY:]
    return (before.replace(old, new) if headers else before) + (after.replace(old, new) if directory else after)


def twice(name: str, content: bytes) -> bytes:
    import warnings

    buffer = io.BytesIO(GOOD)
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "a") as made:
        warnings.simplefilter("ignore")
        made.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def bomb(size: int = 1 << 28) -> bytes:
    """A packed data.pkl of zeros."""
    packer = zlib.compressobj(9, wbits=-15)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()
    name = b"a/data.pkl"
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, 0, len(packed), size, len(name), 0) + name + packed
    central = struct.pack(
        "<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 8, 0, 0, 0, len(packed), size, len(name), 0, 0, 0, 0, 0, 0
    )
    central += name
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local), 0)
    return local + central + end


def empty_members(count: int) -> bytes:
    return zipped({**MEMBERS, **{f"a/data/{n}": b"" for n in range(1, count)}})


UNSAFE: dict[str, bytes] = {
    "bytes before": b"x" * 16 + GOOD,
    "bytes behind": GOOD + b"x" * 16,
    "a comment": GOOD[:-2] + b"\x03\0abc",
    "two archives": GOOD + OTHER,
    "two archives, one comment": OTHER[:-2] + struct.pack("<H", len(GOOD)) + GOOD,
    "a member twice": twice("a/data/0", bytes(16)),
    "a data.pkl twice": twice("a/data.pkl", PROGRAM),
    "DATA.PKL too": twice("a/DATA.PKL", PROGRAM),
    "another folder": twice("A/data/0", bytes(16)),
    "code beside it": twice("a/code/__torch__.py", b"import os"),
    "a program of constants": twice("a/constants.pkl", b"\x80\2N."),
    "a second pickle": twice("a/more.pkl", b"\x80\2N."),
    "an evil member": twice("a/evil.py", b"import os"),
    "names that differ in the directory": renamed(b"a/data/0", b"a/data/1", headers=False),
    "names that differ in the headers": renamed(b"a/data/0", b"a/data/1", directory=False),
    "a name that is not ASCII": renamed(b"a/version", b"a/versi\xc3\xb6"),
    "a name with an escape": renamed(b"a/version", b"a/ver\x1b[2J"),
    "a name that ends with a null": renamed(b"a/version", b"a/versio\0"),
    "a name that is a folder": renamed(b"a/version", b"a/versio/"),
    "the method": patched(DIRECTORY + 10, "<H", 8),
    "the method in the header": patched(8, "<H", 8),
    "encryption": patched(DIRECTORY + 8, "<H", 1),
    "encryption in the header": patched(6, "<H", 1),
    "strong encryption": patched(DIRECTORY + 8, "<H", 0x41),
    "a size in the directory": patched(DIRECTORY + 24, "<I", 1),
    "a size in the header": patched(22, "<I", 1),
    "the packed size": patched(DIRECTORY + 20, "<I", 1),
    "the checksum in the header": patched(14, "<I", 7),
    "a size of 4 GiB": patched(DIRECTORY + 20, "<2I", 0xFFFFFFFE, 0xFFFFFFFE),
    "a size that needs zip64": patched(DIRECTORY + 20, "<2I", 0xFFFFFFFF, 0xFFFFFFFF),
    "an offset that needs zip64": patched(DIRECTORY + 42, "<I", 0xFFFFFFFF),
    "an offset past the end": patched(DIRECTORY + 42, "<I", 1 << 30),
    "an offset inside another": patched(DIRECTORY + 42, "<I", 8),
    "a Unix link": patched(DIRECTORY + 38, "<I", 0o120777 << 16),
    "a DOS folder": patched(DIRECTORY + 38, "<I", 0x10),
    "a comment in the directory": patched(DIRECTORY + 32, "<H", 4),
    "another disk": patched(DIRECTORY + 34, "<H", 1),
    "an extra field past the end": patched(DIRECTORY + 30, "<H", 0xFFFF),
    "a name past the end": patched(DIRECTORY + 28, "<H", 0xFFFF),
    "one member more": patched(-14, "<2H", 5, 5),
    "one member fewer": patched(-14, "<2H", 3, 3),
    "counts that differ": patched(-14, "<2H", 3, 4),
    "a part of several": patched(-18, "<2H", 1, 1),
    "a directory elsewhere": patched(-6, "<I", 8),
    "a directory of another length": patched(-10, "<I", 8),
    "a packed bomb": bomb(),
}  # fmt: skip
"""Archives of which two readers could see two models."""

DAMAGED: dict[str, bytes] = {
    "no members": zipped({}),
    "only a version": zipped({"a/version": b"3\n"}),
    "a hundred thousand members": patched(-14, "<2H", 0xFFFE, 0xFFFE),
    "a directory of 4 GiB": patched(-10, "<I", 0xFFFFFFFE),
    "big-endian": zipped({**MEMBERS, "a/byteorder": b"big"}),
    "no word for the order of bytes": zipped({**MEMBERS, "a/byteorder": b"middle"}),
    "a version of 10,000 digits": zipped({**MEMBERS, "a/version": b"3" * 10_000}),
    "a version in other digits": zipped({**MEMBERS, "a/version": "\uff13".encode()}),
    "no version": zipped({name: content for name, content in MEMBERS.items() if "version" not in name}),
    "a storage too short": zipped({**MEMBERS, "a/data/0": bytes(12)}),
    "a storage too long": zipped({**MEMBERS, "a/data/0": bytes(20)}),
    "no storage": zipped({name: content for name, content in MEMBERS.items() if "data/0" not in name}),
    "an empty pickle": zipped({**MEMBERS, "a/data.pkl": b""}),
    "a pickle of zeros": zipped({**MEMBERS, "a/data.pkl": bytes(64)}),
    "a pickle of 17 MiB": zipped({**MEMBERS, "a/data.pkl": b"\x80\x02" + b"N0" * (17 << 19) + b"N."}),
    "a way up": zipped({"a/../../ran": b"x", **MEMBERS}),
    "an absolute way": zipped({"/tmp/ran": b"x", **MEMBERS}),
    "a Windows way": zipped({"C:\\ran": b"x", **MEMBERS}),
    "nothing but the end": GOOD[-22:],
    "a numpy archive": zipped({"a.npy": b"\x93NUMPY"}),
    "a document": zipped({"[Content_Types].xml": b"<x/>", "word/document.xml": b"<x/>"}),
}
"""Archives that are damaged or no checkpoints; some of them are also ambiguous."""


def cases() -> Iterator[Case]:
    for name, content in UNSAFE.items():
        yield bare(f"zip: {name}", content, (1,))
        yield in_folder(f"zip: {name}, in a folder", content, (1,))
    for name, content in DAMAGED.items():
        yield bare(f"zip: {name}", content, (1, 2))
    for part in range(1, 16):
        yield bare(f"zip: cut at {part}/16", GOOD[: len(GOOD) * part // 16], (1, 2))
    yield bare("zip: 30,000 members", empty_members(30_000), (1, 2))
