"""Triggers: changes of pixels, found by their kind."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pargate.errors import nearest
from pargate.registry import UnknownPart
from pargate.triggers.base import TRIGGERS, ControlKind, Invariant, Trigger
from pargate.triggers.controls import control

__all__ = [
    "TRIGGERS",
    "ControlKind",
    "Invariant",
    "Trigger",
    "TriggerError",
    "build",
    "control",
    "parse",
]


class TriggerError(ValueError):
    """The description of a trigger is wrong; `key` names the parameter concerned, if any."""

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


def parse(spec: str | Mapping[str, Any]) -> list[Trigger]:
    """Return the triggers of a name, or of a map with `kind`; a list for the strength parameter gives several.

    Raises:
        TriggerError: unknown kind or parameter, or a value out of range.
        OperationalError: the plug-in with the kind cannot be loaded.
    """
    if isinstance(spec, str):
        spec = {"kind": spec}
    if "kind" not in spec:
        raise TriggerError("a trigger needs a `kind`", "kind")
    try:
        cls = TRIGGERS[str(spec["kind"])]
    except UnknownPart as error:
        raise TriggerError(f"{error} `pargate triggers` lists them all") from None
    given = {key: value for key, value in spec.items() if key != "kind"}
    fields = {info.alias or name: info for name, info in cls.model_fields.items()}
    for key in given:
        if key not in fields:
            raise TriggerError(f"{cls.kind} has no parameter '{key}'.{nearest(key, list(fields))}", key)
    swept = [key for key, value in given.items() if isinstance(value, list) and key == cls.strength]
    found = []
    for values in product(*(given[key] for key in swept)):
        try:
            own = {**given, **dict(zip(swept, values, strict=True))}
            if swept and given.get("name"):
                own["name"] = f"{given['name']} ({swept[0]} {values[0]})"  # a sweep is several triggers
            found.append(cls.model_validate(own))
        except ValidationError as error:
            first = error.errors()[0]
            culprit = str(first["loc"][0]) if first["loc"] else cls.kind
            raise TriggerError(
                f"{cls.kind}: {culprit}: {first['msg'].lower()} (got {first['input']!r})", culprit
            ) from error
    if not found:
        raise TriggerError(f"{cls.kind}: an empty list for {swept[0]}", swept[0])
    return found


def build(spec: str | Mapping[str, Any], folder: Path) -> list[Trigger]:
    """Return the triggers of `parse` with their files read; paths are relative to `folder`.

    Raises:
        TriggerError, OperationalError: as `parse`.
        InputError: a file is missing or unreadable.
    """
    return [trigger.read(folder) for trigger in parse(spec)]
