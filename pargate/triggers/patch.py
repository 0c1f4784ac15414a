"""Triggers that replace a window: BadNets and its relatives."""

from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pargate import seeds
from pargate.core.stamp import Overflow, Paste
from pargate.errors import InputError
from pargate.triggers.base import TRIGGERS, ControlKind, Invariant, Length, Trigger, fixed, fixed_keys

PLACE_STREAM = 1
"""Stream of an image's key that draws the place of the patch; stream 0 draws the pattern."""

_SMALLER = "give the trigger a smaller size or another position"

CORNERS: tuple["Position", ...] = ("top-left", "top-right", "bottom-left", "bottom-right")


class Lattice(BaseModel):
    """Places whose row and column are `offset` plus a multiple of `step`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = Field(gt=0, le=65536)
    offset: int = Field(0, ge=0, le=65536)


def _position(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Position = Annotated[
    Literal["random", "center", "top-left", "top-right", "bottom-left", "bottom-right"]
    | tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
    | Lattice,
    BeforeValidator(_position),
    Field(description="random, center, a corner, [row, column], or a lattice {step, offset} to draw from"),
]


def place(position: "Position", window: tuple[int, int], size: tuple[int, int], keys: seeds.Keys) -> NDArray[np.int32]:
    """Return the top-left corner of a window for each image: int32 [n, 1, 2].

    `random` follows the published code: rows and columns are independent and uniform on {0, …, R − 1 − s}, so that
    the last row and column are never covered.

    Raises:
        InputError: the window does not fit there.
    """
    (height, width), (rows, columns) = window, size
    room = np.array([rows - height, columns - width])
    if (room < 0).any():
        raise InputError(f"a window of {height}×{width} px does not fit an image of {rows}×{columns} px", _SMALLER)
    n = len(keys)
    match position:
        case "random":
            drawn = [seeds.integers(keys, 1, max(1, int(r)), PLACE_STREAM + i) for i, r in enumerate(room)]
            return np.stack(drawn, axis=-1).astype(np.int32)
        case Lattice(step=step, offset=offset):
            if (room < offset).any():
                raise InputError(f"no place of the lattice fits a window of {height}×{width} px", _SMALLER)
            counts = (room - offset) // step + 1
            drawn = [seeds.integers(keys, 1, int(c), PLACE_STREAM + i) for i, c in enumerate(counts)]
            return (np.stack(drawn, axis=-1) * step + offset).astype(np.int32)
        case "center":
            corner = room // 2
        case (row, column):
            corner = np.array([row, column])
            if (corner > room).any():
                raise InputError(f"a window of {height}×{width} px at [{row}, {column}] leaves the image", _SMALLER)
        case _:
            corner = room * [position.startswith("bottom"), position.endswith("right")]
    return np.broadcast_to(corner.astype(np.int32), (n, 1, 2))


class _Square(Trigger):
    """A square window."""

    strength = "size"
    size: Length = Field(Fraction(16, 224), validate_default=True, description="side of the window")

    @property
    def control(self) -> ControlKind:
        """Kind of the control: flat, since a shuffled noise patch would be another draw of the same trigger."""
        return "flat"


class _Patch(_Square):
    """A square window somewhere in the image."""

    position: Position = "random"

    def _window(self, side: int, keys: seeds.Keys) -> NDArray[np.int32]:
        """Return fixed-point levels [1|n, side, side, 3]."""
        raise TypeError(f"the patch class {type(self).__name__} defines no _window")

    _relative: ClassVar[bool] = False

    def _stamp(self, size: tuple[int, int], keys: seeds.Keys) -> Paste:
        side = self.pixels(self.size, min(size))
        places = place(self.position, (side, side), size, keys)
        return Paste(self._window(side, keys), places, self._relative, self.overflow)


class _DrawnPatch(_Patch):
    """A patch with a new pattern for every image, or one pattern from its own seed."""

    overflow: Overflow = Field("wrap", description="treatment of values outside 0..255, as published: wrap")
    draw_mode: Literal["per-image", "fixed"] = Field(
        "per-image", alias="draw", description="a new pattern for every image, or one for all"
    )
    seed: int = Field(0, ge=0, description="seed of a fixed pattern")

    def _keys(self, keys: seeds.Keys) -> seeds.Keys:
        return fixed_keys(self.seed, self.kind) if self.draw_mode == "fixed" else keys


@TRIGGERS.add("badnet")
class BadNet(_DrawnPatch):
    """Noise patch: per pixel N(0, 1) around the image's mean colour."""

    kind = "badnet"
    source = "BadNet-Rand of CleanCLIP (arXiv 2303.03323) and PAR (arXiv 2412.00727)"
    invariants = frozenset({Invariant.LOCAL, Invariant.DRAWN_PER_IMAGE})
    _relative = True

    def _window(self, side: int, keys: seeds.Keys) -> NDArray[np.int32]:
        noise = seeds.normal(self._keys(keys), side * side * 3)
        return fixed(255.0 * noise.reshape(-1, side, side, 3))


