"""Merging of policies that extend others, as data, before validation.

This module finds the files of `extends` and `waivers_file`, and keeps the place of every value in its text.
"""

import hashlib
import os
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from pargate import git, limits
from pargate.core.report import SourceSpan
from pargate.errors import PargateError, PolicyError, nearest
from pargate.files import LFS
from pargate.policy.yaml import Document, parse
from pargate.policy.yaml import Path as KeyPath
from pargate.triggers import TRIGGERS

BUILTIN = "builtin:"

Reader = Callable[[Path], bytes]
"""Function that returns the content of a file, or raises OSError."""

_OWN = ("pargate", "extends", "override", "name", "description", "tests")
"""Keys that policies do not inherit."""

_SECTIONS = ("images", "classes", "budget", "enforce", "labels", "clean", "export", "evidence")
"""Keys whose entries are merged; any other value replaces the parent's."""

_ADDED = ("waivers", "packs")
"""Keys whose items are added to those of the parent."""

_LIMITS = ("max", "min", "worsening", "allow")


@dataclass(slots=True)
class Layered:
    """Plain data, with the text and place of each path into it."""

    data: dict[str, Any] = field(default_factory=dict)
    _places: dict[KeyPath, tuple[Document, KeyPath]] = field(default_factory=dict)

    def put(self, path: KeyPath, value: Any, document: Document, at: KeyPath) -> None:
        """Set the value at `path`; it is written at `at` in `document`."""
        for known in [p for p in self._places if p[: len(path)] == path]:
            del self._places[known]
        for mark in document.marks:
            if mark[: len(at)] == at:
                self._places[(*path, *mark[len(at) :])] = (document, mark)
        holder: Any = self.data
        for part in path[:-1]:
            holder = holder.setdefault(part, {}) if isinstance(holder, dict) else holder[part]
        if isinstance(holder, list):
            holder.append(value)
        else:
            holder[path[-1]] = value

    def begin(self, document: Document) -> None:
        """Make `document` the place of paths that are written nowhere."""
        self._places[()] = (document, ())

    def copy(self) -> "Layered":
        """Return an independent copy."""
        return Layered(deepcopy(self.data), dict(self._places))

    def find(self, path: KeyPath) -> tuple[Document, KeyPath] | None:
        """Return the text and place of `path`, or of its nearest parent with a place."""
        while path and path not in self._places:
            path = path[:-1]
        return self._places.get(path)

    def paths(self) -> list[KeyPath]:
        """Return all paths that are written in a text."""
        return list(self._places)

    def place(self, path: KeyPath) -> SourceSpan | None:
        """Return the place where `path` is written, or None for a default."""
        found = self._places.get(path)
        if found is None:
            return None
        document, at = found
        mark = document.marks[at]
        return SourceSpan(file=document.name, line=mark.line, column=mark.column, end_column=document.end(at))


@dataclass(frozen=True, slots=True)
class Step:
    """One policy merged into its parent."""

    parent: str
    before: Layered
    after: Layered
    folder: Path
    """Folder that the paths in both are relative to."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One policy file, merged with all policies that it extends."""

    source: str
    folder: Path
    document: Document
    merged: Layered
    steps: tuple[Step, ...]
    """Steps from the outermost parent to this policy."""


def shipped() -> dict[str, str]:
    """Return the text of every built-in policy, by name."""
    packed = resources.files("pargate") / "_policies"
    folder = packed if packed.is_dir() else Path(__file__).parents[2] / "policies"  # in a checkout
    found = {}
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".yaml"):
            found[entry.name.removesuffix(".yaml")] = entry.read_text(encoding="utf-8")
    return found


def from_git(ref: str) -> Reader:
    """Return a reader of files in a git ref instead of the working tree.

    Raises:
        PolicyError: the ref looks like an option, or is empty, which git reads as the index.
    """
    if not ref or ref.startswith("-") or not ref.isprintable():
        raise PolicyError(f"'{ref[:80]}' is no git ref", "name a branch, tag or commit")

    try:
        root, commit = git.root_of().resolve(), git.commit_of(ref)
    except PargateError as error:
        raise PolicyError(error.lines, error.hint) from error
    here = Path.cwd().resolve()

    def read(path: Path) -> bytes:
        # Links are not resolved: a link in the working tree must not choose which file of the ref is read.
        name = os.path.relpath(os.path.normpath(here / path), root)
        missing = FileNotFoundError(2, f"git says: it is not in {ref}", f"{ref}:{path}")
        if name.startswith("..") or "\0" in name:
            raise missing
        place = f"{commit}:{Path(name).as_posix()}"
        kind = git.ask("cat-file", "-t", place)
        if " not in '" in kind.refusal or "does not exist in" in kind.refusal:
            raise missing
        if not kind.refusal and kind.out.strip() != b"blob":
            raise IsADirectoryError(21, f"it is no file in {ref}", f"{ref}:{path}")
        content = kind if kind.refusal else git.ask("cat-file", "blob", place)
        if content.refusal:
            raise PolicyError(f"git cannot read {path} in {ref}: {content.refusal}", "fetch it, or clone anew")
        return content.out

    return read


