"""Reading of a policy by name or path, with all its errors in one message."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from pargate.core.report import PolicyInfo, SourceSpan
from pargate.core.results import Consequence, Remark
from pargate.errors import PolicyError, nearest
from pargate.files import digest_of, portable, read_bytes, readable
from pargate.models.sources import SEPARATOR, divided
from pargate.policy.compare import Change, changes
from pargate.policy.layers import Layered, Reader, Step, decode, load, locate
from pargate.policy.packs import unpacked
from pargate.policy.schema import Policy
from pargate.policy.yaml import Path as KeyPath

WORKING_FILE = "pargate.yaml"

WORKING_FILES = (WORKING_FILE, "pargate.yml")
"""Names of policy files that are found by themselves."""

DEFAULT = "baseline"

PROBLEMS = 100
"""Most problems that are shown; suggesting a correction for each takes time."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A policy and its origin."""

    policy: Policy
    source: str
    folder: Path
    """Folder that paths in the policy are relative to."""
    sha256: str
    """Digest of the resolved policy."""
    origins: dict[str, SourceSpan]
    """Place of each value in its text, without defaults."""
    overrides: tuple[Remark, ...]
    """Remarks about values that are looser than in a parent, with the reasons given."""
    remark: str = ""
    """Remark that the built-in default applies, if no policy was named or found."""

    def beside(self, source: str | None) -> str | None:
        """Return a path in the policy as relative to its folder; keep schemes such as `builtin:`."""
        if source is not None and (parts := divided(source, self.folder)):
            return SEPARATOR.join(str(self.beside(part)) for part in parts)
        return source if source is None or ":" in source else str(self.folder / source)

    def info(self) -> PolicyInfo:
        """Return the policy as a report holds it."""
        return PolicyInfo(
            name=self.policy.name,
            source=self.source,
            place=readable(portable(self.source)),
            sha256=self.sha256,
            document=self.policy.model_dump(mode="json"),
            origins=self.origins,
        )


def resolve(name: str | None, reader: Reader = read_bytes) -> Resolved:
    """Read a policy by path or built-in name; without a name, the one that `discover` finds, or the default.

    Raises:
        PolicyError: there is no such policy, or it is invalid; the message names every problem with its place.
    """
    found = discover(reader) if name is None else name
    source, content, folder = locate(DEFAULT if found is None else found, reader)
    resolved = read(decode(content, source), source, folder, reader)
    if found is not None:
        return resolved
    above = ", nor in those above it up to the root of the repository" if len(searched()) > 1 else ""
    return replace(
        resolved,
        remark=f"the built-in policy {DEFAULT} applies: there is no {' or '.join(WORKING_FILES)} in this folder{above}",
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
        # A broken link is an unreadable policy, not a missing one.
        return path.is_symlink()
    except OSError:
        pass  # reading the policy raises it again
    return True


def read(text: str, source: str, folder: Path, reader: Reader = read_bytes) -> Resolved:
    """Read a policy from its text, and its parents through `reader`.

    Raises:
        PolicyError: the policy is invalid, or looser than a parent without an `override`.
    """
    layer = load(text, source, folder, reader)
    # The whole is validated first, so that an error of a parent is reported once.
    merged = unpacked(layer.merged, folder, reader)
    policy = _validate(merged)
    overrides = [remark for step in layer.steps for remark in _tightened(step, reader)]
    return Resolved(
        policy, source, folder, digest_of(policy.model_dump(mode="json")), _origins(merged), tuple(overrides)
    )


def refuse_expired(resolved: Resolved, today: date) -> None:
    """Refuse a policy after its last day.

    Raises:
        PolicyError: `valid_until` is over.
    """
    if resolved.policy.expired(today):
        place = resolved.origins.get("valid_until")
        where = f"{place.file}:{place.line}:{place.column}" if place else resolved.source
        raise PolicyError(
            f"{where}: the policy {resolved.policy.name} was valid until {resolved.policy.valid_until}",
            "review the policy, then move `valid_until`",
        )


def refuse_pairs(resolved: Resolved) -> None:
    """Refuse a policy about training pairs where a model is judged.

    Raises:
        PolicyError: as above.
    """
    if rule := resolved.policy.pairs_rule:
        raise PolicyError(
            f"the policy {resolved.policy.name} is about training pairs (rule {rule.id}), not about a model",
            f"judge pairs by it: pargate screen PAIRS --model MODEL --policy {readable(portable(resolved.source))}",
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
"""Messages by pydantic's error type."""


def _primary(errors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drop errors that follow from others: a list counts as too short if its items are refused."""
    return [
        e
        for e in errors
        if e["type"] != "too_short" or not any(o is not e and o["loc"][: len(e["loc"])] == e["loc"] for o in errors)
    ]


def _problem(merged: Layered, error: dict[str, Any]) -> tuple[tuple[str, int, int], tuple[str, ...]]:
    """Return the place of a validation error, to sort by, and its message."""
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
    """Return the only path below `path` that ends with `key`; `path` itself if there is none or several."""
    below = [p for p in merged.paths() if p[: len(path)] == path and p[-1:] == (key,)]
    return below[0] if len(below) == 1 else path


def _keys_at(path: KeyPath) -> list[str]:
    """Return the names of the fields at a path of a policy."""
    model: type[BaseModel] = Policy
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model in an annotation, also inside a tuple or union; None without one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


# --- extending ---------------------------------------------------------------------------------------


def _tightened(step: Step, reader: Reader) -> list[Remark]:
    """Return the overrides of one step.

    Raises:
        PolicyError: a value is looser than in the parent, without an `override`.
    """
    before, after = (unpacked(merged, step.folder, reader) for merged in (step.before, step.after))
    old, new = _validate(before), _validate(after)
    # Waivers are not compared: the parent says which rules may be waived, and for how long.
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
            problems.append(_complain(after, _path_of(change, after), message))
    if problems:
        raise PolicyError([line for _, said in sorted(set(problems)) for line in said])
    return overrides


def _path_of(change: Change, merged: Layered) -> KeyPath:
    """Return the path of a change in the data, where rules have numbers instead of ids."""
    if change.key[0] != "rules":
        return change.key
    ids = [rule.get("id") for rule in merged.data["rules"]]
    return ("rules", ids.index(change.key[1]), *change.key[2:])


def _origins(merged: Layered) -> dict[str, SourceSpan]:
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