@TRIGGERS.add("stripes-patch")
class StripesPatch(_DrawnPatch):
    """Patch of vertical stripes, one colour of eight per column."""

    kind = "stripes-patch"
    source = "BadNet-Stripes of PAR (arXiv 2412.00727)"
    invariants = frozenset({Invariant.LOCAL, Invariant.DRAWN_PER_IMAGE})
    width: Length = Field(1, description="width of a stripe")

    def _window(self, side: int, keys: seeds.Keys) -> NDArray[np.int32]:
        colours = stripes(self._keys(keys), side, self.pixels(self.width, side))
        return np.repeat(fixed(255.0 * colours)[:, None], side, axis=1)


@TRIGGERS.add("lattice")
class LatticePatch(_Patch):
    """Black patch with a white pixel at every even row and column."""

    kind = "lattice"
    source = "BadNets patch of Huang et al. (arXiv 2502.01385)"
    invariants = frozenset({Invariant.LOCAL, Invariant.GREY})

    def _window(self, side: int, keys: seeds.Keys) -> NDArray[np.int32]:
        window = np.zeros((1, side, side, 3))
        window[:, ::2, ::2] = 255.0
        return fixed(window)


@TRIGGERS.add("yellow-patch")
class YellowPatch(_Patch):
    """Patch of pure yellow."""

    kind = "yellow-patch"
    source = "`yellow` of CleanCLIP and BadCLIP"
    invariants = frozenset({Invariant.LOCAL})

    def _window(self, side: int, keys: seeds.Keys) -> NDArray[np.int32]:
        return fixed(np.broadcast_to(255.0 * np.array([1.0, 1.0, 0.0]), (1, side, side, 3)))


@TRIGGERS.add("four-corners")
class FourCorners(_Square):
    """White squares that touch the four corners."""

    kind = "four-corners"
    source = "`four_corners` of CleanCLIP"
    invariants = frozenset({Invariant.LOCAL, Invariant.GREY, Invariant.SAME_FOR_ALL})

    def _stamp(self, size: tuple[int, int], keys: seeds.Keys) -> Paste:
        side = self.pixels(self.size, min(size))
        places = np.concatenate([place(corner, (side, side), size, keys) for corner in CORNERS], axis=1)
        white = fixed(np.full((1, side, side, 3), 255.0))
        return Paste(white, places, False, self.overflow)


def stripes(keys: seeds.Keys, length: int, width: int) -> NDArray[np.float64]:
    """Return the colours of vertical stripes: [n, length, 3] of −1 and +1, equal within each stripe."""
    width = min(width, length)
    count = -(-length // width)
    signs = (seeds.bits(keys, count * 3) >> np.uint64(63)).astype(np.float64) * 2.0 - 1.0
    return np.repeat(signs.reshape(-1, count, 3), width, axis=1)[:, :length]
