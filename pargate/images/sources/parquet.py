"""Read Parquet files with a column of encoded images, the format of data sets on a hub.

Images are needed in any order, but a row group can only be read as a whole: hundreds of megabytes for one image. So the
files are unpacked once into WebDataset shards, images byte for byte. pyarrow is an extra, and only imported here.
"""

import contextlib
import json
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pargate import limits
from pargate.errors import InputError, OperationalError, first_line
from pargate.files import atomic_folder, digest_of, open_file, refuse_pointer, sha256_file
from pargate.images.dataset import Dataset
from pargate.images.listing import Listing, read_label
from pargate.images.opening import SOURCES, Source, Wanted
from pargate.images.shards import MANIFEST, PER_SHARD, Sample, write_manifest, write_shards
from pargate.images.sources.tar import read_tars

IMAGES = ("image", "jpg", "jpeg", "png", "webp", "img")
CAPTIONS = ("caption", "text", "txt", "captions")
LABELS = ("label", "cls", "class", "labels")
"""Names of the columns that are read; of each tuple, the first that exists is used."""

LEFT_OUT_PERCENT = 1
"""Largest share of rows without an image or, for pairs, a caption, which are left out. Large files have a few; more
means that these are the wrong columns."""

_ROWS = 8
"""Number of rows that are read at once; each may hold the largest image of its file."""

_OVERHEAD = 2048
"""Bytes of a sample in a tar besides its image and texts."""


@SOURCES.add("parquet")
class Parquet(Source):
    """Parquet files, unpacked into the cache, where the next run finds them, or into a temporary folder."""

    suffixes = (".parquet",)
    shards = True

    def list(self, wanted: Wanted, paths: Sequence[Path]) -> Dataset:
        """Return the images of the rows, with a notice about rows that were left out."""
        if find_spec("pyarrow") is None:
            raise OperationalError(
                f"{wanted.source} is Parquet, and pyarrow is not installed", "pip install 'pargate[parquet]'"
            )
        columns = {path: _columns(path, wanted.pairs) for path in paths}
        digest = digest_of([[path.name, sha256_file(path)] for path in paths])
        listing = Listing(wanted, ordered=True)
        listing.files = [(path.name, path) for path in paths]
        if wanted.cache is None:
            with _writing("a temporary folder"):
                folder = Path(tempfile.mkdtemp(prefix="pargate-"))
                listing.unpacked = _Temporary(folder)
                left_out = _unpack(folder, columns, wanted, digest)
        else:
            folder = wanted.cache / f"{wanted.what}s" / digest[:32]
            left_out = _unpack_once(folder, columns, wanted, digest)
        if left_out:
            lacking = "image or no caption and are" if wanted.pairs else "image and are"
            listing.notices.append(f"{left_out} rows have no {lacking} left out")
        _read_unpacked(listing, folder)
        return listing.dataset()


