"""The interface to a GitHub runner: outputs, annotations and the summary.

A runner executes workflow commands in the output of a step, so foreign text is printed only between
`::stop-commands::TOKEN` and `::TOKEN::` with a random token.
"""

import contextlib
import re
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pargate.files import readable

SUMMARY_ROOM = 900_000
"""Maximum size of a summary, in bytes; GitHub drops one of more than 1 MiB."""

KINDS = ("error", "warning", "notice")

_COMMAND = re.compile(r"::(error|warning|notice)[ :].*")
_REST = re.compile(r"::[a-z]+ title=pargate::and (\d+) more of this kind; .*")


def say(text: str) -> None:
    """Print and flush, so that the text comes before the output of a child."""
    sys.stdout.write(text)
    sys.stdout.flush()


@contextlib.contextmanager
def quoted() -> Iterator[None]:
    """Make the runner ignore commands in the output of the block."""
    token = secrets.token_hex(16)
    try:  # around the first line too: a signal may come right after it
        say(f"::stop-commands::{token}\n")
        yield
    finally:
        say(f"\n::{token}::\n")


def annotations(of_models: Iterable[str]) -> Iterator[str]:
    """Yield the workflow commands in the texts of all models, at most ten of a kind.

    The models take turns, so that no model hides another.
    """
    from pargate.report.formats.github import MOST_SHOWN, command  # it takes long to load

    found = [
        [line for line in text.split("\n") if _COMMAND.fullmatch(line) and line.isprintable()] for text in of_models
    ]
    for kind in KINDS:
        own = [[line for line in lines if line.startswith(f"::{kind}")] for lines in found]
        # The last annotation of a report counts those that it left out.
        rest = sum(int(match[1]) for lines in own for line in lines if (match := _REST.fullmatch(line)))
        own = [[line for line in lines if not _REST.fullmatch(line)] for lines in own]
        turns = max(map(len, own), default=0)
        lines = [lines[turn] for turn in range(turns) for lines in own if turn < len(lines)]
        yield from lines[:MOST_SHOWN]
        rest += len(lines[MOST_SHOWN:])
        if rest:
            yield command(kind, f"and {rest} more of this kind; the reports have them all", title="pargate")


def put(path: str, values: Mapping[str, str]) -> None:
    """Append `values` to the file `path` of `GITHUB_OUTPUT`; do nothing if it is empty."""
    if not path:
        return
    text = ""
    for name, value in values.items():
        shown = readable(value)
        while (delimiter := secrets.token_hex(16)) in shown:
            pass
        text += f"{name}<<{delimiter}\n{shown}\n{delimiter}\n"
    _append(path, text)


def summarise(path: str, parts: Iterable[tuple[str, str]]) -> None:
    """Append Markdown to the file `path` of `GITHUB_STEP_SUMMARY`; do nothing if it is empty.

    Each part is a text and a short sentence that replaces it if it does not fit.
    """
    if not path:
        return
    given = list(parts)
    room = SUMMARY_ROOM - sum(len(readable(instead).encode()) + 1 for _, instead in given)
    text = ""
    for part, instead in given:
        room -= len(readable(part).encode())
        fits = room >= 0
        room += 0 if fits else len(readable(part).encode())
        text += readable(part if fits else instead) + "\n"
    _append(path, text)


def _append(path: str, text: str) -> None:
    # The runner's protocol is to append.
    with Path(path).open("a", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
