"""From a policy's name or path to a `Policy`: finds the text, reads it, and says all that is wrong at once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from pargate.core.report import Place, PolicyInfo
from pargate.core.results import Consequence, Remark
from pargate.errors import PolicyError, nearest
from pargate.files import digest_of, portable, read_bytes, readable
from pargate.policy.compare import Change, changes
from pargate.policy.layers import Layered, Reader, Step, decode, load, locate
from pargate.policy.schema import Policy
from pargate.policy.yaml import Path as KeyPath

WORKING_FILE = "pargate.yaml"

WORKING_FILES = (WORKING_FILE, "pargate.yml")
"""Names under which a policy is found where none is named."""

DEFAULT = "baseline"

PROBLEMS = 100
"""Most problems that are looked at: naming what was meant takes time for each."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A policy, and what it was read from."""

    policy: Policy
    source: str
    folder: Path
    """Paths in the policy are relative to it."""
    sha256: str
    """Digest of the resolved policy."""
    origins: dict[str, Place]
    """Where each value was written; defaults are missing."""
    overrides: tuple[Remark, ...]
    """What is looser than in a policy that it extends, and the reason given for it."""
    remark: str = ""
    """What to say where none was named and none found."""

    def info(self) -> PolicyInfo:
        """The policy as a report holds it."""
        return PolicyInfo(
            name=self.policy.name,
            source=self.source,
            place=readable(portable(self.source)),
            sha256=self.sha256,
            document=self.policy.model_dump(mode="json"),
            origins=self.origins,
        )


def resolve(name: str | None, reader: Reader = read_bytes) -> Resolved:
    """Read the policy called `name`: a path, or a built-in; None takes what `discover` finds, or the default.

    Raises:
        PolicyError: there is none, or it is invalid; the message holds every problem with its place.
    """
    found = discover(reader) if name is None else name
    source, content, folder = locate(DEFAULT if found is None else found, reader)
    resolved = read(decode(content, source), source, folder, reader)
    if found is not None:
        return resolved
    above = ", nor in those above it up to the root of the repository" if len(searched()) > 1 else ""
    return replace(
        resolved,
        remark=f"the built-in policy {DEFAULT} decides, since no {' or '.join(WORKING_FILES)} is in this folder{above}",
    )


def discover(reader: Reader = read_bytes) -> str | None:
    """Return the path of the policy in this folder, or in the nearest one above it in the same repository.

    Raises:
        PolicyError: two lie in one folder.
    """
    for folder in searched():
        found = [str(folder / name) for name in WORKING_FILES if _is_there(folder / name, reader)]
        if len(found) > 1:
            raise PolicyError(f"{' and '.join(found)} are both there", "remove one of them, or name one with --policy")
        if found:
            return found[0]
    return None


def searched() -> list[Path]:
    """Return the folders that may hold the policy: this one and, in a repository, those above it up to its root."""
    here = Path.cwd()
    for height, folder in enumerate((here, *here.parents)):
        if (folder / ".git").exists():
            return [Path(*[".."] * up) for up in range(height + 1)]
    return [Path()]


def _is_there(path: Path, reader: Reader) -> bool:
    try:
        reader(path)
    except FileNotFoundError:
        # A link to nowhere is a policy that cannot be read, not one that nobody wrote.
        return path.is_symlink()
    except OSError:
        pass  # said by whoever reads it next
    return True


def read(text: str, source: str, folder: Path, reader: Reader = read_bytes) -> Resolved:
    """Read a policy from its text, and what it extends from `reader`.

    Raises:
        PolicyError: it is invalid, or looser than a policy that it extends without saying why.
    """
    layer = load(text, source, folder, reader)
    # The whole first: what is wrong in a parent shows in the child as well, and is said once.
    policy = _validate(layer.merged)
    overrides = [remark for step in layer.steps for remark in _tightened(step)]
    return Resolved(
        policy, source, folder, digest_of(policy.model_dump(mode="json")), _origins(layer.merged), tuple(overrides)
    )


def refuse_expired(resolved: Resolved, today: date) -> None:
    """Refuse a policy that somebody should have looked at again by now.

    Raises:
        PolicyError: its last day is over.
    """
    if resolved.policy.expired(today):
        place = resolved.origins.get("valid_until")
        where = f"{place.file}:{place.line}:{place.column}" if place else resolved.source
        raise PolicyError(
            f"{where}: the policy {resolved.policy.name} was valid until {resolved.policy.valid_until}",
            "review it, and move `valid_until` if it still says what is wanted",
        )


# --- validation --------------------------------------------------------------------------------------


def _validate(merged: Layered) -> Policy:
    try:
        return Policy.model_validate(merged.data)
    except ValidationError as error:
        errors = [dict(e) for e in error.errors(include_url=False)]
        problems = sorted({_problem(merged, item) for item in _primary(errors[:PROBLEMS])})
        more = [f"and {len(errors) - PROBLEMS} more"] if len(errors) > PROBLEMS else []
        raise PolicyError([*(line for _, said in problems for line in said), *more]) from error


