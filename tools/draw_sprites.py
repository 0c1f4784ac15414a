"""Draw the sprites of the built-in scenes and write them to `pargate/scenes/sprites.npz`.

Everyday things, drawn as silhouettes with a few details in three variants each. Run it after a change here:

    python tools/draw_sprites.py

Adding one: a function of a `Pen` and a variant, an entry in `DRAWINGS`, its name in `LABELS` and its usual colours in
`pargate/scenes/render.py`. Choose things that a child would name alike from the outline. The entry's place is the
label's number, so new ones go to the end.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pargate.scenes.sprites import DISTRACTORS, ELLIPSE, INSIDE, OUTSIDE, VARIANTS

Point = tuple[float, float]
Fixed = tuple[int, int, int]


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
    """Return the paint of a part that keeps its colour in every scene."""
    return Paint(0.0, colour)


class Pen:
    """Records the parts of one sprite, back to front, as polygons and ellipses.

    Coordinates run from -1 to 1, x to the right and y downwards.
    """

    def __init__(self) -> None:
        """Start with nothing drawn."""
        self.points: list[Point] = []
        self.shapes: list[tuple[int, int, int, int, int, int]] = []
        """Kind, coverage, weight of the scene's colour, red, green and blue, each 0..255."""

    def polygon(self, points: Sequence[Point], paint: Paint | None = MAIN_COLOUR) -> None:
        """Fill a polygon; without paint, cut it out."""
        self.points += points
        self._shape(len(points), paint)

    def _shape(self, kind: int, paint: Paint | None) -> None:
        self.shapes.append((kind, 255, round(255 * paint.main), *paint.own) if paint else (kind, *[0] * 5))

    def blob(self, points: Sequence[Point], paint: Paint | None = MAIN_COLOUR) -> None:
        """Fill the smooth closed curve through `points`."""
        self.polygon(closed_curve(points), paint)

    def ellipse(
        self, x: float, y: float, a: float, b: float, paint: Paint | None = MAIN_COLOUR, turn: float = 0.0
    ) -> None:
        """Fill an ellipse with half axes a and b, turned clockwise by `turn` degrees."""
        self.points += [(x, y), (a, b), (turn, 0)]
        self._shape(ELLIPSE, paint)

    def box(self, left: float, top: float, right: float, bottom: float, paint: Paint | None = MAIN_COLOUR) -> None:
        """Fill an upright rectangle."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], paint)

    def stroke(self, points: Sequence[Point], width: float, paint: Paint | None = MAIN_COLOUR) -> None:
        """Draw a line through `points` with round joints and ends."""
        for (ax, ay), (bx, by) in pairwise(points):
            length = math.hypot(bx - ax, by - ay) or 1.0
            px, py = -(by - ay) / length * width / 2, (bx - ax) / length * width / 2
            self.polygon([(ax + px, ay + py), (bx + px, by + py), (bx - px, by - py), (ax - px, ay - py)], paint)
        for x, y in points:
            self.ellipse(x, y, width / 2, width / 2, paint)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Draw only where something is already: patterns that must not leave the outline."""
        self.shapes.append((INSIDE, *[0] * 5))
        yield
        self.shapes.append((OUTSIDE, *[0] * 5))


def arc(x: float, y: float, a: float, b: float, start: float, stop: float, steps: int = 48) -> list[Point]:
    """Return the points of an elliptic arc from `start` to `stop` degrees, clockwise from the right."""
    angles = [math.radians(start + (stop - start) * i / steps) for i in range(steps + 1)]
    return [(x + a * math.cos(t), y + b * math.sin(t)) for t in angles]


def closed_curve(points: Sequence[Point], steps: int = 12) -> list[Point]:
    """Return a closed Catmull-Rom spline through `points`."""
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
    """Return a closed outline from its right half, listed from top to bottom."""
    return [*right, *[(-x, y) for x, y in reversed(right)]]


BROWN, DARK, STEEL = (104, 66, 38), (30, 30, 34), (150, 154, 160)
CREAM, LEAFY, GLASS = (236, 224, 198), (62, 122, 46), (178, 208, 224)
GOLD, WHITE = (232, 190, 60), (246, 246, 244)


def _airplane(pen: Pen, v: int) -> None:
    sweep, span = (0.42, 0.30, 0.16)[v], (0.92, 0.95, 0.9)[v]
    wing = mirrored([(0.08, -0.22), (span, -0.22 + sweep), (span, -0.1 + sweep), (0.08, 0.16)])
    for x in (0.38, 0.6)[: 1 + (v != 1)]:
        for side in (-1, 1):
            pen.ellipse(side * x, -0.2 + sweep * x, 0.055, 0.13, own(STEEL))
    pen.polygon(wing, SHADE)
    pen.polygon(mirrored([(0.05, 0.62), (0.36, 0.82), (0.36, 0.92), (0.05, 0.84)]), SHADE)
    pen.blob(mirrored([(0.07, -0.88), (0.14, -0.66), (0.15, 0.0), (0.1, 0.6), (0.04, 0.93)]))
    pen.polygon(mirrored([(0.06, -0.76), (0.09, -0.66), (0.05, -0.62)]), own(DARK))
    pen.box(-0.025, 0.5, 0.025, 0.92, DEEP)


