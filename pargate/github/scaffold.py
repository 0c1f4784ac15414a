"""The files of `init github`: a policy, an inventory and two workflows.

The options become quoted YAML values that the workflows pass to the Action as inputs, never part of a script. Nothing
is executed or fetched. If an existing file differs, nothing is written without `--force`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pargate.errors import InputError
from pargate.files import readable, write_atomic
from pargate.github.actions import use
from pargate.github.repository import refuse_elsewhere, refuse_links
from pargate.policy.draft import draft
from pargate.policy.layers import BUILTIN, shipped
from pargate.policy.print import scalar
from pargate.policy.resolve import WORKING_FILE, WORKING_FILES, read
from pargate.version import __version__

if TYPE_CHECKING:
    from jinja2 import Environment


INVENTORY = "pargate-inventory.yaml"
GATE = ".github/workflows/pargate.yml"
AUDIT = ".github/workflows/pargate-audit.yml"
ENVIRONMENT = "pargate-clean"
"""Environment in which the cleaning job waits for a reviewer; the template names it too."""

MARKER = "open_clip_config.json"
"""File in every open_clip folder."""

_REMOTE = ("hf-hub:", "open_clip:")
_ACTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+@[0-9a-f]{40}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_BRANCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `init github`."""

    action: str
    """OWNER/REPO@COMMIT of the pargate that the workflows run."""
    branch: str
    """Default branch: its pushes are released, and the audit runs on it."""
    models: tuple[str, ...] = ()
    """Paths and globs inside the repository, or names on a hub; if empty, the open_clip folders that are found."""
    policy: str | None = None
    """Existing policy file or name of a shipped policy; None to write one."""
    images: str | None = None
    classes: str | None = None
    labels: tuple[str, ...] = ()
    """Labels of the runner with a GPU; if empty, nothing is cleaned."""
    schedule: str = "17 4 * * 1"
    """Cron expression of the audit, in UTC."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The files to write, and those that exist."""

    root: Path
    new: dict[str, bytes]
    """Files that do not exist."""
    same: tuple[str, ...]
    """Files that exist with the same content."""
    changed: dict[str, bytes]
    """Files that exist with other content."""

    def write(self) -> None:
        """Write all files.

        Raises:
            OperationalError: a place cannot be written; each file is complete or unchanged.
        """
        for name, content in {**self.new, **self.changed}.items():
            place = self.root / name
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(place, content)


def plan(root: Path, options: Options, *, force: bool, keep: bool) -> Plan:
    """Compare the files for `options` with the repository at `root`.

    `force` allows to replace files; `keep` leaves an existing policy and inventory unchanged.

    Raises:
        InputError: `root` is not the root of a repository, an option is not safe in a workflow, there is no model, a
            path passes a link, or files differ without `force`.
        PolicyError: the policy cannot be read.
    """
    refuse_elsewhere(root)
    texts = texts_of(root, options)
    new, same, changed = {}, [], {}
    for name, text in texts.items():
        refuse_links(root, name)
        content, place = text.encode(), root / name
        if not place.exists():
            new[name] = content
        elif not place.is_file():
            raise InputError(f"{name} exists and is not a file", "move it away")
        elif place.read_bytes() == content or (keep and name in (WORKING_FILE, INVENTORY)):
            same.append(name)
        else:
            changed[name] = content
    if changed and not force:
        raise InputError(
            f"nothing was written: {', '.join(changed)} would change",
            "--force replaces these files; --keep leaves the policy and the inventory unchanged",
        )
    return Plan(root, new, tuple(same), changed)


