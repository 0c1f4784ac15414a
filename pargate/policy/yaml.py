"""A strict YAML reader: plain data with the position of every key.

Scalars stay text, so that `no`, `1_000` and `12:30` are not converted; the field types interpret them. PyYAML's
`compose` gives nodes with positions.
"""

from dataclasses import dataclass
from typing import Any

import yaml

from pargate import limits
from pargate.errors import PolicyError, visible

SHOWN = 160
"""Most characters of a line that a message shows, around the place concerned."""

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the text, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Document:
    """Parsed text: data of str, None, list and dict, and the place of each key or item."""

    name: str
    text: str
    data: dict[str, Any]
    marks: dict[Path, Mark]

    def mark(self, path: Path) -> Mark:
        """Return the place of a path, or of its nearest parent with a place."""
        while path and path not in self.marks:
            path = path[:-1]
        return self.marks.get(path, Mark(1, 1))

    def end(self, path: Path) -> int:
        """Return the column after the key, or after the list item, at `path`."""
        mark, last = self.marks[path], path[-1] if path else ""
        lines = self.text.splitlines()
        line = lines[mark.line - 1].rstrip() if mark.line <= len(lines) else ""
        if isinstance(last, str) and line[mark.column - 1 :].startswith(last):
            return mark.column + max(1, len(last))
        return max(mark.column, len(line)) + 1

    def complaint(self, path: Path, message: str) -> tuple[str, ...]:
        """Return a message in the style of compilers: place, text of the line, caret."""
        return complain(self.name, self.text, self.mark(path), message)


def complain(name: str, text: str, mark: Mark, message: str) -> tuple[str, ...]:
    """Return `file:line:column: message`, the source line, and a caret under the column."""
    lines = text.splitlines()
    source = lines[mark.line - 1] if 0 < mark.line <= len(lines) else ""
    cut = max(0, mark.column - SHOWN // 2)
    caret = " " * len(visible(source[cut : mark.column - 1])) + "^"
    return f"{name}:{mark.line}:{mark.column}: {message}", f"    {source[cut : cut + SHOWN]}", f"    {caret}"


def parse(text: str, name: str, kind: str = "policy", begin: str = "pargate: 1") -> Document:
    """Parse one YAML document that holds a mapping.

    Args:
        text: the text.
        name: name of the text, for messages.
        kind: word for the document in messages.
        begin: first line that messages suggest.

    Raises:
        PolicyError: the text is not one YAML document, or has repeated keys, aliases, merge keys, tags, tabs, or too
            much size or depth.
    """
    if len(text.encode()) > limits.YAML_BYTES:
        raise PolicyError(f"{name} is larger than {limits.YAML_BYTES >> 20} MiB", f"a {kind} is a page or two of text")
    try:
        root = _compose(text, name)
    except yaml.MarkedYAMLError as error:
        place, problem = _place(error, text), error.problem or "not YAML"
        if "\\t" in problem:
            problem = "a tab; indent with spaces"
        elif "<stream end>" in problem or "end of stream" in problem:
            problem = "a bracket or a quote is not closed"
        hint = "docs/policy.md shows a policy" if kind == "policy" else ""
        raise PolicyError(complain(name, text, place, f"not valid YAML: {problem}"), hint) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # PyYAML passes on some errors of Python
        raise PolicyError(f"{name} is not valid YAML: {error}") from error
    if not isinstance(root, yaml.MappingNode):
        place = Mark(root.start_mark.line + 1, root.start_mark.column + 1) if root else Mark(1, 1)
        problem = "its top level is not a mapping of keys" if root else "it is empty"
        raise PolicyError(complain(name, text, place, f"no {kind}: {problem}"), f"start with `{begin}`")
    marks: dict[Path, Mark] = {}
    data = _value(root, (), marks, name, text)
    return Document(name, text, data, marks)


def _place(error: yaml.MarkedYAMLError, text: str) -> Mark:
    """Return the place of an error; for the end of the text, that of what is open, else of the last character."""
    rows = text.rstrip().splitlines() or [""]
    for mark in (error.problem_mark, error.context_mark):
        if mark is not None and mark.line < len(rows):
            return Mark(mark.line + 1, mark.column + 1)
    return Mark(len(rows), max(1, len(rows[-1])))


def _compose(text: str, name: str) -> yaml.Node | None:
    loader = yaml.SafeLoader(text)
    try:
        depth = 0
        for number, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
            if number == limits.YAML_EVENTS:
                raise _refused(name, text, event.start_mark, f"more than {limits.YAML_EVENTS} keys and values")
            _refuse_traps(event, name, text)
            # Counted before anything recurses: nested brackets cost quadratic time.
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > limits.YAML_DEPTH:
                raise _refused(name, text, event.start_mark, f"nested deeper than {limits.YAML_DEPTH} levels")
        root = loader.get_single_node()
    except yaml.composer.ComposerError as error:
        if "single document" in str(error):
            mark = error.problem_mark
            raise _refused(name, text, mark, "a second document; a policy file holds one") from error
        raise
    finally:
        loader.dispose()
    return root


def _refuse_traps(event: yaml.Event, name: str, text: str) -> None:
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
        raise _refused(name, text, event.start_mark, "anchors and aliases are not used here: write it out")
    tag = getattr(event, "tag", None)
    if tag is not None:
        short = tag.replace("tag:yaml.org,2002:", "!!")
        raise _refused(name, text, event.start_mark, f"the tag {short} is not used here: every value is text")


def _refused(name: str, text: str, mark: Any, message: str) -> PolicyError:
    return PolicyError(complain(name, text, Mark(mark.line + 1, mark.column + 1), message))


def _value(node: yaml.Node, path: Path, marks: dict[Path, Mark], name: str, text: str) -> Any:
    marks.setdefault(path, Mark(node.start_mark.line + 1, node.start_mark.column + 1))
    if isinstance(node, yaml.ScalarNode):
        if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in node.value):
            raise _refused(name, text, node.start_mark, "a character that no text may hold")
        return None if node.style is None and node.value in ("", "~", "null") else node.value
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, i), marks, name, text) for i, item in enumerate(node.value)]
    found: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _refused(name, text, key.start_mark, "a key must be a word")
        _value(key, (), {}, name, text)
        if key.tag.endswith(":merge"):
            raise _refused(name, text, key.start_mark, "merge keys hide where a value comes from: write it out")
        if key.value in found:
            raise _refused(name, text, key.start_mark, f"the key '{key.value}' is here twice")
        marks[(*path, key.value)] = Mark(key.start_mark.line + 1, key.start_mark.column + 1)
        found[key.value] = _value(value, (*path, key.value), marks, name, text)
    return found