def _apple(pen: Pen, v: int) -> None:
    low, wide = (0.86, 0.82, 0.9)[v], (0.78, 0.84, 0.72)[v]
    body = mirrored(
        [
            (0.1, -0.4),
            (0.42, -0.54),
            (wide - 0.05, -0.3),
            (wide, 0.1),
            (0.56, 0.66),
            (0.28, low),
            (0.07, low - 0.07),
        ]
    )
    pen.blob(body)
    with pen.inside():
        pen.ellipse(0.0, -0.46, 0.26, 0.1, SHADE)
    pen.ellipse(-0.36, -0.1, 0.12, 0.2, GLINT, 25)
    pen.stroke([(0.0, -0.42), (0.03, -0.66), (0.1 + 0.05 * v, -0.88)], 0.08, own(BROWN))
    if v != 2:
        pen.blob([(0.08, -0.6), (0.24, -0.84), (0.58, -0.88), (0.42, -0.62)], own(LEAFY))


def _banana(pen: Pen, v: int) -> None:
    deep, thick = (1.12, 1.2, 1.0)[v], (0.52, 0.46, 0.6)[v]
    outer = arc(0, -0.66, 0.93, deep, 8, 172)
    inner = arc(0, -0.66, 0.77, deep - thick, 168, 12)
    pen.polygon([*outer, *inner])
    with pen.inside():
        pen.polygon([*outer, *arc(0, -0.66, 0.88, deep - 0.3 * thick, 172, 8)], Paint(0.82))
    ridge = arc(0, -0.66, 0.83, deep - 0.62 * thick, 24, 156)
    with pen.inside():
        pen.stroke(ridge, 0.025, SHADE)
    x, y = outer[0]
    pen.polygon([(x - 0.16, y + 0.02), (x - 0.08, y - 0.2), (x + 0.02, y - 0.2), (x, y + 0.02)], own((120, 110, 48)))
    pen.stroke([(x - 0.08, y - 0.2), (x + 0.02, y - 0.2)], 0.05, own(BROWN))
    x, y = outer[-1]
    pen.polygon([(x + 0.16, y + 0.02), (x + 0.1, y - 0.09), (x + 0.02, y - 0.09), (x, y + 0.02)], own((70, 54, 34)))


def _butterfly(pen: Pen, v: int) -> None:
    tall = (0.84, 0.72, 0.9)[v]
    low = (0.78, 0.66, 0.9)[v]
    spot = (own(WHITE), own(GOLD), DEEP)[v]
    for s in (-1, 1):
        upper = [(0.04, -0.12), (0.28, -0.62), (0.68, -tall), (0.93, -0.62), (0.78, -0.16), (0.36, 0.06)]
        lower = [(0.04, 0.0), (0.44, 0.0), (0.74, 0.24), (0.62, low - 0.06), (0.36, low), (0.14, 0.42)]
        for wing in (lower, upper):
            pen.blob([(s * x, y) for x, y in wing], own(DARK))
            middle = (sum(x for x, _ in wing) / 6, sum(y for _, y in wing) / 6)
            pen.blob([(s * (middle[0] + 0.84 * (x - middle[0])), middle[1] + 0.84 * (y - middle[1])) for x, y in wing])
        pen.ellipse(s * 0.66, -0.54, 0.11, 0.14, spot)
        pen.ellipse(s * 0.46, 0.36, 0.1, 0.1, spot)
        pen.stroke([(0, -0.36), (s * 0.12, -0.66), (s * 0.26, -0.84)], 0.035, own(DARK))
    pen.ellipse(0, 0.04, 0.075, 0.46, own(DARK))
    pen.ellipse(0, -0.4, 0.085, 0.085, own(DARK))


def _cactus(pen: Pen, v: int) -> None:
    left, right = ((-0.3, 0.0), (-0.05, -0.35), (0.05, 0.1))[v]
    foot = 0.5 if v == 1 else 0.92
    for s, height in ((-1, left), (1, right)):
        pen.stroke([(s * 0.1, height + 0.34), (s * 0.5, height + 0.34), (s * 0.54, height - 0.2)], 0.24)
        pen.stroke([(s * 0.54, height + 0.24), (s * 0.54, height - 0.2)], 0.03, SHADE)
    pen.stroke([(0, -0.7), (0, foot - 0.18)], 0.42)
    for x in (-0.11, 0.0, 0.11):
        pen.stroke([(x, -0.76), (x, foot - 0.08)], 0.03, SHADE)
    for i in range(7):
        for x in (-0.16, -0.055, 0.055, 0.16):
            pen.ellipse(x, -0.7 + 0.2 * i + (x > 0) * 0.07, 0.014, 0.022, own(CREAM))
    if v == 1:
        pen.polygon([(-0.38, 0.42), (0.38, 0.42), (0.28, 0.94), (-0.28, 0.94)], own((176, 92, 58)))
        pen.box(-0.43, 0.38, 0.43, 0.52, own((192, 104, 66)))
    else:
        pen.ellipse(0, 0.9, 0.5, 0.07, own((150, 124, 86)))


