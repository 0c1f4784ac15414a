"""The inventory of an audit: its models, with their policies, owners and cadence.

The file follows the YAML rules of a policy (`policy/yaml.py`), and one error reports all problems with their places.
Paths are relative to the inventory. Names are foreign text, so the folder of a model is named by a slug.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from pargate.errors import InputError, PolicyError, nearest
from pargate.files import read_bytes, refuse_pointer
from pargate.models.located import HUB_PREFIXES
from pargate.models.sources import SEPARATOR, divided
from pargate.policy.fields import PolicyModel, Word, Words
from pargate.policy.layers import shipped
from pargate.policy.resolve import WORDS
from pargate.policy.yaml import Document, parse
from pargate.policy.yaml import Path as KeyPath

DEFAULT_POLICY = "audit"

_SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,59}")

PathOrHub = Annotated[str, Field(min_length=1, max_length=4096)]
"""A path, or the name of a model on a hub."""

Cadence = Annotated[str, Field(pattern=r"^[1-9]\d{0,3}d$")]


class Settings(PolicyModel):
    """Settings of one model, or defaults of all models."""

    policy: PathOrHub | None = None
    owner: Word | None = None
    cadence: Cadence | None = None
    images: PathOrHub | None = None
    classes: PathOrHub | None = None


class Listed(Settings):
    """One model as the file lists it."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    model: PathOrHub
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")] | None = None
    arch: Word | None = None
    reference: PathOrHub | None = None
    tags: Words = ()


class _Document(PolicyModel):
    inventory: Literal["1"]
    defaults: Settings = Settings()
    models: Annotated[tuple[Listed, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of an inventory, with the paths that a scan takes."""

    name: str
    slug: str
    """Name of its folder, unique also on file systems that ignore case."""
    source: str
    policy: str
    owner: str
    tags: tuple[str, ...]
    cadence_days: int | None
    images: str | None
    classes: Path | None
    arch: str | None
    reference: str | None


@dataclass(frozen=True, slots=True)
class Inventory:
    """The models that an audit goes through."""

    source: str
    sha256: str
    models: tuple[Entry, ...]


def load(path: Path) -> Inventory:
    """Read an inventory.

    Raises:
        InputError: the file is missing or invalid; the message lists every problem with its place.
    """
    hint = "docs/audit.md shows an inventory"
    try:
        content = read_bytes(path)
        refuse_pointer(str(path), content)
        document = parse(content.decode("utf-8-sig"), str(path), "inventory", "inventory: 1")
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read the inventory {path}: not UTF-8 text", "save it as UTF-8") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise InputError(f"cannot read the inventory {path}: {reason}", hint) from error
    except PolicyError as error:
        raise InputError(error.lines, error.hint or hint) from error
    problems = list(_doubled(document))
    found = None
    try:
        found = _Document.model_validate(document.data)
    except ValidationError as error:
        problems += [_problem(document, dict(item)) for item in error.errors()]
    else:
        problems += _ill_named(document, found)
    if problems or found is None:
        raise InputError([line for _, said in sorted(set(problems)) for line in said], hint)
    return Inventory(
        str(path),
        hashlib.sha256(content).hexdigest(),
        tuple(_entry(listed, found.defaults, path.parent) for listed in found.models),
    )


Problem = tuple[tuple[int, int], tuple[str, ...]]


def _complain(document: Document, path: KeyPath, message: str) -> Problem:
    mark = document.mark(path)
    return (mark.line, mark.column), document.complaint(path, message)


def _doubled(document: Document) -> Iterator[Problem]:
    """Yield a problem for each name that is used twice, or whose folder is that of another name."""
    models = document.data.get("models")
    seen: dict[str, int] = {}
    for number, entry in enumerate(models if isinstance(models, list) else []):
        name = entry.get("name") if isinstance(entry, dict) else None
        if isinstance(name, str) and seen.setdefault(slug(name), number) != number:
            first = document.mark(("models", seen[slug(name)], "name")).line
            yield _complain(document, ("models", number, "name"), f"the name '{name}' is already used in line {first}")


def _ill_named(document: Document, found: _Document) -> Iterator[Problem]:
    for number, listed in enumerate(found.models):
        if listed.revision is not None and (not listed.model.startswith("hf-hub:") or set("@+") & set(listed.model)):
            message = "a revision is for hf-hub:ORG/NAME without @REV"
            yield _complain(document, ("models", number, "revision"), message)


def _problem(document: Document, error: dict[str, Any]) -> Problem:
    path: KeyPath = tuple(part for part in error["loc"] if not str(part).startswith("function-"))
    last = str(path[-1]) if path else ""
    message = WORDS.get(error["type"], str(error["msg"]).removeprefix("Value error, "))
    if error["type"] == "extra_forbidden":
        kinds: dict[str, type[PolicyModel]] = {"models": Listed, "defaults": Settings}
        known = kinds.get(str(path[0]), _Document) if len(path) > 1 else _Document
        message = f"unknown key '{last}'.{nearest(last, list(known.model_fields))}"
    elif error["type"] == "missing":
        message = f"the key '{last}' is missing"
    elif error["type"] == "literal_error" and last == "inventory":
        message = "this pargate reads inventories of version 1: write `inventory: 1`"
    elif last == "cadence":
        message = "write a number of days, such as 30d"
    elif last == "revision":
        message = "a revision is a commit, a tag or a branch"
    return _complain(document, path, message)


def _entry(listed: Listed, defaults: Settings, folder: Path) -> Entry:
    def chosen(name: str) -> str | None:
        value = getattr(listed, name) or getattr(defaults, name)
        return None if value is None else str(value)

    policy = chosen("policy") or DEFAULT_POLICY
    if policy.removeprefix("builtin:") not in shipped():
        policy = str(folder / policy)
    cadence, classes, images = chosen("cadence"), chosen("classes"), chosen("images")
    return Entry(
        name=listed.name,
        slug=slug(listed.name),
        source=_beside(folder, listed.model) + (f"@{listed.revision}" if listed.revision else ""),
        policy=policy,
        owner=chosen("owner") or "",
        tags=listed.tags,
        cadence_days=int(cadence.removesuffix("d")) if cadence else None,
        images=_beside(folder, images) if images else None,
        classes=folder / classes if classes else None,
        arch=listed.arch,
        reference=_beside(folder, listed.reference) if listed.reference else None,
    )


def _beside(folder: Path, source: str) -> str:
    """Resolve a path relative to the inventory; names of a hub and built-in sources stay."""
    if parts := divided(source, folder):
        return SEPARATOR.join(_beside(folder, part) for part in parts)
    return source if source.startswith((*HUB_PREFIXES, "builtin:")) else str(folder / source)


def slug(name: str) -> str:
    """Return a readable and safe folder name for a model's name; different names get different slugs."""
    if _SLUG.fullmatch(name) and not name.endswith("."):
        return name
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "model"
    return f"{words}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"
