"""Tables are read strictly: what a lenient reader would shift or swallow is refused, with its line."""

from pathlib import Path

import pytest

from pargate.errors import InputError
from pargate.images.sources.table import Row, check_once, read_table


def table(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_text(text, newline="")
    return path


def test_rows_know_the_line_they_begin_at(tmp_path: Path) -> None:
    seen: list[tuple[str, ...]] = []
    rows = read_table(
        table(tmp_path, 'image,caption\r\na.jpg,"two\r\nlines"\r\n\r\nb.jpg,one\r\nc.jpg\r\n'), seen.append
    )
    assert seen == [("image", "caption")]
    assert rows == [
        Row(2, {"image": "a.jpg", "caption": "two\r\nlines"}),
        Row(5, {"image": "b.jpg", "caption": "one"}),
        Row(6, {"image": "c.jpg", "caption": ""}),
    ]


def test_a_quote_within_a_field_stays(tmp_path: Path) -> None:
    rows = read_table(table(tmp_path, 'image\tcaption\na.jpg\ta 5" pipe, rusty\n', "t.tsv"), lambda header: None)
    assert rows[0].fields["caption"] == 'a 5" pipe, rusty'


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("image,caption\na.jpg,a cat, asleep\n", r"t\.csv:2: 3 fields, and the header has 2", "into quotes"),
        ('image,caption\na.jpg,one\nb.jpg,"two\nc.jpg,three\n', r"t\.csv:3: a quote is not closed", "twice"),
        ('image,caption\na.jpg,"a "red" cat"\n', r"t\.csv:2: a quote is not closed, or stands in the middle", "twice"),
        (f'image,caption\na.jpg,one\nb.jpg,"{"x" * 200_000}"\n', r"t\.csv:3: a field of more than 131072", "left open"),
    ],
)
def test_what_would_be_misread_is_refused(text: str, message: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_table(table(tmp_path, text), lambda header: None)
    assert hint in caught.value.hint


def test_the_header_is_judged_before_any_row(tmp_path: Path) -> None:
    def refuse(header: tuple[str, ...]) -> None:
        raise InputError(f"the header is {header[0]}")

    with pytest.raises(InputError, match="the header is image;caption"):
        read_table(table(tmp_path, "image;caption\na.jpg;a cat, asleep\n"), refuse)


def test_a_column_that_is_read_is_there_once(tmp_path: Path) -> None:
    check_once(tmp_path, ("image", "caption", "tag", "tag", "", ""), ("image", "caption"))
    with pytest.raises(InputError, match="several columns are named caption"):
        check_once(tmp_path, ("image", "caption", "caption"), ("image", "caption"))
