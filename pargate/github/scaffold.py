"""The gate in somebody's repository: a policy, an inventory and two workflows, from a few options.

What the options say ends up as values of YAML, quoted where YAML could take them for something else, and never inside
a script: the workflows hand them to the action as inputs. Nothing is executed and nothing is fetched. A file that is
there already and differs is never replaced unless that was asked for, and then nothing is written at all.
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
"""Where the cleaning job waits for a reviewer; the template names it too."""

MARKER = "open_clip_config.json"
"""What a folder that open_clip reads as a model has in it."""

_REMOTE = ("hf-hub:", "open_clip:")
_ACTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+@[0-9a-f]{40}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_BRANCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody asks for, as it was typed."""

    action: str
    """OWNER/REPO@COMMIT of the pargate that the workflows run."""
    branch: str
    """The default branch: its pushes are released, and the audit runs on it."""
    models: tuple[str, ...] = ()
    """Paths and globs inside the repository, or references to a hub; empty: those that are found."""
    policy: str | None = None
    """A policy that is there, or the name of a shipped one; None: one is written."""
    images: str | None = None
    classes: str | None = None
    labels: tuple[str, ...] = ()
    """Of the runner with a GPU; empty: nothing is ever cleaned."""
    schedule: str = "17 4 * * 1"
    """Of the audit, as cron writes it, in UTC."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be written, and what is there already."""

    root: Path
    new: dict[str, bytes]
    """Files that are not there."""
    same: tuple[str, ...]
    """Files that are there, to the byte."""
    changed: dict[str, bytes]
    """Files that are there with another content."""

    def write(self) -> None:
        """Write all of it.

        Raises:
            OperationalError: a place cannot be written; each file is complete or as it was.
        """
        for name, content in {**self.new, **self.changed}.items():
            place = self.root / name
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(place, content)


def plan(root: Path, wish: Wish, *, force: bool, keep: bool) -> Plan:
    """What `wish` asks for in the repository at `root`, compared with what is there.

    `force` allows to replace files; `keep` leaves a policy and an inventory that are there as they are.

    Raises:
        InputError: not the root of a git repository, a value that has no place in a workflow, no model, a link where a
            file is to be, or files that differ and may not be replaced.
        PolicyError: the policy cannot be read.
    """
    refuse_elsewhere(root)
    texts = texts_of(root, wish)
    new, same, changed = {}, [], {}
    for name, text in texts.items():
        refuse_links(root, name)
        content, place = text.encode(), root / name
        if not place.exists():
            new[name] = content
        elif not place.is_file():
            raise InputError(f"{name} is there and is no file", "move it away")
        elif place.read_bytes() == content or (keep and name in (WORKING_FILE, INVENTORY)):
            same.append(name)
        else:
            changed[name] = content
    if changed and not force:
        raise InputError(
            f"nothing was written: {', '.join(changed)} would change",
            "replace with --force what is named; --keep leaves the policy and the inventory as they are",
        )
    return Plan(root, new, tuple(same), changed)


def texts_of(root: Path, wish: Wish) -> dict[str, str]:
    """Every file by its place under `root`.

    Raises:
        InputError: a value that has no place in a workflow, or no model.
        PolicyError: the policy cannot be read.
    """
    _check(root, wish)
    repository, _, commit = wish.action.partition("@")
    models = _models(root, wish.models)
    texts = {}
    inputs = {"model": models}
    if wish.policy is None:
        name = root.resolve().name or "model"
        for other in WORKING_FILES:
            if other != WORKING_FILE and (root / other).exists():
                raise InputError(
                    f"{other} is there, and a second policy in one folder is an error", f"name it: --policy {other}"
                )
        text = draft(name, f"{BUILTIN}release", wish.images, wish.classes)
        read(text, WORKING_FILE, root)
        texts[WORKING_FILE] = text
        inputs["policy"] = (WORKING_FILE,)
    else:
        inputs |= {key: (value,) for key in ("policy", "images", "classes") if (value := getattr(wish, key))}
    policy = inputs["policy"][0]
    version = f" # written by pargate {__version__}"
    environment = _environment(inputs, f"{wish.action}{version}")
    texts[INVENTORY] = environment.get_template("pargate-inventory.yaml.j2").render(
        models=_entries(root, models),
        policy=scalar(policy if policy in shipped() else f"./{policy.removeprefix('./')}"),
        images=scalar(wish.images) if wish.policy and wish.images else None,
        classes=scalar(wish.classes) if wish.policy and wish.classes else None,
    )
    texts[GATE] = environment.get_template("pargate.yml.j2").render(
        branch=scalar(wish.branch), labels=f"[{', '.join(map(scalar, wish.labels))}]" if wish.labels else ""
    )
    texts[AUDIT] = environment.get_template("pargate-audit.yml.j2").render(
        branch=wish.branch, schedule=scalar(wish.schedule), repository=repository, commit=commit, version=version
    )
    return texts


