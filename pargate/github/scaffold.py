"""The files of `init github` and `init gitlab`: a policy, and the jobs that judge the models by it.

The options become quoted YAML values that the workflows pass to the Action as inputs, never part of a script. Nothing
is executed or fetched. A file that pargate wrote carries the digest of its lines; if it still fits, the file is brought
up to date. An edited inventory and a policy are kept, and edited workflows stop everything, unless a flag says so.
A workflow also carries the options that it was made with; the next run keeps those that it is not given again.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pargate.errors import InputError
from pargate.files import readable, write_atomic
from pargate.github.actions import own, use
from pargate.github.repository import default_branch, refuse_elsewhere, refuse_links
from pargate.images.opening import kind_of, open_images
from pargate.images.paths import expand
from pargate.images.sources.scenes import BUILTIN_SCENES
from pargate.models.sources import parts
from pargate.policy.draft import draft
from pargate.policy.layers import BUILTIN, decode, shipped
from pargate.policy.print import scalar
from pargate.policy.resolve import WORKING_FILE, WORKING_FILES, Resolved, read, resolve
from pargate.version import __version__

if TYPE_CHECKING:
    from jinja2 import Environment


INVENTORY = "pargate-inventory.yaml"
GATE = ".github/workflows/pargate.yml"
AUDIT = ".github/workflows/pargate-audit.yml"
GITLAB, GITLAB_MAIN = ".gitlab/pargate.yml", ".gitlab-ci.yml"
ENVIRONMENT = "pargate-clean"
"""Environment in which the cleaning job waits for a reviewer; the template names it too."""

MARKER = "open_clip_config.json"
"""File in every open_clip folder."""

_REMOTE = ("hf-hub:", "open_clip:")
_ACTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+@[0-9a-f]{40}")
_STAMP = "# `pargate init` brings this file up to date while it is not edited. sha256 of the lines above: "
_OPTIONS = "# Options that the next run keeps: "
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
    comment: bool = False
    """Whether a job comments on pull requests."""
    shards: int = 1
    """Number of jobs that an audit's measurements are spread over."""


class Contents(NamedTuple):
    """What a repository gets."""

    texts: dict[str, str]
    """Text of each file by its path."""
    models: tuple[str, ...]
    """Models one by one; a path begins with `./`."""
    policy: Resolved
    """The policy that will be in force."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The files to write, and those that exist."""

    root: Path
    new: dict[str, bytes]
    """Files that do not exist."""
    same: tuple[str, ...]
    """Files that exist with the same content."""
    changed: dict[str, bytes]
    """Files that exist with other content and are replaced."""
    kept: tuple[str, ...]
    """Files that exist with other content and stay."""
    backups: dict[str, str]
    """New name of the old content of each replaced file that pargate did not write."""
    models: tuple[str, ...]
    """Models one by one; a path begins with `./`."""
    policy: Resolved
    """The policy that will be in force."""

    def write(self) -> None:
        """Write all files, and first the backups.

        Raises:
            OperationalError: a place cannot be written; each file is complete or unchanged.
        """
        old = {backup: (self.root / name).read_bytes() for name, backup in self.backups.items()}
        for name, content in {**old, **self.new, **self.changed}.items():
            place = self.root / name
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(place, content)


