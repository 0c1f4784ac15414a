"""Parquet files of pairs, as data sets on a hub are kept.

A row group must be read as a whole, and training asks for pairs in any order: reading them in place would
decode hundreds of megabytes for one picture. So they are unpacked once into WebDataset shards, pictures byte
for byte, and read from there. pyarrow is an extra, and imported here alone.
"""

import contextlib
import json
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pargate.errors import InputError, OperationalError, first_line
from pargate.files import atomic_folder, digest_of, open_file, refuse_pointer, sha256_file
from pargate.images.captioned import Captioned, from_tars
from pargate.images.shards import MANIFEST, PER_SHARD, Sample, write_manifest, write_shards

IMAGES = ("image", "jpg", "jpeg", "png", "webp", "img")
"""Columns that hold the picture; the first that is there counts."""

CAPTIONS = ("caption", "text", "txt", "captions")
"""Columns that hold the caption; the first that is there counts."""

LEFT_OUT_PERCENT = 1
"""Share of rows without picture or caption that is left out. Such files come from others, and large ones have
a few; more means that these are not the columns that were meant."""

_ROWS = 8
"""Rows read at once: they may all be the largest picture of their file."""

UNPACKED = 16
UNPACKED_BYTES = 16 << 20
"""Pairs may have so many times the bytes of their files, and some more: a picture that is stored once can be in any
number of rows."""

_OVERHEAD = 2048
"""Bytes of a pair in a tar beside its picture and caption."""


class Unpacked:
    """A folder of shards, removed with this object if it is temporary."""

    def __init__(self, folder: Path, *, temporary: bool) -> None:
        """Own `folder`, or only name it."""
        self.folder = folder
        if temporary:
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)


@dataclass(slots=True)
class _Rows:
    """What was met on the way through the files."""

    seen: int = 0
    left_out: list[str] = field(default_factory=list)


def from_parquet(source: str, paths: Sequence[Path], cache: Path | None) -> tuple[Captioned, tuple[str, ...], Unpacked]:
    """The pairs of Parquet files, what to say about them, and the folder that must outlive them.

    They are unpacked below `cache`, where the next run finds them, or into a temporary folder.

    Raises:
        InputError: no such columns, not a Parquet file or a damaged one, rows without picture or caption.
        OperationalError: pyarrow is missing, or they cannot be unpacked.
    """
    if find_spec("pyarrow") is None:
        raise OperationalError(f"{source} is Parquet, and pyarrow is not installed", "pip install 'pargate[parquet]'")
    columns = {path: _columns(path) for path in paths}
    digest = digest_of([[path.name, sha256_file(path)] for path in paths])
    if cache is None:
        with _writing("a temporary folder"):
            place = Unpacked(Path(tempfile.mkdtemp(prefix="pargate-pairs-")), temporary=True)
            left_out = _unpack(place.folder, columns, source, digest)
    else:
        place = Unpacked(cache / "pairs" / digest[:32], temporary=False)
        left_out = _unpack_once(place.folder, columns, source, digest)
    found = _whole(place.folder)
    named = replace(found, digest=digest)
    notices = (f"{left_out} rows of {source} have no picture or no caption and are left out",) if left_out else ()
    return named, notices, place


def _columns(path: Path) -> tuple[str, str]:
    """Names of the columns with pictures and captions."""
    from pyarrow import parquet, types

    with _reading(path), open_file(path) as stream:
        refuse_pointer(str(path), stream.peek())
        schema = parquet.read_schema(stream)
        schema.names  # noqa: B018 - which are decoded now
    image = next((name for name in IMAGES if name in schema.names), None)
    caption = next((name for name in CAPTIONS if name in schema.names), None)
    if image is None or caption is None:
        missing = [kind for kind, found in (("a picture", image), ("a caption", caption)) if found is None]
        raise InputError(
            f"{path}: no column with {' and none with '.join(missing)} among {', '.join(schema.names)}",
            f"pictures are looked for in {', '.join(IMAGES)}, captions in {', '.join(CAPTIONS)}",
        )
    if double := [name for name in (image, caption) if schema.names.count(name) > 1]:
        raise InputError(f"{path}: several columns are named {double[0]}", "rename or remove all but one")
    kind = schema.field(image).type
    if types.is_struct(kind):
        names = [kind.field(i).name for i in range(kind.num_fields)]
        kind = kind.field("bytes").type if "bytes" in names else kind
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if types.is_null(kind):
        raise InputError(f"{path} holds no pictures: the column {image} is empty", "check how it was written")
    if not (types.is_binary(kind) or types.is_large_binary(kind)):
        what = "addresses, not pictures" if types.is_string(kind) or types.is_large_string(kind) else f"{kind}"
        raise InputError(
            f"{path}: the column {image} holds {what}",
            "pairs need the encoded bytes of each picture; img2dataset downloads them, and writes tars",
        )
    return image, caption


