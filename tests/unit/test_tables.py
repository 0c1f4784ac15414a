"""Tables are read strictly: what a lenient reader would shift or swallow is refused, with its line."""

from pathlib import Path

import pytest

from pargate.data.tables import Row, read_table
from pargate.errors import InputError


def table(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_text(text, newline="")
    return path


def test_rows_know_the_line_they_begin_at(tmp_path: Path) -> None:
    header, rows = read_table(table(tmp_path, 'image,caption\r\na.jpg,"two\r\nlines"\r\n\r\nb.jpg,one\r\nc.jpg\r\n'))
    assert header == ("image", "caption")
    assert rows == [
        Row(2, {"image": "a.jpg", "caption": "two\r\nlines"}),
        Row(5, {"image": "b.jpg", "caption": "one"}),
        Row(6, {"image": "c.jpg", "caption": ""}),
    ]


def test_a_quote_within_a_field_stays(tmp_path: Path) -> None:
    _, rows = read_table(table(tmp_path, 'image\tcaption\na.jpg\ta 5" pipe, rusty\n', "t.tsv"))
    assert rows[0].fields["caption"] == 'a 5" pipe, rusty'


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("image,caption\na.jpg,a cat, asleep\n", r"t\.csv:2: 3 fields, and the header has 2", "into quotes"),
        ('image,caption\na.jpg,one\nb.jpg,"two\nc.jpg,three\n', r"t\.csv:3: a quote is not closed", "twice"),
        ('image,caption\na.jpg,"a "red" cat"\n', r"t\.csv:2: a quote is not closed, or stands in the middle", "twice"),
        (f'image,caption\na.jpg,one\nb.jpg,"{"x" * 200_000}"\n', r"t\.csv:3: .*field larger than", "twice"),
        ("image,caption,image\na.jpg,one,b.jpg\n", "several columns are named image", "rename"),
    ],
)
def test_what_would_be_misread_is_refused(text: str, message: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_table(table(tmp_path, text))
    assert hint in caught.value.hint
