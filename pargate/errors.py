"""The exceptions of pargate, their exit codes, and the translation of other exceptions.

    PargateError
    ├── InputError            2    wrong usage, or input that cannot be read: nothing was judged
    ├── Undecided             3    a fact that the measurement needs is unknown: nothing was judged
    ├── UnsafeCheckpoint      1    the file could execute code, or readers disagree about its content
    ├── PolicyError           4    the policy is invalid
    ├── OperationalError      5    memory, disk, device or network
    ├── Interrupted         130    Ctrl-C (143 for SIGTERM); a partial report was written
    └── PeerEnded                  the code of an error that another process of the run reports

The verdicts `fail` and `inconclusive` are results with their own exit codes, not exceptions.
"""

import errno
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit code of every command; it never depends on the output format."""

    OK = 0
    FAIL = 1
    INPUT = 2
    INCONCLUSIVE = 3
    POLICY = 4
    OPERATIONAL = 5
    BUG = 70
    SIGINT = 130
    SIGTERM = 143


class PargateError(Exception):
    """An expected error: one message with what, where, and what to do."""

    exit_code: ExitCode = ExitCode.BUG

    def __init__(self, message: str | Sequence[str], hint: str = "") -> None:
        """Keep `message` (what and where) and `hint` (what to do).

        Only a sequence gives several lines; a line end within a text is foreign and is escaped.
        """
        self.lines = (message,) if isinstance(message, str) else tuple(message)
        self.message = "\n".join(self.lines)
        self.hint = hint
        super().__init__(self.message)

    def told(self) -> list[str]:
        """Return the lines of the message and the hint, safe for a terminal and a build log, and not endless."""
        return [visible(short(line)) for line in (*self.lines, *([f"  → {self.hint}"] if self.hint else []))]


class InputError(PargateError):
    """Wrong usage, or input that cannot be read; nothing was judged."""

    exit_code = ExitCode.INPUT


class Undecided(PargateError):
    """A fact that the measurement needs is unknown; nothing was judged."""

    exit_code = ExitCode.INCONCLUSIVE


class UnsafeCheckpoint(PargateError):
    """The checkpoint could run code when it is loaded, or readers disagree about its content."""

    exit_code = ExitCode.FAIL


class PolicyError(PargateError):
    """The policy is invalid."""

    exit_code = ExitCode.POLICY


class OperationalError(PargateError):
    """A problem of the machine: out of memory, disk full, missing device, killed worker."""

    exit_code = ExitCode.OPERATIONAL


class OpenedOtherwise(OperationalError):
    """A model was opened in another way than the cache says; the cache says so no longer."""


class Interrupted(PargateError):
    """A signal ended the run."""

    def __init__(self, message: str, hint: str = "", exit_code: ExitCode = ExitCode.SIGINT) -> None:
        """Keep the exit code of the signal."""
        super().__init__(message, hint)
        self.exit_code = exit_code


class Terminated(KeyboardInterrupt):
    """SIGTERM; handled like Ctrl-C, with its own exit code."""


class PeerEnded(PargateError):
    """An error of a distributed run that another process reports; this process prints nothing."""

    def __init__(self, exit_code: ExitCode) -> None:
        """Keep the exit code of the other process."""
        super().__init__("another process of the run reports the error")
        self.exit_code = exit_code


_MEMORY = "out of memory"

_SHORTAGES = (
    (
        (errno.ENOMEM,),
        (
            _MEMORY, "allocate memory", "failed to allocate", "unable to allocate", "bad_alloc", "bad allocation",
            "alloc_failed", "failed to map segment", "could not create a primitive",
            # Python says so if an allocation fails in its own code, as on an import near the limit.
            "error return without exception set",
        ),
        "give the process more memory (ulimit -v, the memory of the container), or use fewer classes",
    ),
    (
        (errno.EAGAIN,),
        ("start new thread", "resource temporarily unavailable", "pthread_create", "thread creation failed"),
        "allow more processes and threads: ulimit -u, or the pids limit of the container",
    ),
    ((errno.EMFILE, errno.ENFILE), ("too many open files",), "allow more open files: ulimit -n"),
    (
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        ("no space left on device", "disk quota exceeded"),
        "free some; in a container give more room: --tmpfs /tmp, --shm-size for /dev/shm; or set TMPDIR",
    ),
    (
        (errno.EROFS,),
        ("read-only file system", "no usable temporary directory"),
        "mount a folder that can be written (--tmpfs /tmp, --tmpfs /dev/shm), or name one in TMPDIR",
    ),
    ((errno.EIO, errno.ESTALE), ("input/output error",), "check the disk, or the network that it is on"),
)  # fmt: skip
"""Error numbers of the system, texts of libraries and the hint for each resource that a machine can lack.

