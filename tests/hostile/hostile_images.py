"""Tars and pictures that are bombs or lies. Pictures are decoded by the function that decodes them in a scan."""

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from made import POLICY, Case, model
from PIL import Image


def png(width: int, height: int, data: bytes | None = None, depth: int = 8, color: int = 2) -> bytes:
    """A picture that claims a size, with any data."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">2I5B", width, height, depth, color, 0, 0, 0)
    packed = zlib.compress(bytes(64)) if data is None else data
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def saved(form: str, size: tuple[int, int] = (32, 32), frames: int = 1, **options: object) -> bytes:
    buffer = io.BytesIO()
    made = [Image.new("RGB", size, (n % 256, 0, 0)) for n in range(frames)]
    made[0].save(buffer, form, **({"save_all": True, "append_images": made[1:]} if frames > 1 else {}), **options)
    return buffer.getvalue()


PNG = saved("PNG")
JPEG = saved("JPEG")
BOMB = zlib.compress(bytes(64 << 20), 9)

PICTURES: dict[str, bytes] = {
    "empty": b"",
    "text": b"no picture",
    "a png of 2^31": png(2**31 - 1, 2**31 - 1),
    "a png of 65,535²": png(65535, 65535),
    "a png of zero": png(0, 10),
    "a png that unpacks to 64 MB": png(100, 100, BOMB),
    "a png of one line": png(60_000_000, 1, BOMB),
    "a png of one column": png(1, 60_000_000, BOMB),
    "a png whose data ends": PNG[: len(PNG) // 2],
    "a png of 16 bits, short": png(4000, 4000, zlib.compress(bytes(10)), 16),
    "a png of a wrong depth": png(8, 8, depth=7),
    "a png of a wrong colour": png(8, 8, color=5),
    "a png with a text of 64 MB": PNG[:33] + struct.pack(">I", 16 + len(BOMB)) + b"zTXta\0\0" + BOMB + bytes(13) + PNG[33:],
    "a png with a profile of 64 MB": PNG[:33] + struct.pack(">I", 3 + len(BOMB)) + b"iCCPa\0\0" + BOMB
    + struct.pack(">I", zlib.crc32(b"iCCPa\0\0" + BOMB)) + PNG[33:],
    "a jpeg cut short": JPEG[: len(JPEG) // 2],
    "a jpeg of 65,535²": JPEG.replace(struct.pack(">2H", 32, 32), struct.pack(">2H", 65535, 65535)),
    "a jpeg of zero": JPEG.replace(struct.pack(">2H", 32, 32), struct.pack(">2H", 0, 0)),
    "a jpeg of markers": b"\xff\xd8" + b"\xff\xe1\0\2" * 500_000,
    "a jpeg of fills": b"\xff\xd8" + b"\xff" * 5_000_000,
    "a gif of 65,535²": b"GIF89a" + struct.pack("<2H3B", 65535, 65535, 0x80, 0, 0) + bytes(6) + b"," + bytes(20) + b";",
    "a gif of 1,000 pictures": saved("GIF", (64, 64), 1000),
    "a gif without a colour": b"GIF87a" + struct.pack("<2H3B", 8, 8, 0, 0, 0) + b",",
    "a bmp of 2^31": saved("BMP")[:18] + struct.pack("<2i", 2**31 - 1, 2**31 - 1) + saved("BMP")[26:],
    "a bmp of -2^31": saved("BMP")[:18] + struct.pack("<2i", -(2**31), -(2**31)) + saved("BMP")[26:],
    "a bmp of runs": saved("BMP")[:30] + struct.pack("<I", 1) + saved("BMP")[34:54] + b"\0\1" * 1000,
    "a tiff that goes in circles": b"II*\0\x08\0\0\0" + struct.pack("<H", 0) + struct.pack("<I", 8),
    "a tiff of 65,535 entries": b"II*\0\x08\0\0\0\xff\xff" + b"\0\1\3\0\xff\xff\xff\xff\0\0\0\0" * 65535,
    "a tiff that is packed": saved("TIFF", (4000, 4000), compression="tiff_deflate"),
    "a tiff cut short": saved("TIFF")[:60],
    "a webp of 16,383²": b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8L" + struct.pack("<I", 10) + b"/\xff\xff\xff\x0f" + bytes(5),
    "a webp of 1,000 pictures": saved("WEBP", (16, 16), 1000),
    "a webp cut short": saved("WEBP")[:30],
    "a ppm of 10^9": b"P6 1000000000 1000000000 255\n" + bytes(100),
    "a ppm of many digits": b"P6 " + b"9" * 1_000_000 + b" 1 255\n",
    "a ppm of comments": b"P6 #" + b"x" * 5_000_000,
    "a ppm in words": b"P3 2 2 255 a b c",
    "an eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(ran) (w) file closefile\n",
    "an svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>x</script></svg>",
    "an xml bomb": b"<?xml version='1.0'?><!DOCTYPE l [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]><l>&b;</l>",
    "a photoshop file": b"8BPS\0\1" + bytes(6) + b"\0\3" + struct.pack(">2I", 300_000, 300_000) + bytes(20),
    "an icon": b"\0\0\1\0\xff\xff" + bytes(16 * 100),
    "an flv": b"FLV\1\5\0\0\0\t",
    "a wmf": b"\xd7\xcd\xc6\x9a" + bytes(40),
    "a jpeg 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
    "an fli": bytes(4) + b"\x11\xaf" + b"\xff" * 122,
    "grey of 32 bits": saved("TIFF").replace(b"\3\1\3\0\1\0\0\0\1", b"\3\1\3\0\1\0\0\0\x07"),
}  # fmt: skip
"""Bytes that are given as a picture; each has to come back as a problem, or as pixels, at little cost."""


def block(name: bytes, kind: bytes, size: bytes, content: bytes = b"", magic: bytes = b"ustar\x0000") -> bytes:
    head = bytearray(512)
    head[:100] = name[:100].ljust(100, b"\0")
    head[100:108] = b"0000644\0"
    head[124:136] = size.ljust(12, b"\0")[:12]
    head[156:157] = kind
    head[257:265] = magic
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + content + bytes(-len(content) % 512)


def plain(name: str, content: bytes = PNG) -> bytes:
    return block(name.encode("utf-8", "surrogateescape"), b"0", b"%011o" % len(content), content)


END = bytes(1024)
GOOD = plain("a.png") + plain("a.cls", b"0") + plain("b.png") + plain("b.cls", b"1")

TARS: dict[str, bytes] = {
    "empty": b"",
    "only an end": END,
    "text": b"no tar" * 200,
    "cut short": GOOD[:700],
    "no end": GOOD,
    "data behind its end": GOOD + END + plain("c.png"),
    "a member twice": GOOD + plain("a.png") + END,
    "a size of 2^33": GOOD + block(b"c.png", b"0", b"77777777777") + END,
    "a size in base 256": GOOD + block(b"c.png", b"0", b"\x80" + b"\xff" * 11) + END,
    "a negative size": GOOD + block(b"c.png", b"0", b"\xff" * 12) + END,
    "a size in words": GOOD + block(b"c.png", b"0", b"abc") + END,
    "a wrong checksum": GOOD[:148] + b"0000000\0" + GOOD[156:] + END,
    **{f"a member of type {kind}": block(b"c.png", kind.encode(), b"0") + GOOD + END for kind in "1234567LKSVMxgX"},
    "10,000 pax headers": block(b"h", b"x", b"%011o" % 10, b"10 a=b1234") * 10_000 + GOOD + END,
    "10,000 long names": block(b"././@LongLink", b"L", b"2", b"a\0", b"ustar  \0") * 10_000 + GOOD + END,
    "a pax header of 2 MB": block(b"h", b"x", b"%011o" % (2 << 20), bytes(2 << 20)) + GOOD + END,
    "a pax record of no length": block(b"h", b"x", b"%011o" % 6, b"-1 a=b") + GOOD + END,
    "a pax record too long": block(b"h", b"x", b"%011o" % 12, b"99999 a=bcde") + GOOD + END,
    "a sparse map": block(b"h", b"x", b"%011o" % 27, b"27 GNU.sparse.map=1,2,3,4,\n") + GOOD + END,
    "a sparse file of GNU": block(b"c.png", b"S", b"1", PNG, b"ustar  \0") + END,
    "a way up": plain("../../ran.png") + GOOD + END,
    "an absolute way": plain("/tmp/ran.png") + GOOD + END,
    "a name that steers": plain("\x1b[2J::error::x.png") + GOOD + END,
    "a name that is not UTF-8": plain("\udcff\udcfe.png") + GOOD + END,
    "a label in words": plain("a.png") + plain("a.cls", b"cat") + END,
    "a label of 10^400": plain("a.png") + plain("a.cls", b"9" * 400) + END,
    "a label of 10,000 digits": plain("a.png") + plain("a.cls", b"9" * 10_000) + END,
    "a label of 2 MB": plain("a.png") + plain("a.cls", b"9" * (2 << 20)) + END,
    "a caption that is not UTF-8": plain("a.png") + plain("a.txt", b"\xff\xfe") + END,
    "two pictures in a sample": plain("a.png") + plain("a.jpg") + END,
    "dots in a name": plain("a.b.c.png") + END,
    "packed": __import__("gzip").compress(GOOD + END),
    "20,000 members": b"".join(plain(f"{n}.cls", b"0") for n in range(20_000)) + END,
}  # fmt: skip


def tar(name: str) -> Case:
    def build(place: Path) -> list[str]:
        model(place)
        (place / "p.yaml").write_text(POLICY)
        (place / "t.tar").write_bytes(TARS[name])
        return ["scan", "model", "-p", "p.yaml", "--images", "t.tar", "--dry-run"]

    return Case(f"tar: {name}", build, (0, 2, 3))


def cases() -> Iterator[Case]:
    yield from map(tar, TARS)
