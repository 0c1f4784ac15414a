"""Parts found by name: pargate's own, and those that installed packages offer through entry points."""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from pargate.errors import OperationalError, first_line, nearest

T = TypeVar("T")


@dataclass(frozen=True, slots=True, order=True)
class Plugin:
    """A part that another distribution offers."""

    group: str
    """Entry point group, such as `pargate.triggers`."""
    name: str
    distribution: str
    version: str
    """Version of the distribution: other versions may compute other results."""

    @property
    def key(self) -> str:
        """Text that changes with the code of the part, for cache keys and fingerprints."""
        return f"{self.distribution} {self.version}"


class UnknownPart(KeyError):
    """No part has the name; the message suggests the nearest one."""

    def __str__(self) -> str:
        return str(self.args[0])


class Registry(Mapping[str, T]):
    """The parts of one kind by name: pargate's own, then those of plug-ins, each in alphabetical order.

    Modules of `package` enter their parts with the decorator `add`; the first lookup imports all of them. A
    distribution offers a part by an entry point of `group` with the part's name; the first use of the part imports it.
    """

    def __init__(self, group: str, what: str, package: str, accept: Callable[[str, Any], bool]) -> None:
        """Make an empty registry.

        Args:
            group: entry point group.
            what: word for one part in messages, such as "trigger".
            package: package whose modules hold the built-in parts.
            accept: check that the object of an entry point is a part of this kind with the given name.
        """
        self.group = group
        self._what = what
        self._package = package
        self._accept = accept
        self._own: dict[str, T] = {}
        self._loaded: dict[str, T] = {}
        self._complete = False

    def add(self, name: str) -> Callable[[T], T]:
        """Return a decorator that enters a built-in part under `name`."""

        def enter(part: T) -> T:
            if name in self._own:
                raise ValueError(f"pargate defines the {self._what} '{name}' twice")
            self._own[name] = part
            return part

        return enter

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names.

        Raises:
            OperationalError: a distribution offers a name that is taken.
        """
        return iter([*self._built_in(), *sorted(self._points())])

    def __len__(self) -> int:
        return len(self._built_in()) + len(self._points())

    def __contains__(self, name: object) -> bool:
        return name in self._built_in() or name in self._points()

    def __getitem__(self, name: str) -> T:
        """Return a part by its name.

        Raises:
            UnknownPart: no part has the name.
            OperationalError: the part cannot be loaded, or is not of this kind.
        """
        own = self._built_in()
        if name in own:
            return own[name]
        if name not in self._loaded:
            point = self._points().get(name)
            if point is None:
                raise UnknownPart(f"unknown {self._what} '{name}'.{nearest(name, list(self))}")
            self._loaded[name] = self._load(point)
        return self._loaded[name]

    def plugin(self, name: str) -> Plugin | None:
        """Return the plug-in that offers a part; None for a part of pargate."""
        point = self._points().get(name)
        return None if point is None else _plugin(point)

    def plugins(self, names: Iterable[str] | None = None) -> list[Plugin]:
        """Return the plug-ins among `names`, or all installed ones, sorted."""
        chosen = self._points() if names is None else set(names)
        return sorted(_plugin(point) for name, point in self._points().items() if name in chosen)

    def _built_in(self) -> dict[str, T]:
        if not self._complete:
            self._complete = True  # before the imports, which may look up parts themselves
            for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__):
                importlib.import_module(f"{self._package}.{module.name}")
            self._own = dict(sorted(self._own.items()))  # the order must not depend on earlier imports
        return self._own

    def _points(self) -> dict[str, EntryPoint]:
        points = _entry_points(self.group)
        for name, point in points.items():
            if name in self._built_in():
                raise OperationalError(
                    f"{_plugin(point).key} offers the {self._what} '{name}', but pargate has its own of that name",
                    "uninstall it, or install a version that gives its part another name",
                )
        return points

    def _load(self, point: EntryPoint) -> T:
        try:
            part = point.load()
        except Exception as error:
            raise OperationalError(
                f"the {self._what} '{point.name}' of {_plugin(point).key} cannot be loaded: {first_line(error)}",
                "repair or uninstall it",
            ) from error
        try:
            fits = self._accept(point.name, part)
        except AttributeError:  # it lacks what a part declares
            fits = False
        if not fits:
            raise OperationalError(
                f"{_plugin(point).key} offers {point.value} as the {self._what} '{point.name}', but it is none",
                "repair or uninstall it; docs/plugins.md describes each kind of part",
            )
        loaded: T = part
        return loaded


@cache
def _entry_points(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name.

    Raises:
        OperationalError: two distributions offer the same name.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        other = found.setdefault(point.name, point)
        if _plugin(other) != _plugin(point):
            raise OperationalError(
                f"both {_plugin(other).key} and {_plugin(point).key} offer '{point.name}' in {group}",
                "uninstall one of them",
            )
    return found


def _plugin(point: EntryPoint) -> Plugin:
    by = point.dist
    return Plugin(point.group, point.name, by.name if by else "unknown", by.version if by else "unknown")