def _car(pen: Pen, v: int) -> None:
    roofs: list[list[Point]] = [
        [(-0.55, -0.06), (-0.34, -0.42), (0.24, -0.42), (0.52, -0.04)],
        [(-0.78, -0.04), (-0.5, -0.42), (0.0, -0.56), (0.42, -0.4), (0.6, -0.02)],
        [(-0.92, -0.02), (-0.88, -0.52), (0.34, -0.52), (0.6, -0.04)],
    ]
    roof = roofs[v]
    pen.polygon([*roof, (0.6, 0.1), (-0.9, 0.1)])
    pen.blob(
        [
            (-0.93, -0.02),
            (0.0, -0.08),
            (0.6, -0.06),
            (0.92, 0.04),
            (0.95, 0.3),
            (0.8, 0.36),
            (-0.84, 0.36),
            (-0.96, 0.26),
        ]
    )
    with pen.inside():
        pen.box(-1, 0.24, 1, 0.5, SHADE)
    top, base = (-0.36, -0.48, -0.45)[v], -0.04
    for a, b in ((-0.48, -0.08), (-0.02, 0.4)):
        shift = 0.12
        pen.polygon(
            [
                (a + (shift if a < -0.3 and v != 2 else 0), top),
                (b - (shift if b > 0.3 else 0), top),
                (b, base),
                (a, base),
            ],
            own(GLASS),
        )
    for x in (-0.54, 0.54):
        pen.ellipse(x, 0.36, 0.235, 0.235, own(DARK))
        pen.ellipse(x, 0.36, 0.125, 0.125, own(STEEL))
    pen.ellipse(0.86, 0.1, 0.07, 0.06, own((255, 240, 180)))
    pen.box(-0.94, 0.06, -0.86, 0.16, own((190, 30, 30)))
    pen.stroke([(-0.05, -0.02), (-0.05, 0.3)], 0.02, DEEP)
    pen.stroke([(0.06, 0.06), (0.14, 0.06)], 0.03, DEEP)


def _carrot(pen: Pen, v: int) -> None:
    wide = (0.36, 0.28, 0.44)[v]
    for turn, length in ((-38, 0.28), (-14, 0.33), (12, 0.34), (36, 0.28)):
        x, y = math.sin(math.radians(turn)), -math.cos(math.radians(turn))
        pen.ellipse(0.9 * length * x, -0.42 + 0.9 * length * y, 0.1, length * 0.62, own((70, 140 - turn, 50)), turn)
    pen.blob(mirrored([(0.12, -0.52), (wide, -0.36), (wide * 0.9, -0.05), (0.16, 0.55), (0.03, 0.93)]))
    for y, a, b in ((-0.28, -1, -0.2), (-0.1, 0.0, 1), (0.1, -1, -0.1), (0.28, 0.1, 1), (0.46, -1, 0.2)):
        with pen.inside():
            pen.stroke([(a * wide, y), (b * wide, y + 0.02)], 0.035, SHADE)
    pen.ellipse(-wide * 0.4, -0.2, 0.05, 0.16, GLINT, 8)


def _cloud(pen: Pen, v: int) -> None:
    puffs: list[list[tuple[float, float, float]]] = [
        [(-0.55, 0.14, 0.34), (-0.18, -0.14, 0.44), (0.3, -0.06, 0.4), (0.62, 0.18, 0.3)],
        [(-0.62, 0.2, 0.28), (-0.3, 0.0, 0.36), (0.14, -0.2, 0.42), (0.54, 0.02, 0.32), (0.7, 0.24, 0.24)],
        [(-0.5, 0.0, 0.4), (0.02, -0.18, 0.36), (0.46, 0.04, 0.44)],
    ]
    for x, y, r in puffs[v]:
        pen.ellipse(x, y, r, r * 0.92, MAIN_COLOUR)
    pen.stroke([(-0.62, 0.3), (0.64, 0.3)], 0.36)
    for x, y, r in puffs[v]:
        with pen.inside():
            pen.stroke(arc(x, y, r * 0.8, r * 0.74, 40, 110), 0.05, Paint(0.86))
    with pen.inside():
        pen.box(-1, 0.34, 1, 0.6, Paint(0.84))