def texts_of(root: Path, options: Options) -> dict[str, str]:
    """Return the text of each file by its path under `root`.

    Raises:
        InputError: an option is not safe in a workflow, or there is no model.
        PolicyError: the policy cannot be read.
    """
    _check(root, options)
    repository, _, commit = options.action.partition("@")
    models = _models(root, options.models)
    texts = {}
    inputs = {"model": models}
    if options.policy is None:
        name = root.resolve().name or "model"
        for other in WORKING_FILES:
            if other != WORKING_FILE and (root / other).exists():
                raise InputError(f"{other} exists, and a folder may have one policy only", f"use it: --policy {other}")
        text = draft(name, f"{BUILTIN}release", options.images, options.classes)
        read(text, WORKING_FILE, root)
        texts[WORKING_FILE] = text
        inputs["policy"] = (WORKING_FILE,)
    else:
        inputs |= {key: (value,) for key in ("policy", "images", "classes") if (value := getattr(options, key))}
    policy = inputs["policy"][0]
    version = f" # written by pargate {__version__}"
    environment = _environment(inputs, f"{options.action}{version}")
    texts[INVENTORY] = environment.get_template("pargate-inventory.yaml.j2").render(
        models=_entries(root, models),
        policy=scalar(policy if policy in shipped() else f"./{policy.removeprefix('./')}"),
        images=scalar(options.images) if options.policy and options.images else None,
        classes=scalar(options.classes) if options.policy and options.classes else None,
    )
    texts[GATE] = environment.get_template("pargate.yml.j2").render(
        branch=scalar(options.branch), labels=f"[{', '.join(map(scalar, options.labels))}]" if options.labels else ""
    )
    texts[AUDIT] = environment.get_template("pargate-audit.yml.j2").render(
        branch=options.branch, schedule=scalar(options.schedule), repository=repository, commit=commit, version=version
    )
    return texts


def steps(options: Options) -> list[str]:
    """Return what only the owner of the repository can set, one sentence each."""
    said = [
        "commit these files, and require the status check `pargate` for the default branch (Settings, Rules)",
        "in CODEOWNERS, list the owners of pargate*.yaml and .github: a pull request could loosen its own policy",
        "switch on code scanning, or remove the job `sarif` (private repositories need GitHub Code Security)",
        "attestations of a private repository need GitHub Enterprise Cloud; without it remove the job `attest`",
        f"name the owners in {INVENTORY}; only the audit should write to the branch `pargate-ledger`",
    ]
    if options.labels:
        said.insert(
            1,
            f"create the environment `{ENVIRONMENT}` with required reviewers, for the default branch only, and a "
            f"single-use runner with the labels {', '.join(options.labels)}",
        )
    return said


# --- values ---------------------------------------------------------------------------------------------


def _check(root: Path, options: Options) -> None:
    if not _ACTION.fullmatch(options.action):
        raise InputError(
            f"'{readable(options.action)}' does not name a commit", "write --action OWNER/REPO@COMMIT, 40 digits"
        )
    for option, value in (("--policy", options.policy), ("--images", options.images), ("--classes", options.classes)):
        if value is not None:
            refuse_hostile(option, value)
    if options.classes is not None:
        refuse_outside("--classes", options.classes)
        refuse_absent(root, "--classes", options.classes)
    if options.policy is not None and options.policy not in shipped():
        refuse_outside("--policy", options.policy)
        refuse_absent(root, "--policy", options.policy)
    for label in options.labels:
        refuse_unlike(_LABEL, "--gpu-labels", label, "letters, digits, dots and dashes; commas between labels")
    refuse_unlike(_BRANCH, "--branch", options.branch, "the name of a branch")
    refuse_schedule("--schedule", options.schedule)


