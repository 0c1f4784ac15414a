"""The inputs of the Action, read from the environment and checked before anything runs.

An empty input is the same as an absent one. Values become arguments of a command line without a shell; control
characters, and a dash at the start, are refused.
"""

import glob
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pargate.errors import InputError, nearest
from pargate.report import FORMATS

PREFIX = "PARGATE_ACTION_"

COMMANDS = ("scan", "gate", "screen")

SARIF = "sarif"
"""Folder of the SARIF files alone."""

FORGIVEN = {"inconclusive": frozenset[int](), "fail": frozenset({3}), "never": frozenset({1, 3})}
"""Exit codes that become 0, by the input `fail-on`."""

_OURS = (
    "--output", "--out", "--exit-zero", "--dry-run", "--help", "--version", "--policy", "--images", "--classes",
    "--model", "--review",
)  # fmt: skip
_WILD = re.compile(r"[*?\[]")
_HF = re.compile(r"(hf-hub|open_clip):")
_LONGEST = 80


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of the Action."""

    models: tuple[str, ...]
    """Sources of the models."""
    command: str
    policy: str
    images: str
    classes: str
    pairs: str
    output: str
    formats: tuple[str, ...]
    """Formats of the report files; `json` is always included."""
    forgiven: frozenset[int]
    changed_only: bool
    base: str
    cache: bool
    arguments: tuple[str, ...]


def read(environ: Mapping[str, str], workspace: Path) -> Inputs:
    """Read the inputs from the variables that begin with `PREFIX`.

    Raises:
        InputError: an input is wrong, or there is no model.
    """
    given = {name: environ.get(PREFIX + name.upper().replace("-", "_"), "") for name in _NAMES}
    for name in _NAMES:
        _check(name, given[name], lines=name in ("model", "formats", "arguments"))
    command = _one_of("command", given["command"] or "scan", COMMANDS)
    if given["pairs"] and command == "scan":
        raise InputError("the input 'pairs' is for the commands gate and screen", "leave it out, or set the command")
    if command == "screen":
        _check_screening(given)
    output = given["output"] or "pargate-reports"
    _refuse_links(output, workspace)
    return Inputs(
        models=_models(given["model"], workspace),
        command=command,
        policy=given["policy"],
        images=given["images"],
        classes=given["classes"],
        pairs=given["pairs"],
        output=output,
        formats=_formats(given["formats"] or "json sarif html"),
        forgiven=FORGIVEN[_one_of("fail-on", given["fail-on"] or "inconclusive", tuple(FORGIVEN))],
        changed_only=_one_of("changed-only", given["changed-only"] or "false", ("true", "false")) == "true",
        base=given["base"],
        cache=_one_of("cache", given["cache"] or "true", ("true", "false")) == "true",
        arguments=_arguments(given["arguments"]),
    )


_NAMES = (
    "model", "command", "policy", "images", "classes", "pairs", "output", "formats", "fail-on", "changed-only", "base",
    "cache", "arguments",
)  # fmt: skip


def _check_screening(given: Mapping[str, str]) -> None:
    """Raise if a screening lacks an input, or has one that it would ignore."""
    for name in ("pairs", "policy"):
        if not given[name]:
            raise InputError(f"the command screen needs the input '{name}'", "docs/action.md shows a workflow")
    for name in ("images", "classes", "changed-only"):
        if given[name] not in ("", "false"):
            raise InputError(f"the input '{name}' is not for the command screen", "leave it out")


def _check(name: str, value: str, *, lines: bool) -> None:
    for line in _lines(value) if lines else [value]:
        if not line.isprintable():
            raise InputError(
                f"the input '{name}' holds a line break or another control character: {line!a}", "remove it"
            )
        if line.startswith("-") and name != "arguments":
            raise InputError(f"the input '{name}' starts with a dash: {line}", "write ./ in front if it is a path")


def _lines(text: str) -> list[str]:
    # Not `splitlines`, for which control characters end lines too.
    return [line.strip() for line in text.split("\n")]


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise InputError(f"the input '{name}' is {value!r}", f"give one of {', '.join(known)}")
    return value


def _formats(text: str) -> tuple[str, ...]:
    names = dict.fromkeys(["json", *text.split()])
    written = [name for name, form in FORMATS.items() if form.file]
    for name in names:
        if name not in written:
            raise InputError(
                f"unknown report format '{name}' in the input 'formats'.{nearest(name, written)}",
                f"one of {', '.join(written)}",
            )
    return tuple(names)


def _arguments(text: str) -> tuple[str, ...]:
    found = tuple(line for line in _lines(text) if line)
    for argument in found:
        name = argument.split("=")[0]
        if name in (*_OURS, "--", "-h", "-p") or re.match(r"-[A-Za-z]*[oph]", argument):
            raise InputError(f"the input 'arguments' holds {argument}", "remove it: the Action sets it from its inputs")
    return found


def _models(text: str, workspace: Path) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for line in _lines(text):
        if line and _WILD.search(line) and not _HF.match(line) and not (workspace / line).exists():
            found |= dict.fromkeys(_matches(line, workspace))
        elif line:
            found[line] = None
    if not found:
        raise InputError("the input 'model' is empty", "give a model, or several, one per line")
    return tuple(found)


def _matches(pattern: str, workspace: Path) -> list[str]:
    """Return the matches of a pattern; refuse control characters, and links out of the workspace."""
    # `Path.glob` takes no absolute pattern.
    found = sorted(glob.glob(pattern, root_dir=workspace, recursive=True))  # noqa: PTH207 - see above
    if not found:
        raise InputError(f"no model matches '{pattern}'", f"check out the model in {workspace}")
    for name in found:
        if not name.isprintable():
            raise InputError(f"a name that '{pattern}' matches holds control characters: {name!a}", "rename it")
        if not Path(pattern).is_absolute() and not (workspace / name).resolve().is_relative_to(workspace.resolve()):
            raise InputError(f"{name} leads out of the workspace", "give its path without a pattern")
    return [f"./{name}" if name.startswith("-") else name.rstrip("/") for name in found]


def _refuse_links(output: str, workspace: Path) -> None:
    """Refuse an output folder behind a link, since a change could add one that leads anywhere."""
    if Path(output).is_absolute():
        return
    if ".." in Path(output).parts:
        raise InputError(f"the input 'output' leads out of the workspace: {output}", "give an absolute path")
    path = workspace
    for part in Path(output).parts:
        path /= part
        if path.is_symlink():
            raise InputError(f"the input 'output' leads through a link: {path}", "choose another folder")


def folders(models: tuple[str, ...]) -> dict[str, str]:
    """Return a short, plain and unique report folder for each model."""
    names: dict[str, str] = {}
    taken = {SARIF}
    for model in models:
        plain = re.sub(r"[^A-Za-z0-9._]+", "-", model.removeprefix("./")).strip("-.")
        if plain.lower() in taken or not plain or len(plain) > _LONGEST:
            plain = f"{plain[:_LONGEST]}-{hashlib.sha256(os.fsencode(model)).hexdigest()[:12]}".lstrip("-.")
        taken.add(plain.lower())
        names[model] = plain
    return names
