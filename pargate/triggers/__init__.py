"""The table of triggers: kind to class. A new one is a file here and a line in the table."""

from collections.abc import Mapping
from importlib.metadata import entry_points
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pargate.errors import nearest
from pargate.triggers.base import ControlKind, Invariant, Trigger
from pargate.triggers.blend import Blended, BlendedStripes, Sig, Triangles, Watermark
from pargate.triggers.controls import control
from pargate.triggers.file import FileTrigger
from pargate.triggers.patch import BadNet, FourCorners, LatticePatch, StripesPatch, YellowPatch
from pargate.triggers.tone import Bpp, Tone
from pargate.triggers.warp import WaNet

__all__ = [
    "TABLE",
    "ControlKind",
    "Invariant",
    "Trigger",
    "TriggerError",
    "build",
    "control",
    "known",
    "parse",
]

TABLE: dict[str, type[Trigger]] = {
    cls.kind: cls
    for cls in (
        BadNet,
        StripesPatch,
        LatticePatch,
        YellowPatch,
        FourCorners,
        Blended,
        BlendedStripes,
        Triangles,
        Watermark,
        Sig,
        WaNet,
        Tone,
        Bpp,
        FileTrigger,
    )
}


class TriggerError(ValueError):
    """A trigger's description is wrong; `key` names the parameter concerned, if one is."""

    def __init__(self, message: str, key: str | None = None) -> None:
        """Keep the key apart, so that a policy can point at it."""
        super().__init__(message)
        self.key = key


def known(kind: str) -> type[Trigger]:
    """The class of a kind, built in or offered by an installed package (`pargate.triggers`).

    Raises:
        TriggerError: nobody offers it.
    """
    if kind in TABLE:
        return TABLE[kind]
    offered = {point.name: point for point in entry_points(group="pargate.triggers")}
    if kind in offered:
        cls: type[Trigger] = offered[kind].load()
        return cls
    raise TriggerError(
        f"unknown trigger '{kind}'.{nearest(kind, [*TABLE, *offered])} `pargate triggers` lists them all"
    )


def parse(spec: str | Mapping[str, Any]) -> list[Trigger]:
    """The triggers that a name or a map with `kind` describes: several where a parameter is a sweep.

    Raises:
        TriggerError: unknown kind or parameter, or a value out of range.
    """
    if isinstance(spec, str):
        spec = {"kind": spec}
    if "kind" not in spec:
        raise TriggerError("a trigger needs a `kind`", "kind")
    cls = known(str(spec["kind"]))
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
    """Like `parse`, with the pictures of `file` triggers read; their paths are relative to `folder`.

    Raises:
        TriggerError: as `parse`.
        InputError: a picture is missing or unreadable.
    """
    return [t.read(folder) if isinstance(t, FileTrigger) else t for t in parse(spec)]
