"""Values of options that are to stand in a workflow: what is refused, and why.

Each function raises InputError with the option, the value, and what to write instead.
"""

import re
from pathlib import Path

from pargate.errors import InputError

_CRON = re.compile(r"[0-9*,/A-Za-z-]+( [0-9*,/A-Za-z-]+){4}")
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
"""Minute, hour, day, month, day of the week."""


def refuse_hostile(option: str, value: str) -> None:
    """Refuse what a line of a workflow cannot hold, or what GitHub would evaluate."""
    if not value or value != value.strip():
        raise InputError(f"{option} '{value}' is empty, or begins or ends with a space", "write it without")
    if not value.isprintable():
        raise InputError(f"{option} '{value}' holds a line break or another control character", "write it without")
    if "${{" in value:
        raise InputError(f"{option} '{value}' holds ${{{{, which GitHub would evaluate", "write the value itself")
    if value.startswith("-"):
        raise InputError(f"{option} '{value}' begins with a dash", "write ./ in front if it is a path")


def refuse_unlike(pattern: re.Pattern[str], option: str, value: str, wanted: str) -> None:
    """Refuse what the whole pattern does not fit."""
    if not pattern.fullmatch(value):
        raise InputError(f"{option} '{value}' is not understood", f"it takes {wanted}")


def refuse_outside(option: str, value: str) -> None:
    """Refuse a path that a fresh check-out elsewhere does not have."""
    path = Path(value)
    if path.is_absolute() or ".." in path.parts or value.startswith("~"):
        raise InputError(f"{option} {value} leads out of the repository", "write a path from the repository's root")


def refuse_absent(root: Path, option: str, value: str) -> None:
    """Refuse the name of a file that is not in the repository."""
    if not (root / value).is_file():
        raise InputError(f"{option} {value}: there is no such file in the repository", "name one, or leave it out")


def refuse_schedule(option: str, value: str) -> None:
    """Refuse what GitHub would not run: a schedule that it cannot read is left out without a word."""
    wanted = "five fields as cron has them, such as '17 4 * * 1'"
    refuse_unlike(_CRON, option, value, wanted)
    for field, (low, high) in zip(value.split(" "), _RANGES, strict=True):
        # What follows a slash is a step, not a time.
        times = [int(number) for number in re.findall(r"(?<![/\d])\d+", field)]
        if any(not low <= time <= high for time in times) or re.search(r"/0*(?!\d)|[,/-]$|^[,/-]", field):
            raise InputError(f"{option} '{value}' is not understood at '{field}'", f"it takes {wanted}")
