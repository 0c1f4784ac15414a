"""Packs of triggers: a folder with `pack.json`, the pictures that it names, and perhaps a signature (docs/packs.md).

The digest of a pack is the SHA-256 of its `pack.json`, which holds the digest of every picture. A pack names no paths:
the picture of the trigger NAME is `NAME.png`.
"""

import hashlib
import io
import json
import os
import stat
import warnings
from collections.abc import Callable
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from PIL import Image
from pydantic import AfterValidator, Field, ValidationError, model_validator

from pargate import limits
from pargate.core.value import Value
from pargate.errors import InputError
from pargate.files import SIGNATURE, read_bytes
from pargate.triggers import TRIGGERS, Trigger, TriggerError, parse

SCHEMA = "pargate/pack/1"

LISTING = "pack.json"

PREFIX = "pack:"
"""Beginning of the name of a pack among the triggers of a policy."""

SCHEMA_FILE = "pargate-pack-1.schema.json"
"""Name of the JSON Schema, which lies beside this module."""

_PNG = b"\x89PNG\r\n\x1a\n"


def _plain(value: str) -> str:
    if not value.isprintable():
        raise ValueError("characters that cannot be printed")
    return value


def _text(value: str) -> str:
    value.encode()  # half a character is refused
    return value


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""Name that is safe as a file name, in a terminal and in a policy."""

Line = Annotated[str, Field(max_length=500), AfterValidator(_plain)]
"""Text for people, on one line."""


class Provenance(Value):
    """Origin of a trigger or a text."""

    how: Annotated[Line, Field(min_length=1)]
    """Way in which it was found."""
    tool: Line
    """Name and version of the tool that found or packed it."""
    date: date
    """Day on which it was found, in UTC; the day of packing if that is not known."""
    model: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """Hex SHA-256 of the weights that it was found in; empty if not known."""
    target: Line = ""
    """Class that the model named with it; empty if not known."""


class PackedTrigger(Value):
    """A trigger of a pack."""

    name: Name
    parameters: dict[str, Any]
    """Kind and parameters as in a policy, without `name` and `path`. A `file` trigger has its `sha256`."""
    provenance: Provenance

    @property
    def picture(self) -> str:
        """Name of the picture in the pack; empty for a trigger without one."""
        return f"{self.name}.png" if self.parameters.get("kind") == "file" else ""

    def spec(self, pack: str, folder: str) -> dict[str, Any]:
        """Return the trigger as a policy writes it, in a pack called `pack` at `folder`."""
        place = {"path": f"{folder}/{self.picture}"} if self.picture else {}
        return {**_as_written(self.parameters), "name": f"{pack}/{self.name}", **place}

    @model_validator(mode="after")
    def _is_a_trigger(self) -> Self:
        kind = self.parameters.get("kind")
        if {"name", "path"} & self.parameters.keys():
            raise ValueError(f"{self.name}: a pack needs no `name` and no `path` in the parameters")
        if self.picture and not self.parameters.get("sha256"):
            raise ValueError(f"{self.name}: the `sha256` of the picture is missing")
        try:
            found = parse(self.spec("pack", "."))
        except TriggerError as error:
            raise ValueError(f"{self.name}: {error}") from error
        if len(found) > 1:
            raise ValueError(f"{self.name}: one value for each parameter; a list is several triggers")
        if not self.picture and TRIGGERS[str(kind)].paths:
            raise ValueError(f"{self.name}: a pack holds no files of the kind {kind}")
        return self


class PackedText(Value):
    """A text trigger of a pack: characters at the start or the end of a caption."""

    name: Name
    text: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_text)]
    place: Literal["prefix", "suffix"]
    provenance: Provenance


class Pack(Value):
    """The content of `pack.json`."""

    schema_: Literal["pargate/pack/1"] = Field(default="pargate/pack/1", alias="schema")
    license: Annotated[Line, Field(min_length=1)]
    """Licence of the pack, as an SPDX expression where there is one."""
    triggers: Annotated[tuple[PackedTrigger, ...], Field(max_length=limits.PACKED)] = ()
    texts: Annotated[tuple[PackedText, ...], Field(max_length=limits.PACKED)] = ()

    @model_validator(mode="after")
    def _names_each_once(self) -> Self:
        names = [*(item.name.casefold() for item in self.triggers), *(item.name.casefold() for item in self.texts)]
        if not names:
            raise ValueError("it holds no trigger and no text")
        if len(set(names)) < len(names):
            raise ValueError("two of its triggers or texts have the same name")
        return self

    def to_json(self) -> str:
        """Return ASCII JSON, in which characters of texts that cannot be seen are escaped."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=1) + "\n"

    @cached_property
    def digest(self) -> str:
        """Digest of the pack, if its `pack.json` is as `to_json` writes it."""
        return digest(self.to_json().encode())