def _environment(inputs: dict[str, tuple[str, ...]], action: str) -> "Environment":
    """Return the template engine, with delimiters that neither GitHub nor a shell uses."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pargate", "github/workflows"),
        autoescape=False,  # YAML, in which `scalar` quotes each value
        undefined=StrictUndefined,
        variable_start_string="@{",
        variable_end_string="}@",
        block_start_string="[%",
        block_end_string="%]",
        comment_start_string="[#",
        comment_end_string="#]",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    given = "\n".join(_inputs(inputs))

    def bundling(title: str, device: str | None) -> str:
        text = environment.get_template("bundling.yml.j2").render(title=title, device=device)
        return text.rstrip("\n")

    environment.globals.update(use=use, action=action, inputs=given, bundling=bundling)
    return environment


def _inputs(inputs: dict[str, tuple[str, ...]]) -> list[str]:
    """Return the inputs of the Action as lines of `with:`."""
    lines = []
    for key, values in inputs.items():
        if len(values) == 1:
            lines.append(f"          {key}: {scalar(values[0])}")
        else:
            lines += [f"          {key}: |", *(f"            {value}" for value in values)]
    return lines


def _models(root: Path, models: Sequence[str]) -> tuple[str, ...]:
    if not models:
        models = _found(root)
    for model in models:
        refuse_hostile("--model", model)
        if not model.startswith(_REMOTE):
            refuse_outside("--model", model)
    if not models:
        raise InputError(f"no folder in this repository has {MARKER}", "give the model: --model PATH, GLOB or hf-hub:…")
    return tuple(dict.fromkeys(models))


def _found(root: Path) -> list[str]:
    """Return the open_clip folders, at most three levels deep, without hidden ones."""
    found = {path.parent.relative_to(root) for depth in range(4) for path in root.glob("*/" * depth + MARKER)}
    return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    source: str


def _entries(root: Path, models: Sequence[str]) -> list[_Entry]:
    """Return the entries of the inventory, each with a unique name."""
    sources: list[str] = []
    for model in models:
        if model.startswith(_REMOTE):
            sources.append(model)
        elif any(sign in model for sign in "*?["):
            matched = sorted(path.relative_to(root).as_posix() for path in root.glob(model))
            for path in matched:
                refuse_hostile("--model", path)
            if not matched:
                raise InputError(f"--model {model} matches nothing", "give a model that exists")
            sources += [f"./{path}" for path in matched]
        else:
            sources.append("./" if model == "." else f"./{model.removeprefix('./')}")
    entries: dict[str, _Entry] = {}
    for source in dict.fromkeys(sources):
        bare = source.removeprefix("hf-hub:").removeprefix("open_clip:").partition("@")[0]
        last = bare.rstrip("/").rpartition("/")[2].strip(".") or root.resolve().name
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.") or "model"
        name, number = stem, 2
        while name in entries:
            name, number = f"{stem}-{number}", number + 1
        entries[name] = _Entry(scalar(name), scalar(source))
    return list(entries.values())


_CRON = re.compile(r"[0-9*,/A-Za-z-]+( [0-9*,/A-Za-z-]+){4}")
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
"""Minute, hour, day, month, day of the week."""


def refuse_hostile(option: str, value: str) -> None:
    """Raise if a workflow line cannot hold `value`, or GitHub would evaluate it."""
    if not value or value != value.strip():
        raise InputError(f"{option} '{value}' is empty, or begins or ends with a space", "write it without")
    if not value.isprintable():
        raise InputError(f"{option} '{value}' holds a line break or another control character", "write it without")
    if "${{" in value:
        raise InputError(f"{option} '{value}' holds ${{{{, which GitHub would evaluate", "write the value itself")
    if value.startswith("-"):
        raise InputError(f"{option} '{value}' begins with a dash", "write ./ in front if it is a path")


def refuse_unlike(pattern: re.Pattern[str], option: str, value: str, wanted: str) -> None:
    """Raise unless the whole value matches the pattern."""
    if not pattern.fullmatch(value):
        raise InputError(f"{option} '{value}' is not valid", f"give {wanted}")


def refuse_outside(option: str, value: str) -> None:
    """Raise if a path is outside the repository."""
    path = Path(value)
    if path.is_absolute() or ".." in path.parts or value.startswith("~"):
        raise InputError(f"{option} {value} leads out of the repository", "write a path from the repository's root")


def refuse_absent(root: Path, option: str, value: str) -> None:
    """Raise if the file is not in the repository."""
    if not (root / value).is_file():
        raise InputError(
            f"{option} {value}: there is no such file in the repository", "give an existing file, or leave it out"
        )


def refuse_schedule(option: str, value: str) -> None:
    """Raise if the cron expression is not valid; GitHub silently ignores such a schedule."""
    wanted = "five fields as cron has them, such as '17 4 * * 1'"
    refuse_unlike(_CRON, option, value, wanted)
    for field, (low, high) in zip(value.split(" "), _RANGES, strict=True):
        # The number after a slash is a step, not a time.
        times = [int(number) for number in re.findall(r"(?<![/\d])\d+", field)]
        if any(not low <= time <= high for time in times) or re.search(r"/0*(?!\d)|[,/-]$|^[,/-]", field):
            raise InputError(f"{option} '{value}' is not valid at '{field}'", f"give {wanted}")
