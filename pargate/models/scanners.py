"""Ask other scanners about weights files: picklescan, fickling and modelscan, of the extra `pargate[scanners]`.

Each installed one runs in a process of its own, in an empty folder. Their answers are compared with pargate's. What
each misses is said in docs/threat-model.md.
"""

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from pargate import limits
from pargate.errors import OperationalError
from pargate.models import shards, two_towers
from pargate.models.located import weights_in

Answer = Literal["safe", "unsafe", "not read"]
"""What a scanner says of a file; `not read` also where it fails or takes too long."""


@dataclass(frozen=True, slots=True)
class Scanner:
    """A scanner, as it is started."""

    arguments: tuple[str, ...]
    """Arguments of Python, before the path of the file."""
    answers: dict[int, Answer]
    """Its answers, by its exit code; any other code is `not read`."""


SCANNERS = {
    # `python -m picklescan` ends with 0 whatever it found.
    "picklescan": Scanner(("-m", "picklescan.cli", "--path"), {0: "safe", 1: "unsafe"}),
    "fickling": Scanner(("-m", "fickling", "--check-safety"), {0: "safe", 1: "unsafe"}),
    "modelscan": Scanner(("-m", "modelscan.cli", "scan", "--path"), {0: "safe", 1: "unsafe"}),
}
"""The scanners, by the name of their package."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """The answer of one scanner about one file."""

    scanner: str
    version: str
    file: str
    answer: Answer

    def differs(self, unsafe: bool) -> bool:
        """Return whether the scanner contradicts pargate, which found the file `unsafe` or not."""
        return self.answer != "not read" and (self.answer == "unsafe") != unsafe


def installed() -> list[str]:
    """Return the names of the installed scanners.

    Raises:
        OperationalError: there is none.
    """
    found = [name for name in SCANNERS if importlib.util.find_spec(name) is not None]
    if not found:
        raise OperationalError(
            f"a second opinion needs one of {', '.join(SCANNERS)}, and none is installed",
            "pip install 'pargate[scanners]'",
        )
    return found


def opinions(scanners: Sequence[str], files: Iterable[Path]) -> list[Opinion]:
    """Return what each scanner says of each file."""
    return [Opinion(name, _version(name), str(file), _ask(SCANNERS[name], file)) for file in files for name in scanners]


def files_of(weights: str) -> list[Path]:
    """Return the weights files behind a path: itself, those that an index names, or those of a folder."""
    path = Path(weights)
    if path.name.endswith(shards.INDEX):
        return [path.parent / name for name in sorted(set(shards.index(path).values()))]
    if path.is_dir():
        places = [place for found in two_towers.kinds_in(path).values() for place in found]
        return [file for place in (path, *places) for file in weights_in(place)]
    return [path] if path.is_file() else []


def _ask(scanner: Scanner, file: Path) -> Answer:
    command = [sys.executable, *scanner.arguments, str(file.resolve())]
    with tempfile.TemporaryDirectory() as empty:  # fickling writes its results into the current folder
        try:
            done = subprocess.run(
                command,
                cwd=empty,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=limits.SCANNER_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "not read"
    return scanner.answers.get(done.returncode, "not read")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "of unknown version"