class _Temporary:
    """A folder that is removed with this object."""

    def __init__(self, folder: Path) -> None:
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Names of the columns that are read."""

    image: str
    caption: str | None
    label: str | None

    @property
    def names(self) -> list[str]:
        return [name for name in (self.image, self.caption, self.label) if name is not None]


@dataclass(slots=True)
class _Rows:
    """The rows that were read."""

    seen: int = 0
    """Number of rows."""
    left_out: list[str] = field(default_factory=list)
    """Names of the rows that were left out."""


def _columns(path: Path, pairs: bool) -> _Columns:
    """Return the columns of a file that are read."""
    from pyarrow import parquet, types

    with _reading(path), open_file(path) as stream:
        refuse_pointer(str(path), stream.peek())
        schema = parquet.read_schema(stream)
        schema.names  # noqa: B018 - decoded here, so that errors are translated
    image, caption, label = (
        next((name for name in names if name in schema.names), None) for names in (IMAGES, CAPTIONS, LABELS)
    )
    missing = ["an image"] * (image is None) + ["a caption"] * (pairs and caption is None)
    if image is None or missing:
        raise InputError(
            f"{path}: no column with {' and none with '.join(missing)} among {', '.join(schema.names)}",
            f"name the columns of images one of {', '.join(IMAGES)}, those of captions one of {', '.join(CAPTIONS)}",
        )
    columns = _Columns(image, caption, None if pairs else label)
    if double := [name for name in columns.names if schema.names.count(name) > 1]:
        raise InputError(f"{path}: several columns are named {double[0]}", "rename or remove all but one")
    kind = schema.field(image).type
    if types.is_struct(kind):
        names = [kind.field(i).name for i in range(kind.num_fields)]
        kind = kind.field("bytes").type if "bytes" in names else kind
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if types.is_null(kind):
        raise InputError(f"{path} holds no images: the column {image} is empty", "check how it was written")
    if not (types.is_binary(kind) or types.is_large_binary(kind)):
        what = "addresses, not images" if types.is_string(kind) or types.is_large_string(kind) else f"{kind}"
        raise InputError(
            f"{path}: the column {image} holds {what}",
            "give the encoded bytes of each image, such as in the tars that img2dataset downloads and writes",
        )
    return columns


def _unpack_once(folder: Path, columns: dict[Path, _Columns], wanted: Wanted, digest: str) -> int:
    """Unpack into a cache, if it is missing there; return the number of rows that were left out."""
    if not (folder / MANIFEST).is_file():
        try:
            with _writing(folder):
                folder.parent.mkdir(parents=True, exist_ok=True)
                with atomic_folder(folder) as made:
                    _unpack(made, columns, wanted, digest)
        except InputError:
            if not (folder / MANIFEST).is_file():  # otherwise another process wrote the same bytes first
                raise
    try:
        return int(json.loads((folder / MANIFEST).read_bytes())["settings"]["rows_left_out"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _spoilt(folder) from error


def _read_unpacked(listing: Listing, folder: Path) -> None:
    """Add the images of an unpacked folder; raise if a byte of it changed."""
    try:
        shards = json.loads((folder / MANIFEST).read_bytes())["shards"]
        paths = [folder / shard["name"] for shard in shards]
        whole = bool(paths) and [shard["sha256"] for shard in shards] == [sha256_file(path) for path in paths]
        read_tars(listing, paths, names=True)
    except (OSError, ValueError, KeyError, TypeError, InputError) as error:
        raise _spoilt(folder) from error
    if not whole:
        raise _spoilt(folder)


def _spoilt(folder: Path) -> OperationalError:
    return OperationalError(f"{folder} changed since it was unpacked", "remove this folder: it is made again")


def _unpack(folder: Path, columns: dict[Path, _Columns], wanted: Wanted, digest: str) -> int:
    """Write all rows into shards; return the number of rows that were left out."""
    rows = _Rows()
    shards = write_shards(folder, _samples(columns, wanted.pairs, rows), PER_SHARD)
    if len(rows.left_out) * 100 > rows.seen * LEFT_OUT_PERCENT or not shards:
        first = f", such as {', '.join(rows.left_out[:3])}" if rows.left_out else ""
        raise InputError(
            f"{wanted.source}: {len(rows.left_out)} of {rows.seen} rows have no image"
            f"{' or no caption' if wanted.pairs else ''}{first}",
            "complete or remove them; check that these are the columns you mean",
        )
    settings = {"source_sha256": digest, "rows_left_out": len(rows.left_out)}
    write_manifest(folder, shards, settings)
    return len(rows.left_out)


def _samples(columns: dict[Path, _Columns], pairs: bool, rows: _Rows) -> Iterator[Sample]:
    from pyarrow import parquet

    room = limits.UNPACKED_BYTES + limits.UNPACKED * sum(path.stat().st_size for path in columns)
    for path, wanted in columns.items():
        number = 0
        with _reading(path), open_file(path) as stream, parquet.ParquetFile(stream) as file:
            _check_sizes(path, file.metadata)
            for group in file.iter_batches(_ROWS, columns=wanted.names):
                for row in zip(*(group.column(name) for name in wanted.names), strict=True):
                    number, rows.seen = number + 1, rows.seen + 1
                    cells: dict[str | None, Any] = dict(zip(wanted.names, (cell.as_py() for cell in row), strict=True))
                    content, text = _content(cells[wanted.image]), _caption(cells.get(wanted.caption))
                    label = _label(cells.get(wanted.label), f"{path}: row {number}")
                    room -= len(content or b"") + len(text) + len(label or "") + _OVERHEAD
                    if room < 0:
                        raise InputError(
                            f"{path}: row {number} is beyond {limits.UNPACKED} times the bytes of the files",
                            "remove repeated images: each should be in one row",
                        )
                    if content and (text or not pairs):
                        yield Sample(content, text or None, label)
                    else:
                        rows.left_out.append(f"row {number} of {path.name}")


def _check_sizes(path: Path, metadata: Any) -> None:
    """Raise if a column would take far more memory than its bytes in the file."""
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.total_uncompressed_size > limits.UNPACKED_BYTES + limits.UNPACKED * column.total_compressed_size:
                raise InputError(
                    f"{path}: the column {column.path_in_schema} has {column.total_compressed_size} bytes and would "
                    f"unpack into {column.total_uncompressed_size}",
                    "make it again from the images themselves",
                )


def _content(value: Any) -> bytes | None:
    """Return the encoded bytes of a cell: its value, or the `bytes` of a hub's image."""
    found = value.get("bytes") if isinstance(value, dict) else value
    return found if isinstance(found, bytes) else None


def _caption(value: Any) -> str:
    """Return the caption of a cell as one line; of several captions, the first."""
    first = value[0] if isinstance(value, list) and value else value
    return " ".join(first.split()) if isinstance(first, str) else ""


def _label(value: Any, where: str) -> str | None:
    """Return a class index or name as text, or None."""
    if value is None or value == -1:  # the hub writes -1 for a missing label
        return None
    label = read_label(str(value), where)
    return None if label is None else str(label)


@contextlib.contextmanager
def _writing(place: Path | str) -> Iterator[None]:
    """Turn an error in writing to `place` into an operational one, since the images are not at fault."""
    try:
        yield
    except OSError as error:
        raise OperationalError(
            f"cannot unpack Parquet into {place}: {error.strerror}", "free space, or choose another place with --cache"
        ) from error


class _reading:  # noqa: N801 - used like a function
    """A context manager that turns Arrow's errors about a file into an `InputError`."""

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
