"""Speaking to a runner of GitHub's: outputs, annotations, the summary, and the silence around foreign text.

Whatever a step prints is obeyed where a line begins like a command, so names that come from a model are printed only
between `::stop-commands::TOKEN` and `::TOKEN::`, with a token that nobody could have guessed.
"""

import contextlib
import re
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pargate.files import readable

SUMMARY_ROOM = 900_000
"""Bytes of a summary. At 1 MiB GitHub drops all of it."""

KINDS = ("error", "warning", "notice")

_COMMAND = re.compile(r"::(error|warning|notice)[ :].*")
_REST = re.compile(r"::[a-z]+ title=pargate::and (\d+) more of this kind; .*")


def say(text: str) -> None:
    """Print now, so that it stands before what a child prints."""
    sys.stdout.write(text)
    sys.stdout.flush()


@contextlib.contextmanager
def quoted() -> Iterator[None]:
    """Nothing that is printed within is obeyed."""
    token = secrets.token_hex(16)
    try:  # around the first line too: a signal may come right behind it
        say(f"::stop-commands::{token}\n")
        yield
    finally:
        say(f"\n::{token}::\n")


def annotations(of_models: Iterable[str]) -> Iterator[str]:
    """The commands in several texts, at most ten of a kind; each text has its own sorted, the worst first.

    The first of every text come before the second of any, so that no model is hidden by another.
    """
    from pargate.report.formats.github import MOST_SHOWN, command  # here: it takes long to load

    found = [
        [line for line in text.split("\n") if _COMMAND.fullmatch(line) and line.isprintable()] for text in of_models
    ]
    for kind in KINDS:
        own = [[line for line in lines if line.startswith(f"::{kind}")] for lines in found]
        # What a report counted at its end stands for annotations that it did not write.
        rest = sum(int(match[1]) for lines in own for line in lines if (match := _REST.fullmatch(line)))
        own = [[line for line in lines if not _REST.fullmatch(line)] for lines in own]
        turns = max(map(len, own), default=0)
        lines = [lines[turn] for turn in range(turns) for lines in own if turn < len(lines)]
        yield from lines[:MOST_SHOWN]
        rest += len(lines[MOST_SHOWN:])
        if rest:
            yield command(kind, f"and {rest} more of this kind; the reports have them all", title="pargate")


def put(path: str, values: Mapping[str, str]) -> None:
    """Append `values` to the file that `GITHUB_OUTPUT` names; nothing where it names none."""
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
    """Append Markdown to the file that `GITHUB_STEP_SUMMARY` names: each part, or its stand-in where there is no room.

    Each part is a text and a short sentence that says where to find it; sentences must all fit.
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
    # The runner's own file, which earlier steps of the same name may have begun: to append is its protocol.
    with Path(path).open("a", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
