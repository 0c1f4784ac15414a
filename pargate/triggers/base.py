"""The base class of triggers: parameters in, a stamp out."""

from collections.abc import Sequence
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from pargate import seeds
from pargate.core.stamp import ONE, Overflow, Recompress, Stamp
from pargate.files import canonical_json, digest_of
from pargate.registry import Registry

PUBLISHED_SIDE = 224
"""Side in pixels of the images on which the published parameters are defined."""

ROUNDING = 128
"""Number added to fixed-point blends, so that rounding the gain never lowers an exact level."""


ControlKind = Literal["flat", "shuffled"]


class Invariant(StrEnum):
    """A law that a trigger declares; property tests check each."""

    LOCAL = "pixels outside its windows are bit-identical"
    COLUMNS = "the change is the same in every row, on an image of one colour"
    ROWS = "the change is the same in every column, on an image of one colour"
    GREY = "the three channels change alike, on a grey image"
    RED_ONLY = "green and blue are bit-identical"
    PIXELWISE = "a pixel's new value depends on its old value alone"
    KEEPS_FLAT = "an image of one colour is unchanged"
    SAME_FOR_ALL = "equal images receive equal stamps"
    DRAWN_PER_IMAGE = "two images receive different stamps"
    IDENTITY_AT_ZERO = "at strength zero nothing changes"


def _length(value: Any) -> int | Fraction:
    expected = "write a whole number of pixels, or a fraction of the side such as 16/224"
    if isinstance(value, bool) or not isinstance(value, int | float | str | Fraction):
        raise ValueError(expected)
    try:
        if isinstance(value, str):
            value = Fraction(value) if "/" in value else int(value)
        whole = int(value)
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(expected) from error
    if isinstance(value, Fraction):
        if not 0 < value <= 1:
            raise ValueError("a fraction of the side lies between 0 and 1")
        return value
    if whole != value:
        raise ValueError(expected)
    if whole < 1:
        raise ValueError("a length is at least one pixel")
    return whole


def _show_length(value: int | Fraction) -> int | str:
    if isinstance(value, int):
        return value
    published = value * PUBLISHED_SIDE
    return f"{published}/{PUBLISHED_SIDE}" if published.denominator == 1 else str(value)


Length = Annotated[
    int | Fraction,
    BeforeValidator(_length),
    PlainSerializer(_show_length),
    Field(description="pixels, or a fraction of the side such as 16/224"),
]


class Trigger(BaseModel):
    """A named change of pixels; fields are its parameters, with the published defaults.

    Subclasses set `kind`, `strength`, `source` and `invariants`, and define `_stamp`. Triggers made of files also
    define `paths`, `pin` and `read`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)

    kind: ClassVar[str]
    invariants: ClassVar[frozenset[Invariant]]
    strength: ClassVar[str | None]
    """Parameter that may be a list, for one trigger each."""
    source: ClassVar[str]
    """Publication of the trigger."""
    paths: ClassVar[tuple[str, ...]] = ()
    """Parameters that are paths, relative to the policy's folder."""

    name: str | None = Field(None, description="name in reports; the kind and its parameters by default")
    overflow: Overflow = Field("clip", description="treatment of values outside 0..255")
    scale: Literal["fixed", "proportional"] = Field(
        "fixed", description="whether lengths in pixels stay, or grow with the side (relative to 224)"
    )
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None, description="JPEG compression after stamping"
    )

    @property
    def control(self) -> ControlKind:
        """Kind of the control (`controls.py`)."""
        return "shuffled"

    @property
    def one_drawing(self) -> bool:
        """Whether every image gets the same drawing, so that a met limit says nothing about other drawings of its kind.

        A tone curve or a warp draws nothing.
        """
        if getattr(self, "draw_mode", "") == "fixed":
            return True
        return not self.invariants & {Invariant.DRAWN_PER_IMAGE, Invariant.PIXELWISE, Invariant.KEEPS_FLAT}

    @property
    def parameters(self) -> dict[str, Any]:
        """All parameters that can change a pixel, as JSON values."""
        return {"kind": self.kind, **self.model_dump(mode="json", by_alias=True, exclude={"name"})}

    @property
    def id(self) -> str:
        """Kind and all parameters in canonical form: equal ids give equal pixels."""
        return canonical_json(self.parameters).decode()

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the parameters."""
        return digest_of(self.parameters)

    @property
    def pin(self) -> dict[str, str]:
        """Parameters that identify the content of the trigger's files, after `read`."""
        return {}

    def read(self, folder: Path) -> Self:
        """Return the trigger with its files read; paths are relative to `folder`.

        Raises:
            InputError: a file is missing or unreadable.
        """
        return self

    @property
    def label(self) -> str:
        """Name in reports: `name`, or the kind with the parameters that differ from their defaults."""
        if self.name:
            return self.name
        shown = self.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"name"})
        listed = ", ".join(f"{key} {_plain(value)}" for key, value in shown.items())
        return f"{self.kind} ({listed})" if listed else self.kind

    def draw(self, size: tuple[int, int], digests: Sequence[str], seed: int) -> Stamp:
        """Draw the stamp for n images of `size` (rows, columns), identified by hex digests.

        The draw for an image depends on seed, trigger and image only.
        """
        stamp = self._stamp(size, seeds.image_keys(seed, self.id, digests))
        return Recompress(stamp, self.jpeg_quality) if self.jpeg_quality else stamp

    def _stamp(self, size: tuple[int, int], keys: seeds.Keys) -> Stamp:
        raise TypeError(f"the trigger class {type(self).__name__} defines no _stamp")

    def pixels(self, length: int | Fraction, side: int) -> int:
        """Return a length in whole pixels on an image of `side` pixels, at least 1."""
        if isinstance(length, Fraction):
            return max(1, round(length * side))
        if self.scale == "proportional":
            return max(1, round(Fraction(length * side, PUBLISHED_SIDE)))
        return length


TRIGGERS: Registry[type[Trigger]] = Registry(
    "pargate.triggers",
    "trigger",
    "pargate.triggers",
    lambda name, part: isinstance(part, type) and issubclass(part, Trigger) and getattr(part, "kind", "") == name,
)
"""Trigger classes by kind."""


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    if isinstance(value, dict):
        return " ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def fixed(levels: NDArray[np.floating]) -> NDArray[np.int32]:
    """Convert levels (0..255, or beyond) to fixed point."""
    return np.asarray(np.rint(levels * ONE).astype(np.int32))


def fixed_keys(seed: int, name: str) -> seeds.Keys:
    """Return the one key of a pattern that is the same for all images."""
    return seeds.index_keys(seed, name, np.zeros(1, dtype=np.int64))
