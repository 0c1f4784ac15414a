"""git, run in a process of its own: what it answers, or the true reason why it does not."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pargate.errors import InputError, OperationalError

PATIENCE_S = 120
"""Seconds that git may take for one answer."""

_DISTRUST = re.compile(r"dubious ownership|unsafe repository")
_REMEDY = re.compile(r"git config --global --add safe\.directory .+")


@dataclass(frozen=True, slots=True)
class Answer:
    """What git printed; `refusal` is the first line of its complaint, empty where it did as it was asked."""

    out: bytes
    refusal: str


def ask(*arguments: str, folder: Path | None = None) -> Answer:
    """Return git's answer, asked in `folder` or here. Hooks and watchers that a repository may name do not run.

    Raises:
        OperationalError: git is missing, does not start or end, or does not trust the folder.
    """
    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false", *arguments]
    environment = {**os.environ, "LC_ALL": "C"}  # its complaints are told apart by their words
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False,
            timeout=PATIENCE_S,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise OperationalError("git is needed here, and is not installed", "install git") from error
    except (OSError, ValueError) as error:
        raise OperationalError(
            f"git did not start: {getattr(error, 'strerror', None) or error}", "check how git is installed"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise OperationalError(
            f"git did not answer within {PATIENCE_S} s", "try again once nothing else works on the repository"
        ) from error
    said = os.fsdecode(done.stderr).strip()
    if done.returncode and _DISTRUST.search(said):
        remedy = _REMEDY.search(said)
        where = (folder or Path()).absolute()
        raise OperationalError(
            f"git does not trust {where}: the repository belongs to another user",
            f"run `{remedy[0] if remedy else f'git config --global --add safe.directory {where}'}`",
        )
    return Answer(done.stdout, (said.partition("\n")[0] or f"exit code {done.returncode}") if done.returncode else "")


def root_of(folder: Path | None = None) -> Path:
    """Return the root of the working tree that holds `folder`.

    Raises:
        InputError: there is none.
        OperationalError: as `ask`.
    """
    top = ask("rev-parse", "--show-toplevel", folder=folder)
    if top.refusal:
        where = (folder or Path()).absolute()
        if "not a git repository" in top.refusal:
            raise InputError(f"{where} is not in a git repository", "go to one, or clone it first")
        raise InputError(f"git finds no working tree at {where}: {top.refusal}", "check out the repository anew")
    return Path(os.fsdecode(top.out.removesuffix(b"\n")))


def commit_of(ref: str, folder: Path | None = None) -> str:
    """Return the digits of the commit that `ref` names.

    Raises:
        InputError: it names none that is here.
        OperationalError: as `ask`.
    """
    # A commit, not whatever the name may also mean: the index, a range, a folder's listing.
    found = ask("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}", folder=folder)
    if not found.refusal:
        return found.out.decode().strip()
    shallow = ask("rev-parse", "--is-shallow-repository", folder=folder).out.strip() == b"true"
    raise InputError(
        f"there is no git ref '{ref[:80]}' here" + (", in a clone without its history" if shallow else ""),
        "fetch it with `git fetch --unshallow`, or check out with fetch-depth: 0"
        if shallow
        else "name a branch, tag or commit; fetch it",
    )
