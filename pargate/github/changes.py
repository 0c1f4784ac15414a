"""The models that a change affects; the others are not judged again.

In doubt a model counts as changed: if git does not track it, if it is an adapter, if the event names no base, or if the
policy, the classes, the images, a workflow or the gate itself changed.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pargate import git
from pargate.errors import InputError, PargateError
from pargate.github.inputs import Inputs
from pargate.models.sources import ADAPTER_CONFIG

WORKFLOWS = ".github"

SOURCES = re.compile(r"(hf-hub|open_clip|synthetic|builtin):")
_WILD = re.compile(r"[*?\[{]")
_NOTHING = re.compile(r"0*")


def changed_models(given: Inputs, environ: Mapping[str, str], workspace: Path) -> tuple[tuple[str, ...], str]:
    """Return the models to judge, in order, and the reason in one sentence."""
    base = given.base or _base(environ)
    if not base:
        return given.models, "all models are judged: the event names no commit to compare with"
    try:
        changed = _changed(base, workspace)
    except PargateError as error:
        return given.models, f"all models are judged: {error.message}; {error.hint}"
    for reason, paths in _watched(given, environ, workspace):
        for path in paths:
            if _hit(path, changed, workspace):
                return given.models, f"all models are judged: {reason} changed since {base}"
    found = tuple(model for model in given.models if _is_changed(model, changed, workspace))
    return found, f"{len(found)} of {len(given.models)} models changed since {base}"


def _base(environ: Mapping[str, str]) -> str:
    """Return the base commit of the event, or an empty text."""
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
    """Return the absolute paths that differ between `base` and the working tree.

    Raises:
        PargateError: git cannot compare them.
    """
    root, commit = git.root_of(workspace), git.commit_of(base, workspace)
    names = git.ask(
        "diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", "--ignore-submodules=none", commit, "--",
        folder=workspace,
    )  # fmt: skip
    if names.refusal:
        raise InputError(f"git cannot compare with {base}: {names.refusal}", "fetch it, or clone again")
    return {root / os.fsdecode(name) for name in names.out.split(b"\0") if name}


def _hit(path: Path, changed: set[Path], workspace: Path) -> bool:
    """Return whether something at, in or above `path` changed; above it may be a link or a submodule."""
    where = (workspace / path).absolute()
    ways = {where, where.resolve()}
    return any(way == one or way in one.parents or one in way.parents for way in ways for one in changed)


def _is_changed(model: str, changed: set[Path], workspace: Path) -> bool:
    if SOURCES.match(model):
        return True  # the content behind the name may have changed
    path = Path(model)
    held = git.ask("ls-files", "-z", "--", f":(literal){model}", folder=workspace).out
    where = workspace / path
    if not held or not where.resolve().is_relative_to(workspace.resolve()):
        return True  # git does not track it
    if where.is_symlink() or (where.is_dir() and any(entry.is_symlink() for entry in where.rglob("*"))):
        return True
    if (where / ADAPTER_CONFIG).is_file():
        return True  # the base that it names may have changed
    others = git.ask("ls-files", "-z", "--others", "--", f":(literal){model}", folder=workspace)
    if others.refusal or others.out:
        return True  # the job created a file in it
        # The configuration or other shards may lie beside a file.
    return _hit(path if where.is_dir() else path.parent, changed, workspace)


def _watched(given: Inputs, environ: Mapping[str, str], workspace: Path) -> Iterator[tuple[str, list[Path]]]:
    """Yield the paths that affect all models, with a name for them."""
    from pargate.policy.resolve import WORKING_FILES

    yield "a workflow", [Path(WORKFLOWS)]
    action = environ.get("GITHUB_ACTION_PATH", "")
    if action and Path(action).resolve().is_relative_to(workspace.resolve()):
        yield "the gate itself", [Path(action)]
    sources = [given.policy, given.images, given.classes, given.pairs]
    sources += [argument.split("=", 1)[-1] for argument in given.arguments]
    yield "the policy or its inputs", [*map(Path, WORKING_FILES), *_places(sources, workspace)]
    try:
        own = list(_of_policy(given.policy, workspace))
    except (PargateError, OSError):
        own = [workspace]  # its files are unknown
    yield "the policy or its inputs", own


def _places(texts: list[str], folder: Path) -> list[Path]:
    """Return the paths of sources: of a pattern the folder it begins in, of a table its folder."""
    found = []
    for text in texts:
        if text and not SOURCES.match(text):
            start = _WILD.split(text)[0]
            path = folder / (start if start == text else start[: start.rfind("/") + 1])
            found.append(path.parent if path.suffix.lower() in (".csv", ".tsv") else path)
    return found


def _of_policy(name: str, workspace: Path) -> Iterator[Path]:
    """Yield the files of a policy, and the paths in it.

    Raises:
        PolicyError: the policy cannot be read.
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
        if path not in (folder, *folder.parents):  # a text such as `.` is not a file
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
