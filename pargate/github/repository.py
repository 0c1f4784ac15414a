"""Checks of a git repository without git: its root, its default branch and links in paths."""

import contextlib
from pathlib import Path

from pargate.errors import InputError

_REMOTE_HEAD = "ref: refs/remotes/origin/"
_HEAD = "ref: refs/heads/"


def default_branch(root: Path) -> str:
    """Return the default branch of the repository at `root`.

    It is that of the remote `origin` if known, else `main` or `master` if it exists, else the current branch.
    """
    git = _common(root)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = (git / "refs" / "remotes" / "origin" / "HEAD").read_text(encoding="utf-8").strip()
        if text.startswith(_REMOTE_HEAD):
            return text.removeprefix(_REMOTE_HEAD)
    packed = ""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        packed = (git / "packed-refs").read_text(encoding="utf-8")
    for name in ("main", "master"):
        if (git / "refs" / "heads" / name).is_file() or f" refs/heads/{name}\n" in packed:
            return name
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = (git / "HEAD").read_text(encoding="utf-8").strip()
        if text.startswith(_HEAD):
            return text.removeprefix(_HEAD)
    return "main"


def _common(root: Path) -> Path:
    """Return the git folder that all working trees share."""
    git = root / ".git"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if git.is_file():
            git = root / git.read_text(encoding="utf-8").strip().removeprefix("gitdir: ")
        return git / (git / "commondir").read_text(encoding="utf-8").strip()
    return git


def refuse_elsewhere(root: Path) -> None:
    """Raise unless `root` is the root of a working tree.

    Raises:
        InputError: `root` is not the root of a working tree.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder", "give the root of a git repository")
    if (root / ".git").exists():
        return
    above = next((folder for folder in root.resolve().parents if (folder / ".git").exists()), None)
    if above is None:
        raise InputError(f"{root.resolve()} is not a git repository", "run `git init` first, or give the root of one")
    raise InputError(f"{root.resolve()} lies inside the repository {above}", "give its root: workflows belong there")


def refuse_links(root: Path, name: str) -> None:
    """Raise if the path `name` below `root` passes a link, which could lead out of the repository.

    Raises:
        InputError: the path passes a link.
    """
    place = root
    for part in Path(name).parts:
        place /= part
        if place.is_symlink():
            raise InputError(f"{place.relative_to(root)} is a link", "replace it with its target")
