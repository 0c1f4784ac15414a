"""The ledger of audits: one line for each result, with the digest of the line before.

A changed, dropped, repeated or moved line breaks the chain. Lines that were cut off the end show only against
`ledger.head` beside the ledger, or against a digest that was kept elsewhere. Anyone who can write to the folder can
write a new chain; only a digest kept elsewhere protects against that.

One process appends at a time, under a lock. A line is flushed to disk before the head, so a crash leaves a ledger that
is at most one line ahead of its head, or that ends with an unfinished line.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pargate import limits
from pargate.core.audit import ENTRY, AuditEntry, ModelEntry
from pargate.errors import InputError, OperationalError
from pargate.files import append, canonical_json, locked, read_bytes, sha256_file, write_atomic

LEDGER = "ledger.jsonl"
HEAD = "ledger.head"
LOCK = "ledger.lock"

BEGIN = "0" * 64
"""Digest before the first line."""

Record = ModelEntry | AuditEntry


@dataclass(frozen=True, slots=True)
class Flaw:
    """A problem of a ledger."""

    line: int
    """Number of the line, from 1; 0 if the problem concerns no line."""
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}" if self.line else self.text


@dataclass(frozen=True, slots=True)
class Chain:
    """The content of a ledger."""

    entries: tuple[Record, ...]
    digests: tuple[str, ...]
    """SHA-256 of each line."""
    flaws: tuple[Flaw, ...]
    torn: bytes = b""
    """Bytes after the last line end: an unfinished entry."""

    @property
    def head(self) -> str:
        """Digest of the last line."""
        return self.digests[-1] if self.digests else BEGIN


def read(folder: Path, *, head: str | None = None) -> Chain:
    """Read the ledger in `folder` with all its flaws; a folder without one has an empty ledger.

    `head` is the digest of a line that was kept elsewhere; that line must still exist.

    Raises:
        InputError: the ledger cannot be read, or is too large.
    """
    path = folder / LEDGER
    try:
        content = read_bytes(path, limits.LEDGER_BYTES) if path.exists() else b""
        kept = read_bytes(folder / HEAD)[:200] if (folder / HEAD).exists() else None
    except OSError as error:
        raise InputError(f"cannot read the ledger {path}: {error.strerror}", "check the folder") from error
    *lines, torn = content.split(b"\n")
    chain = _chain(lines, torn)
    flaws = [*chain.flaws]
    if torn:
        flaws.append(Flaw(len(lines) + 1, "is unfinished; an audit moves such a line aside"))
    flaws += _against_head(chain, kept)
    if head is not None and head.removeprefix("sha256:") not in chain.digests:
        flaws.append(Flaw(0, f"no line has the digest {head[:80]}: the end was cut off, or that line changed"))
    return Chain(chain.entries, chain.digests, tuple(flaws), torn)


def _chain(lines: Sequence[bytes], torn: bytes) -> Chain:
    entries: list[Record] = []
    digests: list[str] = []
    flaws: list[Flaw] = []
    expected, before = 1, BEGIN
    for number, line in enumerate(lines, start=1):
        digest = hashlib.sha256(line).hexdigest()
        found = _entry(line)
        if isinstance(found, str):
            flaws.append(Flaw(number, found))
            expected += 1
        else:
            if found.sequence != expected:
                flaws.append(Flaw(number, _misplaced(found.sequence, expected)))
            elif found.previous != before:
                said = "does not follow from the line before it" if number > 1 else "is not how a ledger begins"
                flaws.append(Flaw(number, f"{said}: one of the two was changed" if number > 1 else said))
                if number > 1:
                    flaws.append(Flaw(number - 1, "is not what it was when the next line was written"))
            entries.append(found)
            expected = found.sequence + 1
        digests.append(digest)
        before = digest
    return Chain(tuple(entries), tuple(digests), tuple(sorted(set(flaws), key=lambda f: (f.line, f.text))), torn)


def _misplaced(found: int, expected: int) -> str:
    if found > expected:
        missing = f"entry {expected}" if found == expected + 1 else f"entries {expected} to {found - 1}"
        return f"is entry {found}: {missing} should stand before it and was dropped or moved"
    return f"is entry {found}, where entry {expected} should stand: it was repeated or moved"


def _entry(line: bytes) -> Record | str:
    """Return the entry in a line, or what is wrong with the line."""
    if len(line) > limits.LEDGER_LINE:
        return "is too long to be an entry"
    try:
        data = json.loads(line)
        entry = ENTRY.validate_python(data)
        same = canonical_json(data) == line
    except (ValueError, RecursionError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            return f"is not an entry of a ledger: {where}: {first['msg']}"
        return "is not an entry of a ledger: not JSON"
    # A line that omits a value, or writes a number in another way, parses as the same entry.
    return entry if same and canonical_json(_plain(entry)) == line else "is not as pargate writes an entry"


def _plain(entry: Record) -> Any:
    return entry.model_dump(mode="json")


def _against_head(chain: Chain, kept: bytes | None) -> list[Flaw]:
    """Return the flaws that the head beside the ledger shows."""
    if kept is None:
        return [Flaw(0, f"{HEAD} is missing: the end may have been cut off")] if chain.digests else []
    words = kept.split()
    if len(words) != 2 or not words[0].isdigit() or len(words[0]) > 12:
        return [Flaw(0, f"{HEAD} is not as pargate writes it")]
    number, digest = int(words[0]), words[1].decode("ascii", "replace")
    last = len(chain.digests)
    if number > last:
        return [Flaw(last + 1, f"is missing: {HEAD} says that there were {number} lines, and there are {last}")]
    if number and chain.digests[number - 1] != digest:
        return [Flaw(number, f"is not the line that {HEAD} was written for")]
    if number < last - 1 or (number == 0 and digest != BEGIN):
        return [Flaw(number + 1, f"and those behind it were added without {HEAD}, which says {number} lines")]
    return []


def append_entry(folder: Path, make: Callable[[int, str], Record]) -> tuple[Record, str]:
    """Append the entry that `make` returns for a sequence number and the digest of the line before.

    A last line that a crash left unfinished is first moved to its own file; the returned note says so.

    Raises:
        InputError: the ledger was changed.
        OperationalError: the ledger cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OperationalError(f"cannot create {folder}: {error.strerror}", "choose another place") from error
    with locked(folder / LOCK):
        chain = read(folder)
        note = _mend(folder, chain)
        if note:
            chain = read(folder)
        _refuse(folder, chain)
        entry = make(len(chain.digests) + 1, chain.head)
        line = canonical_json(_plain(entry))
        if isinstance(problem := _entry(line), str):
            raise ValueError(f"an entry that cannot be read back: it {problem}")
        if not chain.digests:  # a crash after the first line must leave a head behind it too
            _write_head(folder, 0, BEGIN)
        append(folder / LEDGER, line + b"\n")
        _write_head(folder, entry.sequence, hashlib.sha256(line).hexdigest())
    return entry, note