def _unpack_once(folder: Path, columns: dict[Path, tuple[str, str]], source: str, digest: str) -> int:
    """Unpack into a cache, unless that was done; rows left out."""
    if not (folder / MANIFEST).is_file():
        try:
            with _writing(folder):
                folder.parent.mkdir(parents=True, exist_ok=True)
                with atomic_folder(folder) as made:
                    _unpack(made, columns, source, digest)
        except InputError:
            if not (folder / MANIFEST).is_file():  # else another process was quicker, with the same bytes
                raise
    try:
        return int(json.loads((folder / MANIFEST).read_bytes())["settings"]["rows_left_out"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _spoilt(folder) from error


def _whole(folder: Path) -> Captioned:
    """What was unpacked into a folder, if it is all there, byte for byte."""
    try:
        shards = json.loads((folder / MANIFEST).read_bytes())["shards"]
        written = digest_of([[shard["name"], shard["sha256"]] for shard in shards])
        first, *others = [folder / shard["name"] for shard in shards]
        found = from_tars([first, *others])
    except (OSError, ValueError, KeyError, TypeError, InputError) as error:
        raise _spoilt(folder) from error
    if found.digest != written:
        raise _spoilt(folder)
    return found


def _spoilt(folder: Path) -> OperationalError:
    return OperationalError(f"{folder} is not as it was unpacked", "remove this folder: it is made again")


def _unpack(folder: Path, columns: dict[Path, tuple[str, str]], source: str, digest: str) -> int:
    """Write all rows into shards; how many were left out."""
    rows = _Rows()
    shards = write_shards(folder, _samples(columns, rows), PER_SHARD)
    if len(rows.left_out) * 100 > rows.seen * LEFT_OUT_PERCENT or not shards:
        first = f", such as {', '.join(rows.left_out[:3])}" if rows.left_out else ""
        raise InputError(
            f"{source}: {len(rows.left_out)} of {rows.seen} rows have no picture or no caption{first}",
            "complete or remove them; check that these are the columns you mean",
        )
    settings = {"source_sha256": digest, "rows_left_out": len(rows.left_out)}
    write_manifest(folder, shards, settings)
    return len(rows.left_out)


def _samples(columns: dict[Path, tuple[str, str]], rows: _Rows) -> Iterator[Sample]:
    from pyarrow import parquet

    room = UNPACKED_BYTES + UNPACKED * sum(path.stat().st_size for path in columns)
    for path, (image, caption) in columns.items():
        number = 0
        with _reading(path), open_file(path) as stream, parquet.ParquetFile(stream) as file:
            _check_sizes(path, file.metadata)
            for group in file.iter_batches(_ROWS, columns=[image, caption]):
                for picture, told in zip(group.column(image), group.column(caption), strict=True):
                    number, rows.seen = number + 1, rows.seen + 1
                    content, text = _content(picture.as_py()), _caption(told.as_py())
                    room -= len(content or b"") + len(text) + _OVERHEAD
                    if room < 0:
                        raise InputError(
                            f"{path}: row {number} is beyond {UNPACKED} times the bytes of the files",
                            "the same pictures are in it again and again: keep each once",
                        )
                    if content and text:
                        yield Sample(content, text)
                    else:
                        rows.left_out.append(f"row {number} of {path.name}")


def _check_sizes(path: Path, metadata: Any) -> None:
    """Refuse columns that take far more memory than they have bytes."""
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.total_uncompressed_size > UNPACKED_BYTES + UNPACKED * column.total_compressed_size:
                raise InputError(
                    f"{path}: the column {column.path_in_schema} has {column.total_compressed_size} bytes and would "
                    f"unpack into {column.total_uncompressed_size}",
                    "make it again from the pictures themselves",
                )


def _content(value: Any) -> bytes | None:
    """Encoded bytes: a cell as it is, or the `bytes` of a hub's picture."""
    found = value.get("bytes") if isinstance(value, dict) else value
    return found if isinstance(found, bytes) else None


def _caption(value: Any) -> str:
    """One line; of several captions, the first."""
    first = value[0] if isinstance(value, list) and value else value
    return " ".join(first.split()) if isinstance(first, str) else ""


@contextlib.contextmanager
def _writing(place: Path | str) -> Iterator[None]:
    """A place that cannot be written is the machine's fault, and no fault of the pairs."""
    try:
        yield
    except OSError as error:
        raise OperationalError(
            f"cannot unpack Parquet into {place}: {error.strerror}", "free space, or choose another place with --cache"
        ) from error


class _reading:  # noqa: N801 - used like a function
    """Arrow's own errors, said in our words."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from pyarrow import ArrowException

        if isinstance(error, (ArrowException, OSError, UnicodeError)) and not getattr(error, "errno", None):
            raise InputError(
                f"{self._path} is not a complete Parquet file: {first_line(error)}",
                "copy or make it again",
            ) from error
