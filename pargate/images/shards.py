"""Write WebDataset shards: plain tars with an image and its texts per sample, and a manifest beside them.

The same samples give the same bytes, with the same versions of numpy and Pillow.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pargate.files import sha256_file, write_atomic

MANIFEST = "manifest.json"

SCHEMA = "pargate.pairs/1"

PER_SHARD = 10_000
"""Number of pairs in a shard: some 25 MB at 64 pixels, 200 MB at 224."""

JPEG_QUALITY = 95

_BEGINNINGS = (
    (b"\xff\xd8", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\x00", ".tif"),
    (b"MM\x00*", ".tif"),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its texts, to be written into a shard."""

    content: bytes
    """Encoded bytes of the image."""
    caption: str | None
    label: str | None = None
    """Index or name of its class."""


@dataclass(frozen=True, slots=True)
class Shard:
    """The manifest's entry of one tar."""

    name: str
    pairs: int
    sha256: str


def suffix_of(content: bytes) -> str:
    """Return the suffix for encoded bytes, by their beginning; `.jpg` for unknown ones, so that readers try them."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for beginning, suffix in _BEGINNINGS if content.startswith(beginning)), ".jpg")


def encode(pixels: NDArray[np.uint8], suffix: str) -> bytes:
    """Encode uint8 [H, W, 3] as a JPEG with full colour resolution (`.jpg`), or without loss (`.png`)."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if suffix == ".jpg":
        image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path: Path, samples: Iterable[Sample], first: int) -> Shard:
    """Write one tar, with its pairs numbered from `first`."""
    with path.open("wb") as stream:
        count = _pack(stream, samples, first)
    return Shard(path.name, count, sha256_file(path))


def shard_bytes(name: str, samples: Iterable[Sample], first: int) -> tuple[Shard, bytes]:
    """Return a small tar in memory, for a folder that grows shard by shard."""
    buffer = io.BytesIO()
    count = _pack(buffer, samples, first)
    content = buffer.getvalue()
    return Shard(name, count, hashlib.sha256(content).hexdigest()), content


def _pack(stream: BinaryIO, samples: Iterable[Sample], first: int) -> int:
    count = 0
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for count, sample in enumerate(samples, start=1):
            key = f"{first + count - 1:09d}"
            _add(archive, key + suffix_of(sample.content), sample.content)
            for suffix, text in ((".txt", sample.caption), (".cls", sample.label)):
                if text is not None:
                    _add(archive, key + suffix, text.encode())
    return count


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)  # without time and owner: the same bytes on every machine
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def write_shards(folder: Path, samples: Iterable[Sample], per_shard: int) -> list[Shard]:
    """Write tars `000000.tar`, `000001.tar`, … with `per_shard` pairs each into `folder`; the last may hold fewer."""
    return [
        write_shard(folder / f"{number:06d}.tar", some, number * per_shard)
        for number, some in enumerate(_runs(samples, per_shard))
    ]


def _runs(samples: Iterable[Sample], length: int) -> Iterator[Iterator[Sample]]:
    """Yield lazy runs of `length`; each must be used up before the next."""
    rest = iter(samples)
    for first in rest:
        yield chain([first], islice(rest, length - 1))


def write_manifest(folder: Path, shards: Iterable[Shard], settings: dict[str, Any]) -> None:
    """Write the manifest: the shards, and all settings that decided their content."""
    listed = [asdict(shard) for shard in shards]
    document = {
        "schema": SCHEMA,
        "pairs": sum(shard["pairs"] for shard in listed),
        "settings": settings,
        "shards": listed,
    }
    write_atomic(
        folder / MANIFEST, (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
    )
