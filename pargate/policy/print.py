"""A resolved policy as YAML that loads again, with the origin of every value in a comment.

The extended policy and the waivers file are comments at the top, since their content is merged. Values are quoted
where another YAML reader would not take them for text.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from pargate.errors import visible
from pargate.policy.resolve import Resolved

Path = tuple[str, ...]

_DISSOLVED = ("extends", "override", "waivers_file", "tests")
"""Keys that have no meaning in a resolved policy."""

_PLAIN = re.compile(r"[A-Za-z0-9./][A-Za-z0-9./_%@+-]*( [A-Za-z0-9./_%@+-]+)*")


def listed(resolved: Resolved) -> str:
    """Return the whole policy as YAML text."""
    document = resolved.policy.model_dump(mode="json")
    lines = [f"# {visible(resolved.source)}, resolved; sha256 {resolved.sha256}"]
    for use in document.pop("packs", ()):
        lines.append(f"# packs: {visible(use['path'])} {use['digest']}, whose triggers are part of what follows")
    for key in _DISSOLVED:
        value = document.pop(key)
        if value and key in ("extends", "waivers_file"):
            name = value["file"] if isinstance(value, dict) else value
            lines.append(f"# {key}: {visible(name)}, which is part of what follows")
    for rule in document["rules"]:
        rule.pop("override")
    lines += [f"# override: {visible(remark.message)}" for remark in resolved.overrides]
    lines += _mapping(document, (), "", resolved)
    return "\n".join(lines) + "\n"


def scalar(value: Any, *, numbers: bool = False) -> str:
    """Return one value as YAML on one line, quoted if needed to stay text; `numbers`: it may also be a number."""
    if value is None:
        return "~"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return str(value)
    if _PLAIN.fullmatch(value) and _kind(value) in (("str", "int", "float") if numbers else ("str",)):
        return value
    # The quoting dumper breaks lines at its width only.
    quoted: str = yaml.safe_dump(value, default_style='"', allow_unicode=True, width=float("inf"))
    return quoted.rstrip("\n")


def _kind(value: str) -> str:
    """Return the YAML type of an unquoted value: str, bool, int, timestamp and so on."""
    resolver = yaml.SafeLoader("")
    try:
        tag = resolver.resolve(yaml.ScalarNode, value, (True, False))  # type: ignore[no-untyped-call]  # no stub
        return str(tag).removeprefix("tag:yaml.org,2002:")
    finally:
        resolver.dispose()


def _mapping(values: dict[str, Any], path: Path, indent: str, resolved: Resolved) -> Iterator[str]:
    for key, value in values.items():
        here, name = (*path, key), scalar(key)
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:"
            yield from _mapping(value, here, f"{indent}  ", resolved)
        elif isinstance(value, list) and value:
            yield f"{indent}{name}:"
            yield from _items(value, here, f"{indent}  ", resolved)
        else:
            yield f"{indent}{name}: {_flow(value)}  {_origin(here, resolved)}"


def _items(values: list[Any], path: Path, indent: str, resolved: Resolved) -> Iterator[str]:
    for number, value in enumerate(values):
        if isinstance(value, dict) and path[-1] != "triggers":
            part = value["id"] if path == ("rules",) else str(number)
            first, *rest = _mapping(value, (*path, part), f"{indent}  ", resolved)
            yield f"{indent}- {first.lstrip()}"
            yield from rest
        else:
            yield f"{indent}- {_flow(value)}  {_origin((*path, str(number)), resolved)}"


def _flow(value: Any, *, numbers: bool = False) -> str:
    """Return a list or a map on one line; maps are triggers, whose parameters may be numbers."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{scalar(key)}: {_flow(item, numbers=True)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item, numbers=numbers) for item in value) + "]"
    return scalar(value, numbers=numbers)


def _origin(path: Path, resolved: Resolved) -> str:
    """Return the origin of a value, or of the value that contains it, such as `[a, b]` or `onnx: true`."""
    for end in range(len(path), 0, -1):
        place = resolved.origins.get(".".join(path[:end]))
        if place is not None and (end == len(path) or _is_written_whole(path[:end], resolved)):
            return f"# {visible(place.file)}:{place.line}"
    return "# default"


def _is_written_whole(path: Path, resolved: Resolved) -> bool:
    """Return whether no value below `path` has an origin of its own."""
    start = ".".join(path) + "."
    return len(path) > 1 and not any(key.startswith(start) for key in resolved.origins)
