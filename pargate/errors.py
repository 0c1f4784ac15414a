"""Everything pargate raises on purpose, and the one table of exit codes.

    PargateError
    ├── InputError            2    wrong usage, or input that cannot be read: nothing was judged
    ├── UnsafeCheckpoint      1    the file itself is a finding: it could execute code, or means two models
    ├── PolicyError           4    the policy is invalid
    ├── OperationalError      5    memory, disk, device, network: says what to change
    ├── Interrupted         130    Ctrl-C (143 for SIGTERM); a partial report was written
    └── PeerEnded                  any of these, of which another process of the same run has told

A verdict is not an exception: `fail` and `inconclusive` are results with exit codes of their own.
"""

import errno
from enum import IntEnum

EXHAUSTED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE)
"""What the system says when it has no more room, or no more files to open."""


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

    def __init__(self, message: str, hint: str = "") -> None:
        """Keep `message` (what and where) apart from `hint` (what to do next)."""
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(PargateError):
    """The command line or an input file is wrong; nothing was judged."""

    exit_code = ExitCode.INPUT


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


class PeerEnded(PargateError):
    """What ended a distributed run, in all processes but the one that says so: these end in silence."""

    def __init__(self, exit_code: ExitCode) -> None:
        """Carry the exit code of what another process tells."""
        super().__init__("another process of the run says what went wrong")
        self.exit_code = exit_code


def nearest(name: str, known: list[str]) -> str:
    """A did-you-mean clause for `name`, or an empty string when nothing known is close."""
    from difflib import get_close_matches

    found = get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean '{found[0]}'?" if found else ""


def first_line(error: BaseException, most: int = 160) -> str:
    """The beginning of what a library says of an error; many go on with stacks and advice."""
    return str(error).strip().partition("\n")[0][:most]


def visible(text: str) -> str:
    """Text for a terminal or a log: lines stay, and whatever else would steer the reader is written out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
