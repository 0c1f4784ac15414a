"""A git repository, looked at without git: its root, its default branch, links on the way to a file."""

import contextlib
from pathlib import Path

from pargate.errors import InputError

_REMOTE_HEAD = "ref: refs/remotes/origin/"
_HEAD = "ref: refs/heads/"


def default_branch(root: Path) -> str:
    """What the repository at `root` calls its default branch.

    That of the remote `origin` where it is known, else `main` or `master` if there is one, else the branch that is
    checked out, else `main`. A second look from another branch gives the same answer in all but the last case.
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
    """The folder of the references, which several working trees share."""
    git = root / ".git"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if git.is_file():
            git = root / git.read_text(encoding="utf-8").strip().removeprefix("gitdir: ")
        return git / (git / "commondir").read_text(encoding="utf-8").strip()
    return git


def refuse_elsewhere(root: Path) -> None:
    """Refuse a folder that is not the root of a working tree.

    Raises:
        InputError: it is not; the message says where the root is, if there is one above.
    """
    if not root.is_dir():
        raise InputError(f"{root} is no folder", "name the root of a git repository")
    if (root / ".git").exists():
        return
    above = next((folder for folder in root.resolve().parents if (folder / ".git").exists()), None)
    if above is None:
        raise InputError(f"{root.resolve()} is not a git repository", "run `git init` first, or name its root")
    raise InputError(f"{root.resolve()} lies inside the repository {above}", "name its root: workflows belong there")


def refuse_links(root: Path, name: str) -> None:
    """Refuse a place on whose way a link lies: it could lead out of the repository.

    Raises:
        InputError: there is one.
    """
    place = root
    for part in Path(name).parts:
        place /= part
        if place.is_symlink():
            raise InputError(f"{place.relative_to(root)} is a link", "replace it by what it points to")
