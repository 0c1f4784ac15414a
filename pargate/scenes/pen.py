"""Polygons and ellipses with paint: how one sprite is drawn.

A part is covered with the colour that the scene will choose, with a colour of its own, or with a mixture;
here they are only kept apart. What is drawn is in `drawings`, how it is stored in `sprites`.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

Point = tuple[float, float]
Fixed = tuple[int, int, int]

REACH = 0.86
"""Share of a sprite's side that drawings may use; a shadow's blur fits into the rest."""


@dataclass(frozen=True, slots=True)
class Paint:
    """What a part is covered with: the scene's colour, a colour of its own, or a mixture."""

    main: float
    """Weight of the scene's colour, in [0, 1]; below 1 with black it is a darker tone of that colour."""
    own: Fixed = (0, 0, 0)
    """The colour added to it, 0..255."""


MAIN_COLOUR = Paint(1.0)
SHADE = Paint(0.72)
DEEP = Paint(0.45)
GLINT = Paint(0.6, (100, 100, 98))


def own(colour: Fixed) -> Paint:
    """A part that keeps its colour in every scene."""
    return Paint(0.0, colour)


class Pen:
    """Draws parts, back to front, on the canvases of one sprite.

    Coordinates run from -1 to 1, x to the right and y downwards; the border around them stays empty, for
    the shadow.
    """

    def __init__(self, side: int) -> None:
        """Start with nothing drawn on `side` pixels square."""
        self._side = side
        self._alpha = Image.new("L", (side, side))
        self._main = Image.new("L", (side, side))
        self._own = Image.new("RGB", (side, side))

    def polygon(self, points: Sequence[Point], paint: Paint | None = MAIN_COLOUR) -> None:
        """Fill a polygon; without paint, cut it out."""
        half = self._side / 2
        pixels = [((REACH * x + 1) * half, (REACH * y + 1) * half) for x, y in points]
        ImageDraw.Draw(self._alpha).polygon(pixels, fill=255 if paint else 0)
        ImageDraw.Draw(self._main).polygon(pixels, fill=round(255 * paint.main) if paint else 0)
        ImageDraw.Draw(self._own).polygon(pixels, fill=paint.own if paint else (0, 0, 0))

    def blob(self, points: Sequence[Point], paint: Paint | None = MAIN_COLOUR) -> None:
        """Fill the smooth closed curve through `points`."""
        self.polygon(closed_curve(points), paint)

    def ellipse(
        self, x: float, y: float, a: float, b: float, paint: Paint | None = MAIN_COLOUR, turn: float = 0.0
    ) -> None:
        """Fill an ellipse with half axes a and b, turned clockwise by `turn` degrees."""
        cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        ring = arc(0, 0, a, b, 0, 360)
        self.polygon([(x + cos * p - sin * q, y + sin * p + cos * q) for p, q in ring], paint)

    def box(self, left: float, top: float, right: float, bottom: float, paint: Paint | None = MAIN_COLOUR) -> None:
        """Fill an upright rectangle."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], paint)

    def stroke(self, points: Sequence[Point], width: float, paint: Paint | None = MAIN_COLOUR) -> None:
        """A line through `points` with round joints and ends."""
        for (ax, ay), (bx, by) in pairwise(points):
            length = math.hypot(bx - ax, by - ay) or 1.0
            px, py = -(by - ay) / length * width / 2, (bx - ax) / length * width / 2
            self.polygon([(ax + px, ay + py), (bx + px, by + py), (bx - px, by - py), (ax - px, ay - py)], paint)
        for x, y in points:
            self.ellipse(x, y, width / 2, width / 2, paint)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Draw only where something is already: patterns that must not leave the outline."""
        outline, main, own = self._alpha.copy(), self._main.copy(), self._own.copy()
        yield
        self._alpha = ImageChops.multiply(self._alpha, outline)
        self._main = Image.composite(self._main, main, outline)
        self._own = Image.composite(self._own, own, outline)

    def texels(self, side: int) -> NDArray[np.float32]:
        """Coverage, main, red, green and blue, premultiplied: float32 [5, side, side], 0..1."""
        planes = [self._alpha, self._main, *self._own.split()]
        return np.stack(
            [np.asarray(plane.resize((side, side), Image.Resampling.BOX), np.float32) / 255 for plane in planes]
        )


def arc(x: float, y: float, a: float, b: float, start: float, stop: float, steps: int = 48) -> list[Point]:
    """Points of an elliptic arc from `start` to `stop` degrees, clockwise from the right."""
    angles = [math.radians(start + (stop - start) * i / steps) for i in range(steps + 1)]
    return [(x + a * math.cos(t), y + b * math.sin(t)) for t in angles]


def closed_curve(points: Sequence[Point], steps: int = 12) -> list[Point]:
    """A closed Catmull-Rom spline through `points`."""
    found: list[Point] = []
    count = len(points)
    for i in range(count):
        p0, p1, p2, p3 = (points[(i + k - 1) % count] for k in range(4))
        for s in range(steps):
            t = s / steps
            w0, w1 = -0.5 * t + t * t - 0.5 * t**3, 1 - 2.5 * t * t + 1.5 * t**3
            w2, w3 = 0.5 * t + 2 * t * t - 1.5 * t**3, -0.5 * t * t + 0.5 * t**3
            found.append((
                w0 * p0[0] + w1 * p1[0] + w2 * p2[0] + w3 * p3[0],
                w0 * p0[1] + w1 * p1[1] + w2 * p2[1] + w3 * p3[1],
            ))  # fmt: skip
    return found


def mirrored(right: Sequence[Point]) -> list[Point]:
    """A closed outline from its right half, listed from top to bottom."""
    return [*right, *[(-x, y) for x, y in reversed(right)]]