def plan(
    root: Path,
    options: Options,
    *,
    force: bool = False,
    replace_policy: bool = False,
    made: Callable[..., Contents] | None = None,
) -> Plan:
    """Compare the files for `options` with the repository at `root`; `made` makes them, by default for GitHub.

    `force` allows to replace workflows and an inventory that were edited, and `replace_policy` an existing policy.

    Raises:
        InputError: `root` is not the root of a repository, an option is not safe in a workflow, there is no model, a
            path passes a link, or workflows were edited and `force` is not given.
        PolicyError: the policy cannot be read.
    """
    refuse_elsewhere(root)
    texts, sources, policy = (made or contents)(root, options, replace_policy=replace_policy)
    new, same, changed, kept, edited, backups = {}, [], {}, [], [], {}
    for name, text in texts.items():
        refuse_links(root, name)
        content, place = text.encode(), root / name
        if not place.exists():
            new[name] = content
            continue
        if not place.is_file():
            raise InputError(f"{name} exists and is not a file", "move it away")
        old = place.read_bytes()
        own, allowed = unedited(old), replace_policy if name == WORKING_FILE else force
        if old == content:
            same.append(name)
        elif own or allowed:
            changed[name] = content
            if not own:
                backups[name] = _backup(root, name)
        elif name in (WORKING_FILE, INVENTORY):
            kept.append(name)
        else:
            edited.append(name)
    if edited:
        raise InputError(
            f"nothing was written: {', '.join(edited)} {'was' if len(edited) == 1 else 'were'} edited",
            "--force writes anew what was edited, and keeps the old text beside it as .bak",
        )
    return Plan(root, new, tuple(same), changed, tuple(kept), backups, sources, policy)


def stamped(text: str) -> str:
    """Return a text with a last line that holds the digest of the others."""
    return f"{text}{_STAMP}{hashlib.sha256(text.encode()).hexdigest()}\n"


def earlier(root: Path, name: str) -> dict[str, Any]:
    """Return the options that the workflow `name` keeps, by the names of `Options`; none without a workflow.

    Raises:
        InputError: the line of the options cannot be read.
    """
    from pydantic import TypeAdapter

    place = root / name
    text = place.read_text(encoding="utf-8", errors="replace") if place.is_file() else ""
    found = next((line.removeprefix(_OPTIONS) for line in text.splitlines() if line.startswith(_OPTIONS)), "{}")
    try:
        given = json.loads(found)
        if given.pop("version", __version__) != __version__:
            given.pop("action", None)  # another version's commit does not fit the workflows of this one
        read = TypeAdapter(Options).validate_python({"action": "", "branch": "", **given})
        return {key: getattr(read, key) for key in given}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{name}: the line of kept options cannot be read", "give all options and --reset") from error


def _kept(options: Options, inputs: dict[str, str], usual: dict[str, Any]) -> str:
    """Return the line of the options that the next run keeps: those that are not the default or `usual`.

    Images and classes that the policy names are the policy's to change.
    """
    defaults = {field.name: field.default for field in fields(Options)} | usual
    kept = {
        name: value
        for name, default in defaults.items()
        if (value := getattr(options, name)) != default and (name not in ("images", "classes") or name in inputs)
    }
    if "action" in kept:
        kept["version"] = __version__
    return f"{_OPTIONS}{json.dumps(kept)}\n" if kept else ""


def spelled(options: dict[str, Any]) -> str:
    """Return options by the names of `Options` as they are written on a command line."""
    names = {"models": "--model", "labels": "--gpu-labels", "shards": "--audit-shards"}
    words: list[str] = []
    for key, value in options.items():
        name = names.get(key, f"--{key}")
        if key == "models":
            words += [word for model in value for word in (name, model)]
        elif key == "comment":
            words.append(name if value else "--no-comment")
        else:
            words += [name, ",".join(value) if key == "labels" else str(value)]
    return shlex.join(words)


def unedited(content: bytes) -> bool:
    """Return whether `stamped` wrote this content, with the line ends of any system."""
    text, stamp, _ = content.replace(b"\r\n", b"\n").rpartition(_STAMP.encode())
    return bool(stamp) and stamped(text.decode(errors="replace")).encode() == content.replace(b"\r\n", b"\n")


def _backup(root: Path, name: str) -> str:
    """Return a free name beside a file."""
    number, backup = 2, f"{name}.bak"
    while (root / backup).exists() or (root / backup).is_symlink():
        number, backup = number + 1, f"{name}.bak{number}"
    return backup


class _Policy(NamedTuple):
    texts: dict[str, str]
    """Text of a new policy by its path; empty if there is one."""
    inputs: dict[str, str]
    """Policy, and the images and classes that it does not say."""
    resolved: Resolved


