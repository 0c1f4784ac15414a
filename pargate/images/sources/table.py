"""Read tables that name images: CSV or TSV with a header.

Reading is strict: by default, csv readers cut a caption short at an unquoted comma, and take a thousand rows for one
after a quote that is not closed.
"""

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pargate import limits
from pargate.core.names import tidy
from pargate.errors import InputError
from pargate.files import open_file, readable, refuse_pointer
from pargate.images.dataset import Dataset
from pargate.images.listing import Listing, count, read_label, some
from pargate.images.opening import SOURCES, Source, Wanted


@SOURCES.add("table")
class Table(Source):
    """Rows with the path of an image, relative to the table, and its label, caption or both."""

    suffixes = (".csv", ".tsv")

    def list(self, wanted: Wanted, paths: Sequence[Path]) -> Dataset:
        """Return the images of the rows; for training each must exist and have a caption."""
        (path,) = paths
        listing = Listing(wanted, hint=f"paths are read relative to {path.parent}: add the images, or remove the rows")
        columns = ("image", "caption") if wanted.pairs else ("image", "label", "caption")
        rows = read_table(path, lambda header: _check_header(path, header, columns))
        if unnamed := [f"line {row.line}" for row in rows if not row.fields["image"]]:
            raise InputError(f"{path}: {count(unnamed, 'row')} without an image: {some(unnamed)}", "fill them in")
        named: dict[str, Path] = {}
        for row in rows:
            image, line = row.fields["image"], f"line {row.line}"
            file = path.parent / image
            label = None if wanted.pairs else read_label(row.fields.get("label", ""), f"{path}:{row.line}")
            listing.add(image, listing.hold(file), label=label, caption=row.fields.get("caption", ""), told=line)
            if wanted.pairs and not file.is_file():
                listing.alone.append(f"{line}: {image}")
            inside = wanted.pairs and file.is_relative_to(path.parent)
            named[readable(file.relative_to(path.parent).as_posix()) if inside else image] = file
        listing.files = [(path.name, path), *named.items()]
        if rows and (unread := [name for name in rows[0].fields if name not in columns]):
            listing.notices.append(f"columns that are not read: {', '.join(unread[:8])}")
        return listing.dataset()


def _check_header(path: Path, header: tuple[str, ...], columns: tuple[str, ...]) -> None:
    told = f"{path}: the header is {', '.join(header) or 'empty'}"
    if len(columns) > 2 and ("image" not in header or not set(columns[1:]) & set(header)):
        raise InputError(told, "it needs `image` and `label` or `caption`")
    if len(columns) == 2 and (missing := set(columns) - set(header)):
        raise InputError(
            told, f"pairs need the columns `image` and `caption`; there is no {' and no '.join(sorted(missing))}"
        )
    check_once(path, header, columns)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table."""

    line: int
    """Line of the file at which the row begins, from 1."""
    fields: Mapping[str, str]
    """Fields by column, empty where the row is too short."""


def read_table(path: Path, check: Callable[[tuple[str, ...]], None]) -> list[Row]:
    """Return the rows of a table: tabs separate the fields of a `.tsv`, commas those of any other file.

    Args:
        path: the table.
        check: raises if the header, in lower case and without surrounding spaces, is wrong.

    Raises:
        InputError: a git-lfs pointer, not UTF-8, a row with more fields than columns, or a quote that is not closed.
        OSError: the file cannot be read.
    """
    rows: list[Row] = []
    line, tabs = 1, path.suffix.lower() == ".tsv"
    try:
        with open_file(path) as content, io.TextIOWrapper(content, "utf-8-sig", newline="") as stream:
            refuse_pointer(str(path), content.peek())
            if os.fstat(content.fileno()).st_size > limits.TABLE_BYTES:
                raise InputError(f"{path} is larger than {limits.TABLE_BYTES >> 20} MiB", "divide it")
            reader = csv.reader(stream, delimiter="\t" if tabs else ",", strict=True)
            header = tuple(tidy(name).lower() for name in next(filter(None, reader), []))
            if len(header) > limits.COLUMNS:
                raise InputError(
                    f"{path} has {len(header)} columns, at most {limits.COLUMNS} are read", "is it a table?"
                )
            check(header)
            line = reader.line_num + 1
            for fields in reader:
                if len(fields) > len(header):
                    raise InputError(
                        f"{path}:{line}: {len(fields)} fields, and the header has {len(header)}",
                        f"put a field that holds a {'tab' if tabs else 'comma'} into quotes",
                    )
                if fields:  # empty lines are skipped
                    rows.append(Row(line, dict.fromkeys(header, "") | dict(zip(header, fields, strict=False))))
                line = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a table of text: {error}", "save it as UTF-8") from error
    except csv.Error as error:
        if "field limit" in str(error):
            raise InputError(
                f"{path}:{line}: a field of more than {csv.field_size_limit()} characters", "is a quote left open?"
            ) from error
        raise InputError(
            f"{path}:{line}: a quote is not closed, or stands in the middle of a field ({error})",
            'write a quote within quotes twice: "a sign that says ""stop"""',
        ) from error
    return rows


def check_once(path: Path, header: tuple[str, ...], columns: tuple[str, ...]) -> None:
    """Raise if a header has one of these columns more than once.

    Raises:
        InputError: as above.
    """
    if double := [name for name in columns if header.count(name) > 1]:
        raise InputError(f"{path}: several columns are named {double[0]}", "rename or remove all but one")
