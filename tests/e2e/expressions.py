"""The expressions of GitHub's workflows, as far as ours use them: `${{ steps.x.outputs.y }}`, `if:` and the like."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>-?\d+(?:\.\d+)?)|(?P<name>[A-Za-z_][A-Za-z0-9_-]*)"
    r"|(?P<mark>&&|\|\||==|!=|<=|>=|[!<>()\[\].,*]))"
)
_INSIDE = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
STATUS = re.compile(r"\b(success|failure|always|cancelled)\s*\(")


class Expressions:
    """Evaluates with contexts such as `inputs`, `steps`, `github`, and the functions of GitHub."""

    def __init__(self, contexts: dict[str, Any], functions: dict[str, Callable[..., Any]]) -> None:
        """Take what names stand for."""
        self._contexts = contexts
        self._functions = {**FUNCTIONS, **functions}

    def filled(self, value: Any) -> Any:
        """`value` with every `${{ }}` in its texts replaced, in lists and maps too."""
        if isinstance(value, dict):
            return {key: self.filled(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.filled(item) for item in value]
        if not isinstance(value, str):
            return value
        whole = _INSIDE.fullmatch(value.strip())
        if whole and "${{" not in whole[1]:
            return self.evaluate(whole[1])
        return _INSIDE.sub(lambda match: text_of(self.evaluate(match[1])), value)

    def holds(self, condition: Any) -> bool:
        """Whether an `if:` lets a step run; without a function that asks for the status, success is meant as well."""
        text = text_of(condition).strip()
        inside = _INSIDE.fullmatch(text)
        text = inside[1] if inside else text
        result = truth(self.evaluate(text))
        return result if STATUS.search(text) else result and truth(self._functions["success"]())

    def evaluate(self, text: str) -> Any:
        """The value of one expression."""
        tokens: list[tuple[str, str]] = []
        at = 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            assert match and match.lastgroup, f"no expression: {text!r}"
            tokens.append((match.lastgroup, match[match.lastgroup]))
            at = match.end()
        self._tokens = [*tokens, ("end", "")]
        value = self._either()
        assert self._tokens[0][0] == "end", f"no expression: {text!r}"
        return value

    def _take(self, *marks: str) -> str | None:
        kind, text = self._tokens[0]
        if kind == "mark" and text in marks:
            self._tokens.pop(0)
            return text
        return None

    def _either(self) -> Any:
        value = self._both()
        while self._take("||"):
            other = self._both()
            value = value if truth(value) else other
        return value

    def _both(self) -> Any:
        value = self._compared()
        while self._take("&&"):
            other = self._compared()
            value = other if truth(value) else value
        return value

    def _compared(self) -> Any:
        value = self._negated()
        while mark := self._take("==", "!=", "<=", ">=", "<", ">"):
            value = _compare(mark, value, self._negated())
        return value

    def _negated(self) -> Any:
        return not truth(self._negated()) if self._take("!") else self._atom()

    def _atom(self) -> Any:
        kind, text = self._tokens.pop(0)
        if kind == "text":
            return text[1:-1].replace("''", "'")
        if kind == "number":
            return float(text)
        if (kind, text) == ("mark", "("):
            value = self._either()
            assert self._take(")")
            return value
        assert kind == "name", text
        if self._take("("):
            given = []
            while not self._take(")"):
                given.append(self._either())
                self._take(",")
            return self._functions[text](*given)
        words = {"true": True, "false": False, "null": None}
        return words[text] if text in words else self._path(self._contexts[text])

    def _path(self, value: Any) -> Any:
        while mark := self._take(".", "["):
            if self._take("*"):
                value = list(value.values()) if isinstance(value, dict) else value
                continue
            key = self._tokens.pop(0)[1] if mark == "." else self._either()
            assert mark == "." or self._take("]")
            if isinstance(value, list) and isinstance(key, str):  # what is left of a `*`
                value = [item.get(key) for item in value]
            else:
                value = value.get(key) if isinstance(value, dict) else None
        return value


def truth(value: Any) -> bool:
    """What counts as true: a text does unless it is empty, "false" too."""
    return value not in (None, False, 0, "")


def text_of(value: Any) -> str:
    """A value as the runner writes it into a text."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case float() if value.is_integer():
            return str(int(value))
        case dict() | list():
            return json.dumps(value)
    return str(value)


def _compare(mark: str, left: Any, right: Any) -> bool:
    if isinstance(left, str) and isinstance(right, str):
        left, right = left.lower(), right.lower()
    elif type(left) is not type(right):
        left, right = _number(left), _number(right)
    order = {
        "==": left == right,
        "!=": left != right,
    }
    if mark in order:
        return bool(order[mark])
    return bool({"<": left < right, ">": left > right, "<=": left <= right, ">=": left >= right}[mark])


def _number(value: Any) -> float:
    try:
        return float(value or 0)
    except (TypeError, ValueError):
        return float("nan")


def _format(text: str, *values: Any) -> str:
    return re.sub(r"\{(\d+)\}", lambda match: text_of(values[int(match[1])]), text)


def _contains(where: Any, what: Any) -> bool:
    return what in where if isinstance(where, list) else text_of(what).lower() in text_of(where).lower()


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "contains": _contains,
    "startsWith": lambda text, start: text_of(text).lower().startswith(text_of(start).lower()),
    "endsWith": lambda text, end: text_of(text).lower().endswith(text_of(end).lower()),
    "format": _format,
    "join": lambda items, mark=",": mark.join(map(text_of, items)) if isinstance(items, list) else text_of(items),
    "toJSON": lambda value: json.dumps(value, indent=2),
    "fromJSON": lambda text: json.loads(text),
}


def hash_files(workspace: Path) -> Callable[..., str]:
    """`hashFiles`: a digest that depends on the names and bytes found, "" where there are none."""

    def digest(*patterns: str) -> str:
        found = sorted({p for pattern in patterns for p in workspace.glob(pattern) if p.is_file()})
        return hashlib.sha256(b"".join(p.read_bytes() for p in found)).hexdigest() if found else ""

    return digest
