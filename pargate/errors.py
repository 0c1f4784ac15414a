"""Everything pargate raises on purpose, the one table of exit codes, and what any other exception means in it.

    PargateError
    ├── InputError            2    wrong usage, or input that cannot be read: nothing was judged
    ├── Undecided             3    what must be known before anything is measured is not
    ├── UnsafeCheckpoint      1    the file itself is a finding: it could execute code, or means two models
    ├── PolicyError           4    the policy is invalid
    ├── OperationalError      5    memory, disk, device, network: says what to change
    ├── Interrupted         130    Ctrl-C (143 for SIGTERM); a partial report was written
    └── PeerEnded                  any of these, of which another process of the same run has told

A verdict is not an exception: `fail` and `inconclusive` are results with exit codes of their own.
"""

import errno
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit status of every command; never depends on the output format."""

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
    """Foreseen trouble: one message that says what, where, and what to do next."""

    exit_code: ExitCode = ExitCode.BUG

    def __init__(self, message: str | Sequence[str], hint: str = "") -> None:
        """Keep `message` (what and where) apart from `hint` (what to do next).

        Only a sequence makes several lines: a line end within a text comes from a file, and is written out.
        """
        self.lines = (message,) if isinstance(message, str) else tuple(message)
        self.message = "\n".join(self.lines)
        self.hint = hint
        super().__init__(self.message)

    def told(self) -> list[str]:
        """Return what is said of it, line by line, with nothing in it that a terminal or a log obeys."""
        return [visible(line) for line in (*self.lines, *([f"  → {self.hint}"] if self.hint else []))]


class InputError(PargateError):
    """The command line or an input file is wrong; nothing was judged."""

    exit_code = ExitCode.INPUT


class Undecided(PargateError):
    """Something about the model must be known before it is measured, and nothing says it: nothing was judged."""

    exit_code = ExitCode.INCONCLUSIVE


class UnsafeCheckpoint(PargateError):
    """The checkpoint could run code when loaded in the usual way, or means different models to different readers."""

    exit_code = ExitCode.FAIL


class PolicyError(PargateError):
    """The policy is invalid."""

    exit_code = ExitCode.POLICY


class OperationalError(PargateError):
    """The machine, not the input: out of memory, disk full, no such device, a worker killed."""

    exit_code = ExitCode.OPERATIONAL


class Interrupted(PargateError):
    """A signal ended the run; `exit_code` says which."""

    def __init__(self, message: str, hint: str = "", exit_code: ExitCode = ExitCode.SIGINT) -> None:
        """Carry the exit code of the signal that was received."""
        super().__init__(message, hint)
        self.exit_code = exit_code


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; handled like Ctrl-C, with an exit code of its own."""


class PeerEnded(PargateError):
    """What ended a distributed run, in all processes but the one that says so: these end in silence."""

    def __init__(self, exit_code: ExitCode) -> None:
        """Carry the exit code of what another process tells."""
        super().__init__("another process of the run says what went wrong")
        self.exit_code = exit_code


_MEMORY = "out of memory"

_SHORTAGES = (
    (
        (errno.ENOMEM,),
        (
            _MEMORY, "allocate memory", "failed to allocate", "unable to allocate", "bad_alloc", "bad allocation",
            "alloc_failed", "failed to map segment", "could not create a primitive",
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
"""Of each thing that a machine can lack: what the system says, what libraries say, and what to do.

Libraries raise errors of many classes; only their words tell these from other errors.
"""

_REFUSED = (
    errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM
)  # fmt: skip
"""What the system says of a path that cannot be used."""


def explain(error: BaseException) -> PargateError:
    """Return what any exception means to a user: the message, what to do, and the exit code, which is never 1.

    Only a verdict and `UnsafeCheckpoint` have 1. Whatever is not known here is a bug.
    """
    if isinstance(error, PargateError):
        return error
    if isinstance(error, Terminated):
        return Interrupted("terminated", exit_code=ExitCode.SIGTERM)
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted")
    if isinstance(error, BrokenPipeError):
        return OperationalError("nobody reads the output any more")
    for link in _chain(error):
        for numbers, words, hint in _SHORTAGES:
            if _says(link, numbers, words):
                return OperationalError(_said(link, _MEMORY if _MEMORY in words else ""), hint)
    if isinstance(error, ConnectionError | TimeoutError):
        return OperationalError(_said(error), "try again once the network is there")
    if isinstance(error, OSError) and error.errno in _REFUSED:
        return InputError(_said(error), "name another place")
    if isinstance(error, ImportError) and not (error.name or "").startswith("pargate"):
        return OperationalError(f"a library cannot be loaded: {first_line(error)}", "install pargate again")
    return PargateError(f"a bug in pargate: {type(error).__name__}: {error}", "please report it")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, of whatever library, says that memory ran out, on whichever device."""
    numbers, words, _ = _SHORTAGES[0]
    return _says(error, numbers, words)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from."""
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
    """The words of an error, behind its `kind` where they do not name it."""
    text = first_line(error) or kind or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return text if kind in text.lower() else f"{kind}: {text}"


def together(problems: Sequence[PargateError]) -> PargateError:
    """Return several problems as one that ends with the code of the last; each keeps its own hint."""
    *before, last = problems
    return type(last)([*(line for problem in before for line in problem.told()), *last.lines], last.hint)


def nearest(name: str, known: list[str]) -> str:
    """A did-you-mean clause for `name`, or an empty string when nothing known is close."""
    from difflib import get_close_matches

    found = get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean '{found[0]}'?" if found else ""


def first_line(error: BaseException, most: int = 160) -> str:
    """The beginning of what a library says of an error; many go on with stacks and advice."""
    return str(error).strip().partition("\n")[0][:most]


def visible(text: str) -> str:
    """Return foreign text as one line that steers no terminal and holds no command of a build's log.

    Whatever is not read is written out, line ends included. GitHub, Azure and TeamCity obey a line that begins with
    `::NAME`, or that holds `##[NAME]` or `##NAME[` anywhere; these are broken wherever they stand, since a long line
    may be wrapped in front of them.
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
    """Return JSON text that stands for the same value, with whatever `visible` would change escaped in its strings."""
    return _STEERING.sub(lambda found: "".join(map(_escaped, found[0])), text)


_STEERING = re.compile(r"[^\n -~]+|#(?=#)")


def _escaped(character: str) -> str:
    if character == "#":
        return "\\u0023"
    return character if character.isprintable() else json.dumps(character)[1:-1]
