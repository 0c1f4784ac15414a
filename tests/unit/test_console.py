import errno
import io
import sys
from pathlib import Path

import pytest
from sample_reports import failing

from pargate import events
from pargate.cli import console as console_module
from pargate.cli.app import run
from pargate.cli.console import Console
from pargate.cli.options import Output


class Terminal(io.StringIO):
    """A stream that a person looks at."""

    def isatty(self) -> bool:
        return True


def terminals(monkeypatch: pytest.MonkeyPatch) -> tuple[Terminal, Terminal]:
    """Replace standard output and error with terminals; a fixture's would be replaced again before the test."""
    for name in ("NO_COLOR", "FORCE_COLOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    return out, err


def shown(console: Console) -> None:
    """Print progress, a note and a result."""
    with console.progress() as listener:
        listener(events.StageStarted("measure", "2 comparisons"))
        listener(events.Advanced(1, 2, "1 of 2 decided"))
    console.note("a note")
    console.report(failing())


def test_the_result_is_on_stdout_and_progress_and_notes_are_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = terminals(monkeypatch)
    shown(Console(quiet=False, verbose=False, color=True))
    out, err = (stream.getvalue() for stream in streams)
    assert "FAIL" in out and "measuring" not in out and "a note" not in out
    assert "2 comparisons" in err and "a note" in err and "FAIL" not in err


def test_a_report_on_stdout_has_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = terminals(monkeypatch)
    shown(Console(quiet=False, verbose=False, color=True, outputs=[Output("json", None)]))
    assert streams[0].getvalue() == "" and "FAIL" in streams[1].getvalue()
    shown(Console(quiet=False, verbose=False, color=True, outputs=[Output("json", Path("r.json"))]))
    assert "FAIL" in streams[0].getvalue()


def test_a_line_that_is_indented_is_plain_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = terminals(monkeypatch)
    monkeypatch.setenv("COLUMNS", "20")
    console = Console(quiet=False, verbose=False, color=False)
    console.note("  → keep the head elsewhere")
    console.lines(["  → keep the head elsewhere"])
    for stream in streams:
        assert [line.rstrip() for line in stream.getvalue().splitlines()] == ["  → keep the head", "    elsewhere"]
    console.note("budget   of 976 images")
    shown = [line.rstrip() for line in streams[1].getvalue().splitlines()]
    assert shown[2:] == ["budget   of 976", "         images"]


@pytest.mark.parametrize("how", ["NO_COLOR", "--no-color"])
def test_without_colours_there_is_a_bar_all_the_same(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = terminals(monkeypatch)
    if how == "NO_COLOR":
        monkeypatch.setenv("NO_COLOR", "1")
    shown(Console(quiet=False, verbose=False, color=how == "NO_COLOR"))
    out, err = (stream.getvalue() for stream in streams)
    assert "\x1b" not in out
    assert "2 comparisons" in err and "━" in err
    assert "\x1b[3" not in err.replace("\x1b[?25", "")  # no colours; the bar moves the cursor


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = terminals(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    shown(Console(quiet=False, verbose=False, color=True))
    assert "\x1b" not in streams[0].getvalue() + streams[1].getvalue()


def test_each_written_report_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = terminals(monkeypatch)
    for quiet in (True, False):
        Console(quiet=quiet, verbose=False, color=False).wrote(Output("html", Path("r.html")))
    assert streams[1].getvalue() == "wrote r.html\n" and streams[0].getvalue() == ""


def test_a_full_disk_does_not_change_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = terminals(monkeypatch)

    def full(text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    lost: list[OSError] = []
    monkeypatch.setattr(out, "write", full)
    monkeypatch.setattr(console_module, "lose_result", lost.append)
    console = Console(quiet=False, verbose=False, color=False)
    console.report(failing())
    console.note("a note")
    assert "a note" in err.getvalue() and lost


def test_what_a_narrow_terminal_breaks_of_an_indented_line_stays_indented(monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = terminals(monkeypatch)
    monkeypatch.setenv("COLUMNS", "30")
    Console(quiet=False, verbose=False, color=False).lines(["plain words", "    one two three four five six seven"])
    assert [line.rstrip() for line in out.getvalue().splitlines()] == [
        "plain words",
        "    one two three four five",
        "    six seven",
    ]


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize(
    "command", [["explain", "blended-triggers", "-p", "baseline"], ["policy", "diff", "baseline", "strict"]]
)
def test_a_terminal_breaks_lines_between_words_and_a_pipe_gets_them_whole(
    command: list[str], columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(command)
    whole = capsys.readouterr().out
    assert max(map(len, whole.splitlines())) > 100
    out, _ = terminals(monkeypatch)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    run(command)
    assert max(map(len, out.getvalue().splitlines())) <= columns
    assert out.getvalue().split() == whole.split(), "no word is broken"