def sound(folder: Path) -> Chain:
    """Return the ledger in `folder`.

    Raises:
        InputError: the ledger has flaws; the message names the first ones.
    """
    chain = read(folder)
    _refuse(folder, chain)
    return chain


def _refuse(folder: Path, chain: Chain) -> None:
    if chain.flaws:
        shown = "; ".join(map(str, chain.flaws[:3])) + (f"; and {len(chain.flaws) - 3} more" * (len(chain.flaws) > 3))
        raise InputError(
            f"the ledger {folder / LEDGER} was changed: {shown}",
            "restore it, for example from its git branch; to start a new one, move it and its head away",
        )


def mend(folder: Path) -> str:
    """Move aside a last line that a crash left unfinished; return a note, or an empty text."""
    if not (folder / LEDGER).exists():
        return ""
    with locked(folder / LOCK):
        return _mend(folder, read(folder))


def _mend(folder: Path, chain: Chain) -> str:
    if not chain.torn or len(chain.flaws) > 1:
        return ""  # a ledger with other flaws is not changed
    path = folder / LEDGER
    aside = folder / f"{LEDGER}.unfinished-{hashlib.sha256(chain.torn).hexdigest()[:12]}"
    write_atomic(aside, chain.torn)
    content = path.read_bytes()
    write_atomic(path, content[: len(content) - len(chain.torn)])
    return f"the last line of {path} was unfinished; it is now in {aside.name}"


def _write_head(folder: Path, sequence: int, digest: str) -> None:
    write_atomic(folder / HEAD, f"{sequence} {digest}\n".encode("ascii"))


def unfitting(folder: Path, entries: Sequence[Record]) -> list[Flaw]:
    """Return a flaw for each report below `folder` that is missing or differs from the digest in its entry."""
    flaws = []
    for entry in entries:
        if not isinstance(entry, ModelEntry):
            continue
        for digest in dict.fromkeys(d for d in (entry.measured, entry.report) if d):
            path = report_path(folder, digest)
            try:
                found = sha256_file(path)
            except OSError:
                flaws.append(Flaw(entry.sequence, f"its report is missing: {path}"))
                continue
            if found != digest:
                flaws.append(Flaw(entry.sequence, f"its report was changed: {path}"))
    return flaws


def report_path(folder: Path, digest: str) -> Path:
    """Return the path of the report with this SHA-256 in an audit's folder."""
    return folder / "reports" / f"{digest}.json"
