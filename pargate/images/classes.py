"""Read lists of classes: the built-in names, or a file with one name per line."""

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pargate import limits
from pargate.core.names import class_key, tidy
from pargate.errors import InputError
from pargate.files import read_bytes, refuse_pointer

BUILTIN_NOUNS = "builtin:nouns"

DEFAULT_TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "a {}.")


@dataclass(frozen=True, slots=True)
class ClassList:
    """The classes of a zero-shot head."""

    source: str
    """Source of the names."""
    names: tuple[str, ...]
    templates: tuple[str, ...]

    def index(self, name: str) -> int | None:
        """Return the position of a class by name, in any spelling, or None."""
        key = class_key(name)
        return next((i for i, known in enumerate(self.names) if class_key(known) == key), None)


def builtin_nouns() -> tuple[str, ...]:
    """Return about a thousand everyday nouns, which are likely targets of an attacker."""
    text = (resources.files("pargate.images") / "nouns.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line)


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names from a file, one per line; the line number, from 0, is the class index.

    Raises:
        InputError: unreadable, a git-lfs pointer, fewer than two names, an empty line between names, or a name twice.
    """
    try:
        content = read_bytes(path, limits.CLASSES_BYTES)
        refuse_pointer(str(path), content)
        # Not `splitlines`, for which characters within a name end lines too.
        text = content.decode("utf-8-sig").rstrip()
        lines = re.split(r"\r\n|\r|\n", text) if text else []
    except OSError as error:
        raise InputError(f"cannot read the classes in {path}: {error.strerror}", "check --classes") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file of class names", "save it as UTF-8, one name per line") from error
    if len(lines) > limits.CLASSES:
        raise InputError(f"{path} has {len(lines)} lines", f"at most {limits.CLASSES} classes can be told apart")
    if long := next((number for number, line in enumerate(lines, start=1) if len(line) > limits.CLASS_NAME), None):
        raise InputError(
            f"{path}:{long} has {len(lines[long - 1])} letters",
            f"give the name of a class, of at most {limits.CLASS_NAME}",
        )
    names = tuple(map(tidy, lines))
    seen: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if not (key := class_key(name)):
            raise InputError(f"{path}:{number} is empty, but a line is a class index", "remove it, or name the class")
        if key in seen:
            raise InputError(
                f"{path}:{number}: '{name}' is already line {seen[key]}, '{names[seen[key] - 1]}'",
                "give each class another name; docs/measuring.md says which spellings are the same name",
            )
        seen[key] = number
    if len(lines) < 2:
        raise InputError(
            f"{path} names {'one class' if lines else 'no class'}", "there must be at least two, one per line"
        )
    return names