def locate(name: str, reader: Reader) -> tuple[str, bytes, Path]:
    """Return the source, content and folder of the policy called `name`, a built-in policy or a path.

    Raises:
        PolicyError: there is no such policy, or it cannot be read.
    """
    builtin = shipped()
    key = name.removeprefix(BUILTIN)
    if key in builtin:  # a file of the same name must not replace a built-in policy
        return f"{BUILTIN}{key}", builtin[key].encode(), Path()
    path = Path(name)
    try:
        return str(path), reader(path), path.parent
    except FileNotFoundError as error:
        said = f": {error.strerror}" if error.strerror and error.strerror.startswith("git") else ""
        raise PolicyError(
            f"no such policy: {name}{said}.{nearest(key, list(builtin))}",
            f"give a path, or one of {', '.join(builtin)}",
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise PolicyError(f"cannot read the policy '{name[:80]}': {reason}", "give the path of a YAML file") from error


def decode(content: bytes, name: str) -> str:
    """Decode the text of a policy.

    Raises:
        PolicyError: the content is not UTF-8, or is a git-lfs pointer.
    """
    if content.startswith(LFS):
        raise PolicyError(
            f"the policy '{name[:80]}' is a git-lfs pointer, not the file itself", "fetch the file: git lfs pull"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PolicyError(f"cannot read the policy '{name[:80]}': not UTF-8 text", "save it as UTF-8") from error


def load(text: str, source: str, folder: Path, reader: Reader, above: tuple[str, ...] = ()) -> Layer:
    """Parse a policy and merge it with all policies that it extends.

    Raises:
        PolicyError: the text is not YAML, a parent is missing or has another digest, or the chain is circular or too
            long.
    """
    document = parse(text, source)
    extends = document.data.get("extends")
    merged, steps = Layered(), tuple[Step, ...]()
    if extends is not None:
        parent = _parent(document, extends, folder, reader, (*above, _identity(source)))
        merged, steps = parent.merged.copy(), parent.steps
        _rebase(merged.data, parent.folder, folder)
        steps = (*steps, Step(parent.source, merged.copy(), merged, folder))
    _lay(merged, document)
    _waivers_file(merged, document, folder, reader)
    return Layer(source, folder, document, merged, steps)


def _identity(source: str) -> str:
    return source if source.startswith(BUILTIN) else os.path.normpath(Path(source).absolute())


def _parent(document: Document, extends: Any, folder: Path, reader: Reader, chain: tuple[str, ...]) -> Layer:
    wanted = extends if isinstance(extends, dict) else {"file": extends}
    name, digest = wanted.get("file"), wanted.get("digest")
    if not isinstance(name, str) or not name:
        raise PolicyError(document.complaint(("extends",), "name the policy to extend: builtin:NAME, or a path"))
    # Relative to the policy, not to the working folder.
    place = name if name.startswith(BUILTIN) else str(folder / name)
    if name in shipped():  # as in `locate`
        place = f"{BUILTIN}{name}"
    try:
        source, content, home = locate(place, reader)
    except PolicyError as error:
        raise PolicyError(document.complaint(("extends",), error.message), error.hint) from error
    if _identity(source) in chain:
        raise PolicyError(document.complaint(("extends",), f"a circle: {source} extends this policy"))
    if len(chain) >= limits.EXTENDED:
        raise PolicyError(document.complaint(("extends",), f"more than {limits.EXTENDED} policies extend each other"))
    found = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if digest is not None and digest != found:
        raise PolicyError(document.complaint(("extends", "digest"), f"{source} has another digest: {found}"))
    return load(decode(content, source), source, home, reader, chain)


def _lay(merged: Layered, document: Document) -> None:
    merged.begin(document)
    for key in _OWN:
        if merged.data.pop(key, None) is not None:
            merged.put((key,), None, document, (key,))
            del merged.data[key]
    for rule in _maps(merged.data.get("rules")):
        rule.pop("override", None)
    for key, value in document.data.items():
        known = merged.data.get(key)
        if key == "rules" and isinstance(value, list) and isinstance(known, list):
            _lay_rules(merged, document, value)
        elif key in _ADDED and isinstance(value, list) and isinstance(known, list):
            for number, item in enumerate(value):
                merged.put((key, len(known)), item, document, (key, number))
        elif key in _SECTIONS and isinstance(value, dict) and isinstance(known, dict):
            for part, content in value.items():
                merged.put((key, part), content, document, (key, part))
        else:
            merged.put((key,), value, document, (key,))


def _lay_rules(merged: Layered, document: Document, rules: list[Any]) -> None:
    known = merged.data["rules"]
    places = {_id(rule): number for number, rule in enumerate(known) if _id(rule)}
    own = [_id(rule) for rule in rules]
    for number, rule in enumerate(rules):
        if own[number] and own[number] in own[:number]:
            raise PolicyError(document.complaint(("rules", number, "id"), f"two rules have the id '{own[number]}'"))
        at = places.get(own[number])
        if at is None:
            merged.put(("rules", len(known)), rule, document, ("rules", number))
            continue
        for key, value in rule.items():
            path, here = ("rules", at, key), ("rules", number, key)
            if key in _LIMITS and isinstance(value, dict) and isinstance(known[at].get(key), dict):
                for metric, limit in value.items():
                    merged.put((*path, metric), limit, document, (*here, metric))
            else:
                merged.put(path, value, document, here)


def _id(rule: Any) -> str:
    """Return the id of a rule that is not validated yet; empty if it has none."""
    found = rule.get("id") if isinstance(rule, dict) else None
    return found if isinstance(found, str) else ""


def _maps(value: Any) -> list[dict[str, Any]]:
    """Return the maps in a value that should be a list of maps."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _waivers_file(merged: Layered, document: Document, folder: Path, reader: Reader) -> None:
    """Add the waivers of `waivers_file`, a separate file that can have other owners."""
    name = document.data.get("waivers_file")
    if not isinstance(name, str):
        return
    try:
        content = reader(folder / name)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        message = f"cannot read the waivers in {folder / name}: {reason}"
        raise PolicyError(document.complaint(("waivers_file",), message)) from error
    waivers = parse(decode(content, str(folder / name)), str(folder / name))
    unknown = [key for key in waivers.data if key != "waivers" and not str(key).startswith("x-")]
    if unknown or not isinstance(waivers.data.get("waivers"), list):
        message = "a waivers file holds the key `waivers` with a list, and no other key"
        raise PolicyError(waivers.complaint((unknown[0],) if unknown else (), message))
    known = merged.data.get("waivers")
    if not isinstance(known, list):
        merged.put(("waivers",), [], waivers, ("waivers",))
    for number, waiver in enumerate(waivers.data["waivers"]):
        merged.put(("waivers", len(merged.data["waivers"])), waiver, waivers, ("waivers", number))


# --- paths in a parent -------------------------------------------------------------------------------


def _rebase(data: dict[str, Any], old: Path, new: Path) -> None:
    """Make the paths in a parent's data relative to the child's folder."""

    def moved(value: Any) -> Any:
        if not isinstance(value, str) or ":" in value or Path(value).is_absolute():
            return value
        return Path(os.path.relpath(old / value, new)).as_posix()

    if old.absolute() == new.absolute():
        return
    for section, key in (("images", "source"), ("classes", "names")):
        part = data.get(section)
        if isinstance(part, dict) and key in part:
            part[key] = moved(part[key])
    for key in ("reference", "waivers_file"):
        if key in data:
            data[key] = moved(data[key])
    for use in _maps(data.get("packs")):
        if "path" in use:
            use["path"] = moved(use["path"])
    clean = data.get("clean")
    if isinstance(clean, dict) and "pairs" in clean:
        pairs = clean["pairs"]
        clean["pairs"] = {**pairs, "source": moved(pairs.get("source"))} if isinstance(pairs, dict) else moved(pairs)
    for rule in _maps(data.get("rules")):
        table = rule.get("calibration")
        if isinstance(table, dict) and "path" in table:
            table["path"] = moved(table["path"])
        signer = rule.get("signed_by")
        if isinstance(signer, dict):
            signer |= {key: moved(signer[key]) for key in ("key", "trust_root") if key in signer}
        if "trusted" in rule:
            rule["trusted"] = moved(rule["trusted"])
        for spec in _maps(rule.get("triggers")):
            kind = spec.get("kind")
            for key in TRIGGERS[kind].paths if isinstance(kind, str) and kind in TRIGGERS else ():
                if key in spec:
                    spec[key] = moved(spec[key])