def _crown(pen: Pen, v: int) -> None:
    spikes = (5, 3, 4)[v]
    tips = [(-0.82 + 1.64 * i / (spikes - 1), -0.62 - 0.18 * (abs(i - (spikes - 1) / 2) < 0.6)) for i in range(spikes)]
    outline: list[Point] = [(-0.7, 0.62)]
    for i, tip in enumerate(tips):
        outline.append(tip)
        if i + 1 < spikes:
            outline.append(((tip[0] + tips[i + 1][0]) / 2 * 0.9, 0.02))
    pen.polygon([*outline, (0.7, 0.62)])
    pen.box(-0.7, 0.36, 0.7, 0.62, SHADE)
    for i, (x, y) in enumerate(tips):
        pen.ellipse(x, y, 0.1, 0.1, (own((200, 40, 60)), own((60, 90, 200)), MAIN_COLOUR)[(i + v) % 3])
    for i, x in enumerate((-0.45, 0.0, 0.45)):
        pen.ellipse(x, 0.49, 0.1, 0.075, own(((190, 30, 50), (40, 130, 80), (50, 80, 190))[(i + v) % 3]))
    pen.box(-0.74, 0.6, 0.74, 0.72)


def _cup(pen: Pen, v: int) -> None:
    top, base = (0.56, 0.58, 0.62)[v], (0.46, 0.56, 0.34)[v]
    x = -0.14
    if v == 2:
        pen.ellipse(x, 0.74, 0.78, 0.14, SHADE)
        pen.ellipse(x, 0.71, 0.6, 0.09)
    pen.ellipse(x + top + 0.06, 0.02, 0.3, 0.34)
    pen.ellipse(x + top + 0.05, 0.02, 0.17, 0.21, None)
    pen.polygon([(x - top, -0.5), (x + top, -0.5), (x + base, 0.6), *arc(x, 0.6, base, 0.12, 0, 180), (x - base, 0.6)])
    with pen.inside():
        pen.polygon([(x + top * 0.62, -0.5), (x + top, -0.5), (x + base, 0.72), (x + base * 0.62, 0.74)], SHADE)
    pen.ellipse(x, -0.5, top, 0.17, SHADE)
    pen.ellipse(x, -0.48, top - 0.07, 0.125, own((86, 54, 34)) if v != 1 else DEEP)
    pen.stroke([(x - top * 0.66, -0.2), (x - base * 0.66, 0.4)], 0.08, GLINT)


def _fish(pen: Pen, v: int) -> None:
    tall = (0.46, 0.36, 0.58)[v]
    pen.blob([(-0.44, 0.0), (-0.7, -0.36), (-0.95, -0.44), (-0.8, 0.0), (-0.95, 0.44), (-0.7, 0.36)], SHADE)
    pen.blob([(-0.24, -tall * 0.7), (0.0, -tall - 0.28), (0.36, -tall - 0.1), (0.34, -tall * 0.6)], SHADE)
    pen.blob([(-0.2, tall * 0.6), (0.0, tall + 0.22), (0.16, tall * 0.7)], SHADE)
    pen.blob(
        [
            (-0.58, 0.0),
            (-0.3, -tall * 0.72),
            (0.2, -tall),
            (0.66, -tall * 0.62),
            (0.94, 0.03),
            (0.66, tall * 0.6),
            (0.2, tall),
            (-0.3, tall * 0.72),
        ]
    )
    if v == 0:
        for left in (-0.25, 0.12):
            with pen.inside():
                pen.stroke(arc(left - 0.2, 0, 0.28, tall, -62, 62), 0.13, own(WHITE))
    elif v == 1:
        with pen.inside():
            pen.polygon([(-0.6, 0.12), (0.9, 0.12), (0.9, 0.8), (-0.6, 0.8)], Paint(0.5, (110, 110, 104)))
    else:
        for x in (-0.3, -0.1, 0.1, 0.3):
            for y in (-0.26, 0.0, 0.26):
                with pen.inside():
                    pen.stroke(arc(x, y, 0.1, 0.13, -70, 70, 12), 0.03, SHADE)
    pen.stroke(arc(0.4, 0, 0.12, tall * 0.62, -66, 66, 16), 0.035, DEEP)
    pen.blob([(0.26, 0.04), (0.02, 0.1), (-0.04, 0.26), (0.14, 0.22)], SHADE)
    pen.ellipse(0.68, -0.1, 0.1, 0.1, own(WHITE))
    pen.ellipse(0.7, -0.1, 0.055, 0.055, own(DARK))