def digest(listing: bytes) -> str:
    """Return the digest of a pack by the content of its `pack.json`, as a policy writes it."""
    return f"sha256:{hashlib.sha256(listing).hexdigest()}"


def schema() -> dict[str, Any]:
    """Return the JSON Schema of `pack.json`, draft 2020-12."""
    found = Pack.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:{SCHEMA.replace('/', ':')}",
        **found,
    }


def read_listing(folder: Path, wanted: str | None = None, reader: Callable[[Path], bytes] = read_bytes) -> Pack:
    """Return the pack in `folder` by its `pack.json` alone; with `wanted`, only the one with this digest.

    Raises:
        InputError: the file is missing or no `pack.json`, or the pack has another digest.
    """
    place = folder / LISTING
    try:
        content = reader(place)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise InputError(
            f"no pack in {folder}: cannot read {LISTING}: {reason}", "give a folder of pargate pack"
        ) from error
    if len(content) > limits.LISTING_BYTES:
        raise InputError(f"{place} has more than {limits.LISTING_BYTES >> 20} MiB", "give a smaller pack")
    found = digest(content)
    if wanted is not None and found != wanted:
        raise InputError(
            f"the pack {folder} was altered or is another one: its digest is {found}, not {wanted}",
            "restore it, or review it and change the digest",
        )
    try:
        return Pack.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        said = str(first["msg"]).removeprefix("Value error, ")
        raise InputError(f"{place} is not the listing of a pack: {where}: {said}", "see docs/packs.md") from error


def read_pack(folder: Path, wanted: str | None = None) -> Pack:
    """Return the pack in `folder` after a check of every file; with `wanted`, only the one with this digest.

    Raises:
        InputError: as `read_listing`; or a file was changed, added or removed, is a link or no plain file, or is no
            picture of a reasonable size.
    """
    pack = read_listing(folder, wanted)
    pictures = {item.picture: str(item.parameters["sha256"]) for item in pack.triggers if item.picture}
    known = {LISTING, SIGNATURE, *pictures}
    try:
        entries = {entry.name: entry for entry in os.scandir(folder)}
    except OSError as error:
        raise InputError(f"cannot read the pack {folder}: {error.strerror}", "check its permissions") from error
    for name, entry in sorted(entries.items()):
        if not stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
            raise _altered(folder, f"{name} is a link, a folder or no plain file")
        if name not in known:
            raise _altered(folder, f"{name} was added: {LISTING} does not name it")
    for name, sha256 in pictures.items():
        if name not in entries:
            raise _altered(folder, f"{name} is missing")
        _check_picture(folder, name, sha256)
    return pack


def triggers(pack: Pack, folder: Path) -> tuple[Trigger, ...]:
    """Return the triggers of a pack that `read_pack` checked, with their pictures read."""
    name = folder.absolute().name
    return tuple(parse(item.spec(name, "."))[0].read(folder) for item in pack.triggers)


def as_png(content: bytes, picture: Image.Image) -> bytes:
    """Return `content` if it is a PNG, else the PNG of the decoded `picture`."""
    if content.startswith(_PNG):
        return content
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def _check_picture(folder: Path, name: str, sha256: str) -> None:
    try:
        content = read_bytes(folder / name, limits.PICTURE_BYTES)
    except OSError as error:
        raise InputError(f"cannot read {name} of the pack {folder}: {error.strerror}", "check the file") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise _altered(folder, f"{name} was changed: {LISTING} has another digest")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata
            with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
                fits = image.width * image.height <= limits.PICTURE_PIXELS
                if fits:
                    image.load()
    except Image.DecompressionBombError:
        fits = False
    except MemoryError:
        raise
    except Exception as error:  # decoders raise many kinds of errors for hostile bytes
        raise InputError(f"{name} of the pack {folder} is not a complete PNG", "ask its author for another") from error
    if not fits:
        raise InputError(
            f"{name} of the pack {folder} has more than {limits.PICTURE_PIXELS} pixels",
            "ask its author for a smaller picture",
        )


def _altered(folder: Path, what: str) -> InputError:
    return InputError(f"the pack {folder} was altered: {what}", "restore it, or get it again")


def _as_written(value: Any) -> Any:
    """Return a JSON value as a YAML policy gives it: numbers and truth values as text, None left out."""
    if isinstance(value, dict):
        return {key: _as_written(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_as_written(item) for item in value]
    return value if isinstance(value, str) else json.dumps(value)