def steps(wish: Wish) -> list[str]:
    """What only the owner of the repository can set, one sentence each."""
    said = [
        "commit these files, and require the status check `pargate` for the default branch (Settings, Rules)",
        "let CODEOWNERS name who may change pargate*.yaml and .github: a pull request could loosen its own policy",
        "switch on code scanning, or remove the job `sarif` (private repositories need GitHub Code Security)",
        "attestations of a private repository need GitHub Enterprise Cloud; without it remove the job `attest`",
        f"name the owners in {INVENTORY}; the audit makes the branch `pargate-ledger`, which nothing else should write",
    ]
    if wish.labels:
        said.insert(
            1,
            f"make the environment `{ENVIRONMENT}` with required reviewers, for the default branch alone, and a runner "
            f"with the labels {', '.join(wish.labels)} that takes one job and is thrown away",
        )
    return said


# --- values ---------------------------------------------------------------------------------------------


def _check(root: Path, wish: Wish) -> None:
    if not _ACTION.fullmatch(wish.action):
        raise InputError(
            f"'{readable(wish.action)}' does not name a commit", "write --action OWNER/REPO@COMMIT, 40 digits"
        )
    for option, value in (("--policy", wish.policy), ("--images", wish.images), ("--classes", wish.classes)):
        if value is not None:
            refuse_hostile(option, value)
    if wish.classes is not None:
        refuse_outside("--classes", wish.classes)
        refuse_absent(root, "--classes", wish.classes)
    if wish.policy is not None and wish.policy not in shipped():
        refuse_outside("--policy", wish.policy)
        refuse_absent(root, "--policy", wish.policy)
    for label in wish.labels:
        refuse_unlike(_LABEL, "--gpu-labels", label, "letters, digits, dots and dashes; commas between labels")
    refuse_unlike(_BRANCH, "--branch", wish.branch, "the name of a branch")
    refuse_schedule("--schedule", wish.schedule)


def _environment(inputs: dict[str, tuple[str, ...]], action: str) -> "Environment":
    """The templates, with delimiters that neither GitHub nor a shell uses."""
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
    """Inputs of the action, as lines of `with:`."""
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
        raise InputError(
            f"no folder with {MARKER} is in this repository", "name the model: --model PATH, GLOB or hf-hub:…"
        )
    return tuple(dict.fromkeys(models))


def _found(root: Path) -> list[str]:
    """Folders that open_clip reads as models, at most three deep, hidden ones left out."""
    found = {path.parent.relative_to(root) for depth in range(4) for path in root.glob("*/" * depth + MARKER)}
    return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    source: str


def _entries(root: Path, models: Sequence[str]) -> list[_Entry]:
    """Models as the inventory lists them: one by one, each with a name of its own."""
    sources: list[str] = []
    for model in models:
        if model.startswith(_REMOTE):
            sources.append(model)
        elif any(sign in model for sign in "*?["):
            matched = sorted(path.relative_to(root).as_posix() for path in root.glob(model))
            for path in matched:
                refuse_hostile("--model", path)
            if not matched:
                raise InputError(f"--model {model} matches nothing yet", "name a model that is there")
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
