"""Tables that name pictures: CSV or TSV with a header, read strictly.

A comma that should have been quoted, or a quote that is never closed, moves every later field: what csv readers make of
such rows by default is a caption cut short, or a thousand rows taken for one.
"""

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pargate.core.names import tidy
from pargate.errors import InputError
from pargate.files import open_file, refuse_pointer

SUFFIXES = (".csv", ".tsv")


@dataclass(frozen=True, slots=True)
class Row:
    """One row and where it begins."""

    line: int
    """From 1, in the file."""
    fields: Mapping[str, str]
    """By column; empty where the row ends before it."""


def read_table(path: Path, check: Callable[[tuple[str, ...]], None]) -> list[Row]:
    """Rows of a table; a `.tsv` is separated by tabs, anything else by commas. `check` refuses a header.

    Columns are named in lower case, without the spaces and invisible characters around their names.

    Raises:
        InputError: a git-lfs pointer, not UTF-8, a row with more fields than columns, a quote that is not closed.
        OSError: it cannot be read.
    """
    rows: list[Row] = []
    line, tabs = 1, path.suffix.lower() == ".tsv"
    try:
        with open_file(path) as content, io.TextIOWrapper(content, "utf-8-sig", newline="") as stream:
            refuse_pointer(str(path), content.peek())
            reader = csv.reader(stream, delimiter="\t" if tabs else ",", strict=True)
            header = tuple(tidy(name).lower() for name in next(filter(None, reader), []))
            check(header)
            line = reader.line_num + 1
            for fields in reader:
                if len(fields) > len(header):
                    raise InputError(
                        f"{path}:{line}: {len(fields)} fields, and the header has {len(header)}",
                        f"put a field that holds a {'tab' if tabs else 'comma'} into quotes",
                    )
                if fields:  # an empty line is none
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
    """Refuse a header that has one of these columns more than once.

    Raises:
        InputError: it does.
    """
    if double := [name for name in columns if header.count(name) > 1]:
        raise InputError(f"{path}: several columns are named {double[0]}", "rename or remove all but one")