Libraries raise many classes, so only the texts identify these errors.
"""

_REFUSED = (
    errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM
)  # fmt: skip
"""Error numbers for a path that cannot be used."""


def explain(error: BaseException) -> PargateError:
    """Return any exception as an error with a message, a hint and an exit code; an unknown exception is a bug.

    The code is never 1 except for `UnsafeCheckpoint`.
    """
    if isinstance(error, PargateError):
        return error
    if isinstance(error, Terminated):
        return Interrupted("terminated", exit_code=ExitCode.SIGTERM)
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted")
    if isinstance(error, BrokenPipeError):
        return OperationalError("the reader of the output has ended")
    for link in _chain(error):
        for numbers, words, hint in _SHORTAGES:
            if _says(link, numbers, words):
                return OperationalError(_said(link, _MEMORY if _MEMORY in words else ""), hint)
    if isinstance(error, ConnectionError | TimeoutError):
        return OperationalError(_said(error), "check the network, and try again")
    if isinstance(error, OSError) and error.errno in _REFUSED:
        return InputError(_said(error), "name another place")
    if isinstance(error, ImportError) and not (error.name or "").startswith("pargate"):
        return OperationalError(f"a library cannot be loaded: {first_line(error)}", "install pargate again")
    return PargateError(f"a bug in pargate: {type(error).__name__}: {error}", "please report it")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of any library means that memory ran out on any device."""
    numbers, words, _ = _SHORTAGES[0]
    return _says(error, numbers, words)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        yield link
        seen.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _says(error: BaseException, numbers: tuple[int, ...], words: tuple[str, ...]) -> bool:
    text = str(error).lower()
    full = isinstance(error, MemoryError) and _MEMORY in words
    return full or getattr(error, "errno", None) in numbers or any(word in text for word in words)


def _said(error: BaseException, kind: str = "") -> str:
    """Return the text of an error, after its `kind` if the text does not name it."""
    text = first_line(error) or kind or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return text if kind in text.lower() else f"{kind}: {text}"


def together(problems: Sequence[PargateError]) -> PargateError:
    """Return several errors as one with the exit code of the last; each keeps its hint."""
    *before, last = problems
    return type(last)([*(line for problem in before for line in problem.told()), *last.lines], last.hint)


def nearest(name: str, known: list[str]) -> str:
    """Return a did-you-mean sentence for `name` in any case, or an empty text."""
    from difflib import get_close_matches

    folded = {item.casefold(): item for item in reversed(known)}
    found = get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    return f" Did you mean '{folded[found[0]]}'?" if found else ""


def first_line(error: BaseException, most: int = 160) -> str:
    """Return the first line of an error's text; many libraries add stacks and advice."""
    return str(error).strip().partition("\n")[0][:most]


LINE = 4000
"""Largest number of characters of a line that is printed; foreign text can have any length."""


def short(text: str) -> str:
    """Return text of at most about `LINE` characters, without its middle."""
    return text if len(text) <= LINE else f"{text[: LINE * 3 // 4]} … {text[-LINE // 4 :]}"


def visible(text: str) -> str:
    """Return foreign text as one line that is safe for a terminal and a build log.

    Unprintable characters are escaped, line ends included. The logs of GitHub, Azure and TeamCity execute `::NAME` at
    the start of a line, and `##[NAME]` or `##NAME[` anywhere; these are broken everywhere, since a line may be wrapped.
    """
    if not text.isprintable():
        text = "".join(map(_written_out, text))
    return _COMMAND.sub(r"\g<0> ", text)


_COMMAND = re.compile(r":(?=:)|#(?=#\w*\[)")


def _written_out(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode()


def visible_json(text: str) -> str:
    """Return JSON of the same value, with the characters that `visible` changes escaped in its strings."""
    return _STEERING.sub(lambda found: "".join(map(_escaped, found[0])), text)


_STEERING = re.compile(r"[^\n -~]+|#(?=#)")


def _escaped(character: str) -> str:
    if character == "#":
        return "\\u0023"
    return character if character.isprintable() else json.dumps(character)[1:-1]