def _flower(pen: Pen, v: int) -> None:
    petals, length, wide = ((5, 0.34, 0.24), (8, 0.36, 0.15), (12, 0.38, 0.1))[v]
    y = -0.34
    pen.stroke([(0, y), (0.03, 0.3), (-0.02, 0.94)], 0.07, own(LEAFY))
    pen.blob([(0.0, 0.72), (0.2, 0.34), (0.52, 0.26), (0.36, 0.6)], own((74, 140, 52)))
    if v != 1:
        pen.blob([(0.0, 0.82), (-0.2, 0.5), (-0.5, 0.44), (-0.34, 0.74)], own((56, 112, 44)))
    for i in range(petals):
        turn = 360 * i / petals - 90
        x0, y0 = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        pen.ellipse(0.36 * x0, y + 0.36 * y0, length * 0.72, wide, MAIN_COLOUR if i % 2 else Paint(0.86), turn)
    pen.ellipse(0, y, 0.19, 0.19, own((226, 170, 40)) if v != 2 else own((92, 58, 30)))
    pen.ellipse(0.02, y + 0.03, 0.1, 0.1, own((196, 138, 30)) if v != 2 else own((64, 40, 24)))


def _guitar(pen: Pen, v: int) -> None:
    wood = own((92, 60, 36))
    pen.box(-0.06, -0.8, 0.06, 0.2, wood)
    pen.polygon([(-0.1, -0.95), (0.1, -0.95), (0.075, -0.68), (-0.075, -0.68)], own((60, 40, 26)))
    for y in (-0.9, -0.82, -0.74):
        for s in (-1, 1):
            pen.ellipse(s * 0.125, y, 0.035, 0.024, own(STEEL))
    if v == 2:
        pen.blob(
            [
                (0.1, 0.02),
                (0.36, -0.22),
                (0.32, 0.16),
                (0.44, 0.6),
                (0.24, 0.9),
                (-0.24, 0.9),
                (-0.44, 0.6),
                (-0.32, 0.2),
                (-0.42, -0.08),
                (-0.14, 0.06),
            ]
        )
        for y in (0.28, 0.5):
            pen.box(-0.16, y - 0.045, 0.16, y + 0.045, own(DARK))
    else:
        w = (0.46, 0.5)[v]
        pen.blob(mirrored([(0.08, -0.12), (0.32, -0.02), (0.27, 0.24), (w, 0.56), (0.3, 0.88), (0.08, 0.94)]))
        pen.ellipse(0, 0.26, 0.145, 0.145, own((44, 28, 20)))
        pen.box(-0.06, -0.14, 0.06, 0.14, wood)
    pen.box(-0.15, 0.66, 0.15, 0.73, own((60, 40, 26)))
    for x in (-0.032, 0.0, 0.032):
        pen.box(x - 0.006, -0.7, x + 0.006, 0.68, own(CREAM))


def _heart(pen: Pen, v: int) -> None:
    points = []
    for i in range(96):
        t = 2 * math.pi * i / 96
        x = math.sin(t) ** 3
        y = -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16
        points.append(((0.9, 0.8, 0.92)[v] * x, (0.86, 0.94, 0.76)[v] * y - 0.06))
    pen.polygon(points)
    if v == 1:
        with pen.inside():
            pen.polygon([(0.0, -1), (1, -1), (1, 1), (0.0, 1)], Paint(0.82))
    pen.ellipse(-0.46, -0.44, 0.1, 0.19, GLINT, 40)


def _house(pen: Pen, v: int) -> None:
    roof = own(((150, 62, 48), (92, 70, 60), (74, 84, 98))[v])
    wide, eave, ridge = ((0.68, -0.1, -0.86), (0.6, 0.0, -0.9), (0.82, 0.0, -0.66))[v]
    pen.box(0.26, ridge + 0.06, 0.44, eave, own((126, 72, 56)))
    pen.box(-wide, eave - 0.02, wide, 0.84)
    if v == 2:
        pen.polygon([(-wide - 0.1, eave), (-wide * 0.6, ridge), (wide * 0.6, ridge), (wide + 0.1, eave)], roof)
    else:
        pen.polygon(
            [
                (-wide - 0.16, eave),
                (0, ridge),
                (wide + 0.16, eave),
                (wide + 0.16, eave + 0.07),
                (-wide - 0.16, eave + 0.07),
            ],
            roof,
        )
    pen.box(-wide, 0.78, wide, 0.84, SHADE)
    pen.box(-0.15, 0.32, 0.15, 0.84, own((94, 58, 38)))
    pen.ellipse(0.09, 0.6, 0.025, 0.025, own(GOLD))
    for x in (-0.42, 0.42) if v != 2 else (-0.54, 0.54):
        pen.box(x - 0.15, 0.2, x + 0.15, 0.52, own(WHITE))
        pen.box(x - 0.12, 0.23, x + 0.12, 0.49, own((150, 190, 214)))
        pen.box(x - 0.012, 0.2, x + 0.012, 0.52, own(WHITE))
        pen.box(x - 0.12, 0.348, x + 0.12, 0.372, own(WHITE))