WORDS = {
    "tuple_type": "a list is needed here",
    "dict_type": "a mapping of keys is needed here",
    "model_type": "a mapping of keys is needed here",
    "string_type": "a text is needed here",
    "too_short": "at least one is needed here",
    "string_too_short": "at least one letter is needed here",
    "string_pattern_mismatch": "an id begins with a letter or digit, and goes on with these, dot, dash or underscore",
}
"""What pydantic says in its own words, in ours."""


def _primary(errors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without those that only follow from others: a list counts as too short when its items are refused."""
    return [
        e
        for e in errors
        if e["type"] != "too_short" or not any(o is not e and o["loc"][: len(e["loc"])] == e["loc"] for o in errors)
    ]


def _problem(merged: Layered, error: dict[str, Any]) -> tuple[tuple[str, int, int], tuple[str, ...]]:
    """One validation error with its place in the text; sorts by place."""
    path: KeyPath = tuple(part for part in error["loc"] if part != "function-before")
    message = WORDS.get(error["type"], str(error["msg"]).removeprefix("Value error, "))
    if error["type"] == "string_pattern_mismatch" and path[-1:] == ("max_age",):
        message = "write a number of days, such as 30d"
    cause = error.get("ctx", {}).get("error")
    key = getattr(cause, "key", None)
    if key:
        path = _find_key(merged, path, key)
    if error["type"] == "extra_forbidden":
        message = f"unknown key '{path[-1]}'.{nearest(str(path[-1]), _keys_at(path[:-1]))}"
    elif error["type"] == "missing":
        message = f"the key '{path[-1]}' is missing"
    return _complain(merged, path, message)


def _complain(merged: Layered, path: KeyPath, message: str) -> tuple[tuple[str, int, int], tuple[str, ...]]:
    found = merged.find(path)
    if found is None:
        return ("", 0, 0), (message,)
    document, at = found
    mark = document.mark(at)
    return (document.name, mark.line, mark.column), document.complaint(at, message)


def _find_key(merged: Layered, path: KeyPath, key: str) -> KeyPath:
    """The mark below `path` whose last part is `key`, if there is exactly one."""
    below = [p for p in merged.paths() if p[: len(path)] == path and p[-1:] == (key,)]
    return below[0] if len(below) == 1 else path


def _keys_at(path: KeyPath) -> list[str]:
    """Names of the fields that a path into a policy offers."""
    model: type[BaseModel] = Policy
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, be it in a tuple or beside None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


# --- extending ---------------------------------------------------------------------------------------


def _tightened(step: Step) -> list[Remark]:
    """The overrides of one step; anything looser without one is an error that names parent and value."""
    old, new = _validate(step.before), _validate(step.after)
    # Waivers are no part of this: the parent says which rules may be waived, and for how long.
    loosened = [c for c in changes(old, new) if c.direction == "looser" and c.key[0] != "waivers"]
    reasons = {rule.id: rule.override for rule in new.rules}
    problems, overrides = [], []
    for change in loosened:
        reason = reasons.get(str(change.key[1]), "") if change.key[0] == "rules" else new.override
        said = f"{change.name} is {change.new or 'gone'} here, and {change.old or 'not set'} in {step.parent}"
        if reason:
            overrides.append(
                Remark(
                    id="policy-override",
                    level=Consequence.WARN,
                    message=f"{said}; the reason given is: {reason}",
                    key=change.name,
                )
            )
        else:
            message = f"{said}: a policy may only tighten what it extends; write `override: reason` to loosen it openly"
            problems.append(_complain(step.after, _path_of(change, step.after), message))
    if problems:
        raise PolicyError([line for _, said in sorted(set(problems)) for line in said])
    return overrides


def _path_of(change: Change, merged: Layered) -> KeyPath:
    """The path into the data of what changed; rules are counted there, not named."""
    if change.key[0] != "rules":
        return change.key
    ids = [rule.get("id") for rule in merged.data["rules"]]
    return ("rules", ids.index(change.key[1]), *change.key[2:])


def _origins(merged: Layered) -> dict[str, Place]:
    ids = [rule["id"] for rule in merged.data["rules"]]
    found = {}
    for path in merged.paths():
        place = merged.place(path)
        if place is not None and path and not _within_trigger(path):
            named: Sequence[str | int] = path
            if path[0] == "rules" and len(path) > 1:
                named = ("rules", ids[int(path[1])], *path[2:])
            found[".".join(map(str, named))] = place
    return found


def _within_trigger(path: KeyPath) -> bool:
    return len(path) > 4 and path[0] == "rules" and path[2] == "triggers"
