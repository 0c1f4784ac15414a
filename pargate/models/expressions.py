"""Match regular expressions from outside, which can run for ever, in a process of their own with limits."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Literal

from pargate import limits
from pargate.errors import InputError, OperationalError

Expression = tuple[Literal["match", "fullmatch"], str]
"""A function of `re`, and a pattern."""

PROGRAM = """
import json, re, sys
told = json.load(sys.stdin)
try:
    import resource
except ImportError:  # on Windows time alone is bounded
    pass
else:
    resource.setrlimit(resource.RLIMIT_CPU, (told["seconds"], told["seconds"]))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (told["bytes"], told["bytes"]))
found = []
for how, pattern in told["patterns"]:
    matches = getattr(re.compile(pattern), how)
    found.append([at for at, name in enumerate(told["names"]) if matches(name)])
print(json.dumps(found))
"""


def matched(patterns: Sequence[Expression], names: Sequence[str], where: str) -> dict[Expression, set[str]]:
    """Return for each pattern the names that it matches; `where` names the file of the patterns in messages.

    Raises:
        InputError: a pattern is invalid, or they need more than the memory and the time in `limits`.
        OperationalError: no process could be started.
    """
    if not patterns:
        return {}
    told = {
        "patterns": list(patterns), "names": list(names), "seconds": limits.PATTERN_SECONDS,
        "bytes": limits.PATTERN_BYTES,
    }  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", PROGRAM],
            input=json.dumps(told).encode(), capture_output=True, check=False, timeout=6 * limits.PATTERN_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise _refused(where, "they do not end") from error
    except OSError as error:
        raise OperationalError(
            f"cannot match the patterns of {where}: {error.strerror}", "free memory or processes"
        ) from error
    if done.returncode:
        last = os.fsdecode(done.stderr).strip().rpartition("\n")[2]
        ended = done.returncode in (-getattr(signal, "SIGXCPU", 0), -getattr(signal, "SIGKILL", 0))
        raise _refused(where, f"they take more than {limits.PATTERN_SECONDS} seconds" if ended else last[:200])
    found: list[list[int]] = json.loads(done.stdout)
    return {pattern: {names[at] for at in row} for pattern, row in zip(patterns, found, strict=True)}


def _refused(where: str, why: str) -> InputError:
    return InputError(f"{where}: its patterns of names cannot be used: {why}", "write the names of the modules instead")