def _key(pen: Pen, v: int) -> None:
    if v == 2:
        pen.blob([(-0.93, 0.0), (-0.8, -0.32), (-0.4, -0.32), (-0.28, 0.0), (-0.4, 0.32), (-0.8, 0.32)])
        pen.ellipse(-0.7, 0, 0.13, 0.13, None)
    else:
        pen.ellipse(-0.58, 0, 0.36, 0.36)
        pen.ellipse(-0.58, 0, 0.2, 0.2, None)
    if v == 1:
        for turn in (90, 210, 330):
            x, y = math.cos(math.radians(turn)), math.sin(math.radians(turn))
            pen.ellipse(-0.58 + 0.3 * x, 0.3 * y, 0.12, 0.12)
    pen.box(-0.28, -0.075, 0.92, 0.075)
    pen.box(-0.26, 0.03, 0.9, 0.075, SHADE)
    teeth = (
        [(0.55, 0.3), (0.78, 0.36)],
        [(0.5, 0.26), (0.66, 0.36), (0.82, 0.26)],
        [(0.4, 0.2), (0.56, 0.28), (0.72, 0.18), (0.86, 0.24)],
    )[v]
    for x, depth in teeth:
        pen.box(x - 0.055, 0.04, x + 0.055, depth)
    pen.box(-0.24, -0.13, -0.16, 0.13)


def _leaf(pen: Pen, v: int) -> None:
    half: list[list[Point]] = [
        [(0.0, -0.92), (0.3, -0.6), (0.5, -0.1), (0.4, 0.32), (0.0, 0.62)],
        [(0.0, -0.9), (0.42, -0.44), (0.66, 0.02), (0.58, 0.4), (0.12, 0.52)],
        [
            (0.0, -0.92),
            (0.12, -0.56),
            (0.34, -0.62),
            (0.3, -0.3),
            (0.72, -0.36),
            (0.56, -0.06),
            (0.8, 0.12),
            (0.44, 0.24),
            (0.46, 0.5),
            (0.08, 0.42),
        ],
    ]
    pen.stroke([(0, 0.4), (0.02, 0.7), (0.08, 0.94)], 0.06, DEEP)
    (pen.polygon if v == 2 else pen.blob)(mirrored(half[v]))
    veins: list[list[Point]] = [[(0, -0.84), (0, 0.6)]]
    for y in (-0.5, -0.2, 0.1, 0.36):
        veins += [[(0, y + 0.16), (s * 0.7, y - 0.16)] for s in (-1, 1)]
    for vein in veins:
        with pen.inside():
            pen.stroke(vein, 0.03, Paint(0.66))


def _moon(pen: Pen, v: int) -> None:
    shift, size = ((0.42, 0.74), (0.3, 0.68), (0.52, 0.84))[v]
    pen.ellipse(0, 0, 0.9, 0.9)
    for x, y, r in (
        (-0.62, -0.16, 0.11),
        (-0.55, 0.3, 0.14),
        (-0.32, 0.66, 0.08),
        (-0.3, -0.66, 0.07),
        (-0.74, 0.1, 0.06),
    ):
        pen.ellipse(x, y, r, r, Paint(0.84))
    pen.ellipse(shift, -0.04, size, size, None)


def _mushroom(pen: Pen, v: int) -> None:
    flat, stem = (0.0, 0.08, -0.12)[v], (0.22, 0.16, 0.28)[v]
    pen.blob(mirrored([(stem * 0.8, flat), (stem * 0.8, 0.4), (stem * 1.15, 0.84), (0.1, 0.93)]), own(CREAM))
    with pen.inside():
        pen.box(stem * 0.3, flat, 1, 1, own((214, 198, 168)))
    if v != 1:
        pen.polygon(
            [
                *arc(0, flat + 0.16, stem + 0.12, 0.09, 180, 360),
                *arc(0, flat + 0.3, stem + 0.14, 0.07, 0, 180),
            ],
            own((226, 212, 184)),
        )
    tall = (0.88, 0.96, 0.66)[v]
    dome = arc(0, flat, 0.86, tall, 180, 360)
    pen.polygon([*dome, *arc(0, flat, 0.86, 0.18, 0, 180)])
    with pen.inside():
        pen.polygon(arc(0, flat, 0.86, 0.18, 0, 180), SHADE)
    if v != 2:
        for x, y, r in (
            (-0.5, -0.26, 0.12),
            (-0.12, -0.56, 0.15),
            (0.3, -0.3, 0.13),
            (0.62, -0.16, 0.08),
            (-0.2, -0.12, 0.08),
            (0.3, -0.66, 0.08),
        ):
            with pen.inside():
                pen.ellipse(x, y * tall / 0.88 + flat, r, r * 0.85, own(WHITE))
    else:
        pen.ellipse(-0.36, flat - 0.36, 0.2, 0.09, GLINT, -30)


