"""What comes from outside never steers a terminal, and no log finds a command in it."""

import io
import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console as RichConsole
from sample_reports import SITUATIONS, SPITE

from pargate.cli.console import Console, Shown
from pargate.core.report import ScanReport
from pargate.errors import InputError, PargateError, PolicyError, together, visible, visible_json
from pargate.report import FORMATS
from pargate.report.formats.github import command

PIECES = (
    "::error::x", "::", ":", "##[error]", "##vso[task.complete]", "##teamcity[", "#", "[", "\n", "\r", "\r\n", "\x0b",
    "\x0c", "\x85", "\u2028", "\u2029", "\x1b[31m", "\u202e", "\u200f", "\u3000", " ", "\t", "\udcff", "%0A", "日本",
)  # fmt: skip
foreign = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=12).map("".join)
encodable = foreign.map(lambda text: text.encode("utf-8", "replace").decode())

OBEYED = re.compile(r"^\s*::|##\w*\[", re.MULTILINE)


def assert_harmless(output: str) -> None:
    """No runner obeys a line of this, and no character of it moves a cursor or turns the order of reading."""
    lines = re.split(r"[\r\n]", output)
    assert not [line for line in lines if OBEYED.search(line)]
    assert not {c for c in output if not c.isprintable() and c != "\n" and not re.match(r"\s", c)}
    assert not re.search("[\r\x0b\x0c\x1c-\x1f\x85\u2028\u2029\t]", output)


@given(foreign)
@example("a\n::error::b##[x]")
def test_foreign_text_is_one_harmless_line(text: str) -> None:
    shown = visible(text)
    assert_harmless(shown)
    assert "\n" not in shown and "::" not in shown
    assert visible(shown) == shown, "what was made visible elsewhere stays as it is"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\n::error::b", r"a\n: :error: :b"),
        ("##[error]", "# #[error]"),
        ("###vso[x]", "## #vso[x]"),
        (":::", ": : :"),
        ("\x1b[31m\r\u2028\udcff", r"\x1b[31m\r\u2028\udcff"),
        ("## a heading, 日本\u3000é: fine #1 [x]", "## a heading, 日本\u3000é: fine #1 [x]"),
    ],
)
def test_it_is_written_so_that_it_can_be_read(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(foreign, st.integers(1, 40))
def test_no_line_begins_with_a_command_however_narrow_the_terminal_is(text: str, width: int) -> None:
    stream = io.StringIO()
    RichConsole(file=stream, width=width, highlight=False, color_system=None).print(Shown("name ").append(text))
    assert_harmless(stream.getvalue())


@given(encodable)
def test_json_keeps_its_value_and_shows_no_command(text: str) -> None:
    written = json.dumps({text: [text]}, indent=1, ensure_ascii=False)
    assert json.loads(visible_json(written)) == {text: [text]}
    assert_harmless(visible_json(written))


@given(foreign, foreign)
def test_a_message_has_the_lines_that_it_was_given_and_no_more(text: str, hint: str) -> None:
    found = together([PolicyError([text, f"    {text}"], f"see {hint}"), InputError(text)])
    assert isinstance(found, InputError) and len(found.told()) == 4
    assert_harmless("\n".join(found.told()))
    assert PargateError(text).told() == [visible(text)]


@given(foreign, foreign)
def test_an_annotation_ends_where_it_ends(title: str, message: str) -> None:
    said = command("error", message, title=title)
    assert "\n" not in said and "##[" not in said and said.count("::") == 2


# --- a saved report, foreign in every position ---


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, str):
        return [path]
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [leaf for key, entry in entries for leaf in leaves(entry, (*path, key))]


def put(document: Any, path: tuple[Any, ...], text: str) -> None:
    for key in path[:-1]:
        document = document[key]
    document[path[-1]] = text


@cache
def open_places(situation: str) -> list[tuple[Any, ...]]:
    """Where a report may hold any text."""
    document = json.loads(DOCUMENTS[situation])
    found = []
    for path in leaves(document):
        if path[:2] == ("run", "started") or path[0] == "pictures":
            continue
        other = json.loads(DOCUMENTS[situation])
        put(other, path, SPITE)
        try:
            ScanReport.from_json(json.dumps(other))
        except ValidationError:
            continue
        found.append(path)
    return found


DOCUMENTS = {name: make().to_json() for name, make in SITUATIONS.items()}


def full_of(text: str, situation: str) -> ScanReport:
    """A report with `text` wherever it may hold any."""
    document = json.loads(DOCUMENTS[situation])
    for path in open_places(situation):
        put(document, path, text)
    return ScanReport.from_json(json.dumps(document))


few = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@few
@given(text=encodable)
@example(text=SPITE.replace("\x00", ""))
@example(text="\n::error::x")
@example(text="##[error]x")
@pytest.mark.parametrize(("situation", "width"), [("failing", 30), ("remediated", 240)])
def test_the_console_shows_a_saved_report_without_obeying_it(
    monkeypatch: pytest.MonkeyPatch, text: str, situation: str, width: int
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    console = Console(quiet=False, verbose=True, color=False)
    console._rich.width = width
    report = full_of(text, situation)
    console.report(report)
    console.gated(report, None, Path("release.candidate"))
    assert_harmless(stream.getvalue())


@few
@given(text=encodable)
@example(text=SPITE.replace("\x00", ""))
@example(text="\n::error::x")
@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"github"}))
def test_no_format_of_a_saved_report_is_obeyed_in_a_log(text: str, format: str) -> None:
    shown = FORMATS[format].render(full_of(text, "failing"))
    assert_harmless(shown.replace("\t", " ") if format == "junit" else shown)  # the library indents by tabs


@few
@given(text=encodable)
@example(text="\n::error::x")
def test_annotations_hold_no_command_but_their_own(text: str) -> None:
    shown = FORMATS["github"].render(full_of(text, "failing"))
    for line in shown.splitlines():
        assert re.match(r"::(error|warning|notice) title=", line) and line.count("::") == 2
        assert not re.search(r"##\w*\[", line)
    assert len(shown.splitlines()) <= len(FORMATS["github"].render(full_of("x", "failing")).splitlines())
