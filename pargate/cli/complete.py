"""What a shell offers for the values of options; torch is not imported, so that it answers at once."""

from collections.abc import Callable, Iterable
from pathlib import Path

Completer = Callable[[str], list[str]]


def _beginning(incomplete: str, known: Iterable[str]) -> list[str]:
    return [name for name in known if name.startswith(incomplete)]


def policies(incomplete: str) -> list[str]:
    """Return the built-in policies, and the folders and YAML files, that begin so."""
    from pargate.policy.layers import shipped

    head, slash, name = incomplete.rpartition("/")
    try:
        beside = sorted(Path(head or slash or ".").iterdir())
    except OSError:
        beside = []
    if not name.startswith("."):
        beside = [path for path in beside if not path.name.startswith(".")]
    places = [f"{head}{slash}{path.name}{'/' if path.is_dir() else ''}" for path in beside]
    return _beginning(incomplete, [*shipped(), *(p for p in places if p.endswith(("/", ".yaml", ".yml")))])


def formats(incomplete: str) -> list[str]:
    """Return the formats of reports that begin so."""
    from pargate.report import FORMATS

    return _beginning(incomplete, FORMATS)


def only(*names: str) -> Completer:
    """Return a function that gives those of these names that begin so."""

    def offered(incomplete: str) -> list[str]:
        return _beginning(incomplete, names)

    return offered


def methods(incomplete: str) -> list[str]:
    """Return the methods of cleaning that begin so."""
    from pargate.clean.methods.base import METHODS

    return _beginning(incomplete, METHODS)