def _policy(root: Path, options: Options, *, replace_policy: bool) -> _Policy:
    """Return the policy in force, and what a job passes beside it.

    An existing pargate.yaml is used like a policy that is named, unless it is the one that would be written.
    """
    others = (name for name in WORKING_FILES if name != WORKING_FILE and (root / name).exists())
    named = options.policy or next(others, None)
    said = {key: value for key in ("images", "classes") if (value := getattr(options, key))}
    if named is not None:
        resolved = resolve(named if named in shipped() else str(root / named))
        return _Policy({}, {"policy": named, **said}, resolved)
    text = draft(root.resolve().name or "model", f"{BUILTIN}release", options.images, options.classes)
    there = root / WORKING_FILE
    kept = there.is_file() and not replace_policy and there.read_bytes() != text.encode()
    resolved = read(decode(there.read_bytes(), WORKING_FILE) if kept else text, WORKING_FILE, root)
    return _Policy({WORKING_FILE: text}, {"policy": WORKING_FILE, **(said if kept else {})}, resolved)


def contents(root: Path, options: Options, *, replace_policy: bool = False) -> Contents:
    """Return the text of each file for GitHub by its path under `root`, the models, and the policy in force.

    Raises:
        InputError: an option is not safe in a workflow, or there is no model.
        PolicyError: the policy cannot be read.
    """
    _check(root, options)
    repository, _, commit = options.action.partition("@")
    models = _models(root, options.models)
    sources = _sources(root, models)
    texts, inputs, resolved = _policy(root, options, replace_policy=replace_policy)
    policy = inputs["policy"]
    version = f" # written by pargate {__version__}"
    given = {"model": models, **{key: (value,) for key, value in inputs.items()}}
    environment = _environment(given, f"{options.action}{version}")
    made = {
        INVENTORY: environment.get_template("pargate-inventory.yaml.j2").render(
            models=_entries(root, sources),
            policy=scalar(policy if policy in shipped() else f"./{policy.removeprefix('./')}"),
            images=scalar(inputs["images"]) if "images" in inputs else None,
            classes=scalar(inputs["classes"]) if "classes" in inputs else None,
        ),
        GATE: environment.get_template("pargate.yml.j2").render(
            branch=scalar(options.branch),
            labels=f"[{', '.join(map(scalar, options.labels))}]" if options.labels else "",
            comment=options.comment,
        )
        + _kept(options, inputs, {"branch": default_branch(root), "action": own()}),
        AUDIT: environment.get_template("pargate-audit.yml.j2").render(
            branch=options.branch, schedule=scalar(options.schedule), repository=repository, commit=commit,
            version=version, shards=options.shards,
        ),
    }  # fmt: skip
    return Contents({**texts, **{name: stamped(text) for name, text in made.items()}}, sources, resolved)


def contents_of_gitlab(root: Path, options: Options, *, replace_policy: bool = False) -> Contents:
    """Return the text of each file for GitLab, as `contents`; an existing .gitlab-ci.yml of others is left out."""
    _check(root, options)
    sources = _sources(root, _models(root, options.models))
    texts, inputs, resolved = _policy(root, options, replace_policy=replace_policy)
    for name, value in (*(("--model", source) for source in sources), *inputs.items()):
        if "$" in value:  # GitLab would replace a variable's name
            raise InputError(f"{name} '{value}' holds a $, which GitLab would replace", "use a name without it")
    made = {
        GITLAB: _environment({}, options.action)
        .get_template("gitlab.yml.j2")
        .render(
            models=", ".join(map(scalar, sources)),
            variables=[(f"PARGATE_{key.upper()}", scalar(value)) for key, value in inputs.items()],
            version=__version__,
        )
        + _kept(options, inputs, {"branch": options.branch, "action": own()})
    }
    main = root / GITLAB_MAIN
    if not main.exists() or (main.is_file() and unedited(main.read_bytes())):
        made[GITLAB_MAIN] = f"include:\n  - local: {GITLAB}\n"
    return Contents({**texts, **{name: stamped(text) for name, text in made.items()}}, sources, resolved)