def _rocket(pen: Pen, v: int) -> None:
    for width, length, colour in (
        (0.26, 0.95, (240, 110, 30)),
        (0.16, 0.84, (252, 196, 60)),
        (0.08, 0.74, (255, 244, 190)),
    ):
        pen.blob(mirrored([(0.1, 0.52), (width, 0.62), (0.03, length)]), own(colour))
    fin = DEEP if v == 1 else own(((70, 78, 96), (0, 0, 0), (176, 44, 44))[v])
    pen.polygon(mirrored([(0.1, 0.08), (0.56, 0.5), (0.54, 0.76), (0.2, 0.56)]), fin)
    wide = (0.3, 0.25, 0.34)[v]
    pen.blob(mirrored([(0.015, -0.94), (wide * 0.72, -0.52), (wide, 0.0), (wide * 0.76, 0.54)]))
    with pen.inside():
        pen.box(-1, -1, 1, -0.54, fin)
    pen.polygon(mirrored([(wide * 0.78, 0.44), (wide * 0.72, 0.56)]), own(STEEL))
    with pen.inside():
        pen.polygon([(wide * 0.5, -0.5), (wide, -0.4), (wide, 0.2), (wide * 0.5, 0.44)], SHADE)
    for y in (-0.2, 0.16) if v == 1 else (-0.16,):
        pen.ellipse(0, y, 0.155, 0.155, own(STEEL))
        pen.ellipse(0, y, 0.11, 0.11, own((120, 180, 220)))
    pen.box(-0.03, 0.3, 0.03, 0.76, fin)


def _sailboat(pen: Pen, v: int) -> None:
    pen.box(-0.055, -0.9, -0.005, 0.5, own(BROWN))
    sail = own(((244, 242, 236), (250, 246, 226), (236, 238, 244))[v])
    right = (
        [(0.03, -0.86), (0.74, 0.34), (0.03, 0.34)],
        [(0.03, -0.9), (0.5, -0.2), (0.56, 0.34), (0.03, 0.34)],
        [(0.03, -0.84), (0.84, 0.3), (0.03, 0.36)],
    )[v]
    pen.polygon(right, sail)
    if v != 2:
        pen.polygon([(-0.1, -0.7), (-0.1, 0.34), (-0.66, 0.34)], own((220, 220, 222)))
    with pen.inside():
        pen.stroke([(0.0, -0.1), (0.9, -0.1)], 0.1, MAIN_COLOUR)
    hull = (
        [(-0.9, 0.46), (0.94, 0.46), (0.66, 0.84), (-0.62, 0.84)]
        if v != 1
        else [(-0.84, 0.42), (0.0, 0.5), (0.93, 0.4), (0.6, 0.86), (-0.6, 0.86)]
    )
    pen.polygon(hull)
    with pen.inside():
        pen.box(-1, 0.72, 1, 1, DEEP)


def _star(pen: Pen, v: int) -> None:
    inner = (0.4, 0.48, 0.36)[v]
    points: list[Point] = []
    for i in range(10):
        r = 0.94 if i % 2 == 0 else 0.94 * inner
        t = math.radians(36 * i - 90)
        points.append((r * math.cos(t), r * math.sin(t) + 0.04))
    pen.polygon(points)
    if v == 2:
        for i in range(0, 10, 2):
            pen.polygon([(0, 0.04), points[i], points[(i + 1) % 10]], SHADE)


def _tree(pen: Pen, v: int) -> None:
    pen.polygon([(-0.1, 0.0), (0.1, 0.0), (0.16, 0.94), (-0.16, 0.94)], own(BROWN))
    pen.polygon([(0.04, 0.0), (0.1, 0.0), (0.16, 0.94), (0.06, 0.94)], own((80, 50, 30)))
    if v == 0:
        for x, y, r in (
            (-0.42, 0.0, 0.38),
            (0.42, -0.02, 0.38),
            (0.0, 0.12, 0.36),
            (-0.26, -0.4, 0.38),
            (0.28, -0.42, 0.38),
            (0.0, -0.56, 0.36),
        ):
            pen.ellipse(x, y, r, r)
        for x, y, r in ((-0.4, 0.06, 0.26), (0.36, 0.08, 0.26), (0.0, -0.3, 0.26), (0.28, -0.46, 0.2)):
            pen.stroke(arc(x, y, r, r, 20, 130, 16), 0.06, SHADE)
    elif v == 1:
        for y, w in ((0.5, 0.72), (0.12, 0.56), (-0.26, 0.4)):
            pen.polygon([(0, y - 0.72), (w, y), (w * 0.5, y + 0.05), (0, y), (-w * 0.5, y + 0.05), (-w, y)])
            pen.polygon(
                [
                    (-w, y),
                    (-w * 0.5, y + 0.05),
                    (0, y),
                    (w * 0.5, y + 0.05),
                    (w, y),
                    (w * 0.84, y - 0.12),
                    (-w * 0.84, y - 0.12),
                ],
                SHADE,
            )
    else:
        pen.stroke([(0.0, 0.3), (-0.3, 0.0)], 0.08, own(BROWN))
        pen.blob(mirrored([(0.12, -0.92), (0.54, -0.76), (0.62, -0.4), (0.86, -0.1), (0.6, 0.24), (0.2, 0.18)]))
        for x, y in (
            (-0.4, -0.4),
            (0.3, -0.6),
            (0.5, -0.1),
            (-0.1, -0.1),
            (-0.5, 0.0),
            (0.02, -0.5),
            (0.2, 0.0),
        ):
            with pen.inside():
                pen.stroke(arc(x, y, 0.14, 0.12, 10, 150, 12), 0.05, SHADE)


