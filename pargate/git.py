"""Calls of git: its output, or the reason of its failure."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pargate.errors import InputError, OperationalError

PATIENCE_S = 120
"""Maximum seconds for one call."""

_DISTRUST = re.compile(r"dubious ownership|unsafe repository")
_REMEDY = re.compile(r"git config --global --add safe\.directory .+")


@dataclass(frozen=True, slots=True)
class Answer:
    """The output of git; `refusal` is the first line of its error, empty on success."""

    out: bytes
    refusal: str


def ask(*arguments: str, folder: Path | None = None) -> Answer:
    """Run git in `folder`, by default the working folder, without the repository's file-system monitor.

    Raises:
        OperationalError: git is missing, does not start or end, or does not trust the folder.
    """
    command = ["git", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false", *arguments]
    environment = {**os.environ, "LC_ALL": "C"}  # errors are recognised by their English text
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False,
            timeout=PATIENCE_S,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise OperationalError("git is not installed", "install git") from error
    except (OSError, ValueError) as error:
        raise OperationalError(
            f"git did not start: {getattr(error, 'strerror', None) or error}", "check how git is installed"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise OperationalError(
            f"git did not answer within {PATIENCE_S} s", "try again once no other process uses the repository"
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
        InputError: `folder` is in no working tree.
        OperationalError: as `ask`.
    """
    top = ask("rev-parse", "--show-toplevel", folder=folder)
    if top.refusal:
        where = (folder or Path()).absolute()
        if "not a git repository" in top.refusal:
            raise InputError(f"{where} is not in a git repository", "change to one, or clone it first")
        raise InputError(f"git finds no working tree at {where}: {top.refusal}", "check out the repository again")
    return Path(os.fsdecode(top.out.removesuffix(b"\n")))


def commit_of(ref: str, folder: Path | None = None) -> str:
    """Return the hash of the commit that `ref` names.

    Raises:
        InputError: the clone has no such commit.
        OperationalError: as `ask`.
    """
    # Only a commit: the name may also mean the index, a range or a tree.
    found = ask("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}", folder=folder)
    if not found.refusal:
        return found.out.decode().strip()
    shallow = ask("rev-parse", "--is-shallow-repository", folder=folder).out.strip() == b"true"
    raise InputError(
        f"there is no git ref '{ref[:80]}' here" + (", in a shallow clone" if shallow else ""),
        "fetch it with `git fetch --unshallow`, or check out with fetch-depth: 0"
        if shallow
        else "name a branch, tag or commit; fetch it",
    )