def lacks_images(root: Path, options: Options, policy: Resolved) -> bool:
    """Return whether neither the options nor the policy name labelled images of the models' own domain."""
    named = policy.beside(policy.policy.images.source) or BUILTIN_SCENES
    source = named if options.images is None else _place(root, options.images)
    return source == BUILTIN_SCENES or not _labelled(source)


def _place(root: Path, source: str) -> str:
    """Return a source of images in the repository at `root` as seen from here; the name of a hub stays."""
    return str(root / source) if kind_of(source) is None else source


def _labelled(source: str) -> bool:
    """Return whether a source of images has labels; those that are slow to open, of a hub or Parquet, count as such."""
    if kind_of(source) is not None:
        return True
    try:
        if any(path.suffix == ".parquet" or any(path.rglob("*.parquet")) for path in expand(source)):
            return True
        return any(item.label is not None for item in open_images(source).items())
    except InputError:  # an option was checked before; a policy may name what is not here
        return False


def _images_step(root: Path, options: Options, policy: Resolved) -> list[str]:
    """Return the step to give images, unless the options or the policy name labelled ones."""
    if not lacks_images(root, options, policy):
        return []
    return [
        "give labelled images of your models' own domain, and the class names: run again with --images SOURCE "
        f"--classes FILE, or set `images` and `classes` in {policy.source}; on drawn images most models of "
        "photos end inconclusive"
    ]


def steps_of_gitlab(root: Path, options: Options, policy: Resolved) -> list[str]:
    """Return what only the owner of a GitLab project can set, one sentence each."""
    main = root / GITLAB_MAIN
    included = main.is_file() and GITLAB in main.read_text(encoding="utf-8", errors="replace")
    return [
        *_images_step(root, options, policy),
        *([] if included or not main.exists() else [f"in {GITLAB_MAIN}, include the job: {{local: {GITLAB}}}"]),
        "commit these files, and require pipelines to succeed (Settings, Merge requests)",
        "in CODEOWNERS, list the owners of pargate.yaml and .gitlab*: a merge request could loosen its own policy",
    ]


def steps(root: Path, options: Options, policy: Resolved) -> list[str]:
    """Return what only the owner of a repository on GitHub can set, one sentence each."""
    said = _images_step(root, options, policy)
    said += [
        "commit these files, and require the status check `pargate` for the default branch (Settings, Rules)",
        "in CODEOWNERS, list the owners of pargate*.yaml and .github: a pull request could loosen its own policy",
        "switch on code scanning, or remove the job `sarif` (private repositories need GitHub Code Security)",
        "attestations of a private repository need GitHub Enterprise Cloud; without it remove the job `attest`",
        f"name the owners in {INVENTORY}; only the audit should write to the branch `pargate-ledger`",
    ]
    if options.labels:
        said.append(
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
    if options.images is not None:
        _refuse_images(root, options.images)
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


def _refuse_images(root: Path, source: str) -> None:
    """Raise if a source of images is not here; a name on a hub is not looked up."""
    try:
        if kind_of(source) is None:
            expand(_place(root, source))
    except InputError as error:
        raise InputError(f"--images {source}: {error.message}", error.hint) from error


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
        for part in parts(model, root):
            if not part.startswith(_REMOTE):
                refuse_outside("--model", part)
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


def _sources(root: Path, models: Sequence[str]) -> tuple[str, ...]:
    """Return the models one by one, paths as `./model`."""
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
            base = parts(model, root)[0]
            if not (root / base).exists() and not (root / base.partition("#")[0]).exists():
                raise InputError(f"--model {model}: there is no such file or folder", "give a model that exists")
            sources.append("./" if model == "." else f"./{model.removeprefix('./')}")
    return tuple(dict.fromkeys(sources))


def _entries(root: Path, sources: Sequence[str]) -> list[_Entry]:
    """Return the entries of the inventory, each with a unique name."""
    entries: dict[str, _Entry] = {}
    for source in sources:
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
