"""Which models a change touches, so that the others need not be judged again.

In doubt a model counts as touched: what git does not hold, what the change does not name a base for, and every model
where something changed that decides about all of them: policy, classes, images, workflows, or the gate itself.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pargate import git
from pargate.errors import InputError, PargateError
from pargate.github.inputs import Asked

WORKFLOWS = ".github"

SOURCES = re.compile(r"(hf-hub|open_clip|synthetic|builtin):")
_WILD = re.compile(r"[*?\[{]")
_NOTHING = re.compile(r"0*")


def touched(asked: Asked, environ: Mapping[str, str], workspace: Path) -> tuple[tuple[str, ...], str]:
    """The models to judge, in their order, and one sentence that says why these."""
    base = asked.base or _base(environ)
    if not base:
        return asked.models, "all models are judged: the event names no commit to compare with"
    try:
        changed = _changed(base, workspace)
    except PargateError as error:
        return asked.models, f"all models are judged: {error.message}; {error.hint}"
    for reason, paths in _watched(asked, environ, workspace):
        for path in paths:
            if _hit(path, changed, workspace):
                return asked.models, f"all models are judged: {reason} changed since {base}"
    found = tuple(model for model in asked.models if _is_touched(model, changed, workspace))
    return found, f"{len(found)} of {len(asked.models)} models are touched by what changed since {base}"


def _base(environ: Mapping[str, str]) -> str:
    """What the event says was there before; "" where it does not."""
    try:
        payload = json.loads(Path(environ.get("GITHUB_EVENT_PATH", "")).read_bytes())
        event = environ.get("GITHUB_EVENT_NAME", "")
        if event.startswith("pull_request"):
            base = payload["pull_request"]["base"]["sha"]
        elif event == "merge_group":
            base = payload["merge_group"]["base_sha"]
        else:
            base = payload["before"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return base if isinstance(base, str) and not _NOTHING.fullmatch(base) else ""


def _changed(base: str, workspace: Path) -> set[Path]:
    """Absolute paths that differ between `base` and what lies here now.

    Raises:
        PargateError: that cannot be told.
    """
    root, commit = git.root_of(workspace), git.commit_of(base, workspace)
    names = git.ask(
        "diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", "--ignore-submodules=none", commit, "--",
        folder=workspace,
    )  # fmt: skip
    if names.refusal:
        raise InputError(f"git cannot compare with {base}: {names.refusal}", "fetch it, or clone anew")
    return {root / os.fsdecode(name) for name in names.out.split(b"\0") if name}


def _hit(path: Path, changed: set[Path], workspace: Path) -> bool:
    """Whether something at, within or above `path` changed; above, where a link or a submodule stands there."""
    where = (workspace / path).absolute()
    ways = {where, where.resolve()}
    return any(way == one or way in one.parents or one in way.parents for way in ways for one in changed)


def _is_touched(model: str, changed: set[Path], workspace: Path) -> bool:
    if SOURCES.match(model):
        return True  # what the name stands for may have moved
    path = Path(model)
    held = git.ask("ls-files", "-z", "--", f":(literal){model}", folder=workspace).out
    where = workspace / path
    if not held or not where.resolve().is_relative_to(workspace.resolve()):
        return True  # from elsewhere: git says nothing about it
    if where.is_symlink() or (where.is_dir() and any(entry.is_symlink() for entry in where.rglob("*"))):
        return True
    others = git.ask("ls-files", "-z", "--others", "--", f":(literal){model}", folder=workspace)
    if others.refusal or others.out:
        return True  # a file that was put there by the job
    # Beside a file may lie its configuration, or its other shards.
    return _hit(path if where.is_dir() else path.parent, changed, workspace)


def _watched(asked: Asked, environ: Mapping[str, str], workspace: Path) -> Iterator[tuple[str, list[Path]]]:
    """What decides about all models, by what to call it."""
    from pargate.policy.resolve import WORKING_FILES

    yield "a workflow", [Path(WORKFLOWS)]
    action = environ.get("GITHUB_ACTION_PATH", "")
    if action and Path(action).resolve().is_relative_to(workspace.resolve()):
        yield "the gate itself", [Path(action)]
    given = [asked.policy, asked.images, asked.classes, asked.pairs]
    given += [argument.split("=", 1)[-1] for argument in asked.arguments]
    yield "the policy or what it is measured with", [*map(Path, WORKING_FILES), *_places(given, workspace)]
    try:
        own = list(_of_policy(asked.policy, workspace))
    except (PargateError, OSError):
        own = [workspace]  # what it is made of is unknown
    yield "the policy or what it is measured with", own


def _places(texts: list[str], folder: Path) -> list[Path]:
    """Where sources of data lie: patterns at the folder that they begin in, lists of pictures at theirs."""
    found = []
    for text in texts:
        if text and not SOURCES.match(text):
            start = _WILD.split(text)[0]
            path = folder / (start if start == text else start[: start.rfind("/") + 1])
            found.append(path.parent if path.suffix.lower() in (".csv", ".tsv") else path)
    return found


def _of_policy(name: str, workspace: Path) -> Iterator[Path]:
    """The files that a policy is made of, and all that it names.

    Raises:
        PolicyError: it cannot be read.
    """
    from pargate.policy.resolve import resolve

    read: list[Path] = []

    def reader(path: Path) -> bytes:
        read.append(path)
        return path.read_bytes()

    resolved = resolve(name or None, reader)
    policy, folder = resolved.policy, (workspace / resolved.folder).resolve()
    sources = [policy.images.source, policy.classes.names]
    yield from read
    yield from _places([source for source in sources if isinstance(source, str)], folder)
    for text in _texts(policy.model_dump(mode="json")):
        path = (folder / text).resolve() if text.isprintable() and not _WILD.search(text) else folder
        if path not in (folder, *folder.parents):  # a text such as `.` names no file
            yield path


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
