"""From a policy's name or path to a `Policy`: finds the text, reads it, and says all that is wrong at once."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from pargate.errors import PolicyError, nearest
from pargate.files import digest_of
from pargate.policy.schema import Policy, Rule
from pargate.policy.yaml import Document, parse
from pargate.policy.yaml import Path as KeyPath

WORKING_FILE = "pargate.yaml"

DEFAULT = "baseline"


@dataclass(frozen=True, slots=True)
class Resolved:
    """A policy, and what it was read from."""

    policy: Policy
    source: str
    folder: Path
    """Paths in the policy are relative to it."""
    document: Document
    sha256: str
    """Digest of the resolved policy."""


def shipped() -> dict[str, str]:
    """Text of every built-in policy, by name."""
    packed = resources.files("pargate") / "_policies"
    folder = packed if packed.is_dir() else Path(__file__).parents[2] / "policies"  # a checkout has them beside
    found = {}
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".yaml"):
            found[entry.name.removesuffix(".yaml")] = entry.read_text(encoding="utf-8")
    return found


def resolve(name: str | None) -> Resolved:
    """Read the policy called `name`: a path, or a built-in; None takes `pargate.yaml` here, or the default.

    Raises:
        PolicyError: there is none, or it is invalid; the message holds every problem with its place.
    """
    if name is None:
        name = WORKING_FILE if Path(WORKING_FILE).is_file() else DEFAULT
    builtin = shipped()
    key = name.removeprefix("builtin:")
    if key in builtin and not Path(name).is_file():
        return read(builtin[key], f"builtin:{key}", Path())
    path = Path(name)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise PolicyError(
            f"no such policy: {name}.{nearest(key, list(builtin))}",
            f"give a path, or one of {', '.join(builtin)}",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise PolicyError(f"cannot read the policy '{name[:80]}': {reason}", "give the path of a YAML file") from error
    return read(text, str(path), path.parent)


def read(text: str, source: str, folder: Path) -> Resolved:
    """Read a policy from its text.

    Raises:
        PolicyError: it is invalid.
    """
    document = parse(text, source)
    try:
        policy = Policy.model_validate(document.data)
    except ValidationError as error:
        problems = sorted({_problem(document, item) for item in _primary([dict(e) for e in error.errors()])})
        raise PolicyError("\n".join(text for _, text in problems)) from error
    return Resolved(policy, source, folder, document, digest_of(policy.model_dump(mode="json")))


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


def _problem(document: Document, error: dict[str, Any]) -> tuple[tuple[int, int], str]:
    """One validation error with its place in the text; sorts by place."""
    path: KeyPath = tuple(part for part in error["loc"] if part != "function-before")
    message = WORDS.get(error["type"], str(error["msg"]).removeprefix("Value error, "))
    cause = error.get("ctx", {}).get("error")
    key = getattr(cause, "key", None)
    if key:
        path = _find_key(document, path, key)
    if error["type"] == "extra_forbidden":
        message = f"unknown key '{path[-1]}'.{nearest(str(path[-1]), _keys_at(path[:-1]))}"
    elif error["type"] == "missing":
        message = f"the key '{path[-1]}' is missing"
    while path and path not in document.marks:
        path = path[:-1]
    mark = document.mark(path)
    return (mark.line, mark.column), document.complaint(path, message)


def _find_key(document: Document, path: KeyPath, key: str) -> KeyPath:
    """The mark below `path` whose last part is `key`, if there is exactly one."""
    below = [p for p in document.marks if p[: len(path)] == path and p[-1:] == (key,)]
    return below[0] if len(below) == 1 else path


def _keys_at(path: KeyPath) -> list[str]:
    """Names of the fields that a path into a policy offers."""
    model: type[BaseModel] = Policy
    for part in path:
        if part == "rules":
            model = Rule
        elif isinstance(part, str) and part in model.model_fields:
            annotation = model.model_fields[part].annotation
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                model = annotation
    return list(model.model_fields)