def _umbrella(pen: Pen, v: int) -> None:
    rim, tall = (0.0, 0.06, -0.06)[v], (0.78, 0.66, 0.82)[v]
    hook = arc(0.14, 0.74, 0.14, 0.16, 180, 10)
    pen.stroke([(0, -0.9), (0, 0.74)], 0.06, own(STEEL))
    pen.stroke([(0, 0.56), *hook], 0.09, own(BROWN))
    pen.polygon(arc(0, rim, 0.93, tall, 180, 360))
    scallops = (4, 6, 5)[v]
    width = 1.86 / scallops
    for i in range(scallops):
        left = -0.93 + width * i
        if i % 2:
            ribs = [*arc(0, rim, abs(left), tall, 180 if left < 0 else 0, 270 if left < 0 else -90, 24)]
            right = left + width
            back = arc(0, rim, abs(right), tall, -90 if right > 0 else 270, 0 if right > 0 else 180, 24)
            with pen.inside():
                pen.polygon([*ribs, *back], SHADE)
    for i in range(scallops):
        centre = -0.93 + width * (i + 0.5)
        pen.ellipse(centre, rim + 0.01, width / 2, 0.11, None)
    pen.stroke([(0, rim - 0.06), (0, 0.5)], 0.06, own(STEEL))


DRAWINGS: tuple[tuple[str, Callable[[Pen, int], None]], ...] = (
    ("airplane", _airplane),
    ("apple", _apple),
    ("banana", _banana),
    ("butterfly", _butterfly),
    ("cactus", _cactus),
    ("car", _car),
    ("carrot", _carrot),
    ("cloud", _cloud),
    ("crown", _crown),
    ("cup", _cup),
    ("fish", _fish),
    ("flower", _flower),
    ("guitar", _guitar),
    ("heart", _heart),
    ("house", _house),
    ("key", _key),
    ("leaf", _leaf),
    ("moon", _moon),
    ("mushroom", _mushroom),
    ("rocket", _rocket),
    ("sailboat", _sailboat),
    ("star", _star),
    ("tree", _tree),
    ("umbrella", _umbrella),
)
"""Name and drawing of everything that can be the subject of a scene, by label number."""


def distractor(pen: Pen, index: int) -> None:
    """Return a shape without an everyday name, so that it makes no caption false."""
    if index < 3:  # a pebble
        radii = (
            (0.8, 0.62, 0.84, 0.7, 0.9, 0.66),
            (0.6, 0.9, 0.7, 0.86, 0.6, 0.84),
            (0.86, 0.8, 0.56, 0.82, 0.74, 0.6),
        )[index]
        pen.blob([(r * math.cos(i * math.pi / 3), r * math.sin(i * math.pi / 3)) for i, r in enumerate(radii)])
    elif index == 3:  # a slab
        pen.polygon([(-0.86, -0.34), (0.84, -0.4), (0.9, 0.32), (-0.8, 0.4)])
        with pen.inside():
            pen.box(-1, 0.1, 1, 1, SHADE)
    elif index == 4:  # a loop
        pen.ellipse(0, 0, 0.84, 0.7)
        pen.ellipse(0.05, 0, 0.5, 0.38, None)
    else:  # a bent strip
        pen.stroke(closed_curve([(-0.7, 0.2), (-0.2, -0.5), (0.3, 0.3), (0.74, -0.2)])[:36], 0.26)


def draw() -> dict[str, NDArray[np.generic]]:
    """Return all sprites as arrays: their points, their shapes, and the number of shapes of each sprite."""
    pens: list[Pen] = []
    for _, drawing in DRAWINGS:
        for variant in range(VARIANTS):
            pens.append(Pen())
            drawing(pens[-1], variant)
    for index in range(DISTRACTORS):
        pens.append(Pen())
        distractor(pens[-1], index)
    return {
        "points": np.array([point for pen in pens for point in pen.points], dtype=np.float64),
        "shapes": np.array([shape for pen in pens for shape in pen.shapes], dtype=np.int16),
        "counts": np.array([len(pen.shapes) for pen in pens], dtype=np.int16),
    }


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).parents[1] / "pargate" / "scenes" / "sprites.npz", **draw())
