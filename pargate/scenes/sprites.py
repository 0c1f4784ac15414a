"""Fill sprites as bytes that can be turned, scaled and recoloured fast.

`tools/draw_sprites.py` writes their outlines to `sprites.npz`. Every sprite is filled once at a high resolution and
reduced to eight bytes per texel, so that a pixel of an image needs one gather of a 64-bit word. The outlines leave the
border empty.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import islice, pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

Point = tuple[float, float]

VARIANTS = 3
"""Number of sprites per label."""
DISTRACTORS = 6
"""Number of sprites without a label, stored behind the others."""

REACH = 0.86
"""Share of a sprite's side that outlines may use; a shadow's blur fits into the rest."""

INSIDE, OUTSIDE, ELLIPSE = 0, -1, -2
"""Kinds of shapes; any other number is a polygon of so many points. Shapes between INSIDE and OUTSIDE are clipped to
the existing ones. An ellipse has three points: its centre, its half axes, and its rotation in degrees with 0."""

ALPHA, MAIN, RED, GREEN, BLUE, SLOPE_X, SLOPE_Y, SHADOW = range(8)
"""Bytes of a texel: coverage, weight of the scene's colour, the part's own colour (these five premultiplied
by coverage, 0..255), slope of the relief in x and y (128 is flat), coverage of the soft shadow (0..255)."""


@dataclass(frozen=True, slots=True)
class Atlas:
    """All sprites at one resolution."""

    side: int
    """Texels along a sprite's edge."""
    texels: NDArray[np.uint64]
    """[sprites · side · side]: sprite `label · VARIANTS + variant`, then distractors; bytes as above."""
    shadows: NDArray[np.uint8]
    """[sprites · side · side], a copy of the last of these bytes, which for one sprite fits a small cache."""


def _blurred(plane: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Return a periodic Gaussian blur: float32 [side, side], sigma in texels; borders are empty."""
    side = plane.shape[0]
    f = np.fft.fftfreq(side)[:, None] ** 2 + np.fft.rfftfreq(side)[None, :] ** 2
    return np.asarray(
        np.fft.irfft2(np.fft.rfft2(plane) * np.exp(-2 * (math.pi * sigma) ** 2 * f), s=plane.shape),
        np.float32,
    )


def _ellipse(centre: Point, axes: Point, turn: Point, steps: int = 48) -> list[Point]:
    """Return the points of an ellipse, rotated clockwise."""
    cos, sin = math.cos(math.radians(turn[0])), math.sin(math.radians(turn[0]))
    angles = [math.radians(360 * i / steps) for i in range(steps + 1)]
    ring = [(axes[0] * math.cos(t), axes[1] * math.sin(t)) for t in angles]
    return [(centre[0] + cos * p - sin * q, centre[1] + sin * p + cos * q) for p, q in ring]


def _filled(points: Iterator[Point], shapes: NDArray[np.int16], side: int) -> NDArray[np.float32]:
    """Return coverage, main, red, green and blue of a sprite, premultiplied: float32 [5, side, side], 0..1.

    The points of its shapes are consumed from `points`.
    """
    half = 3 * side / 2  # 3 × 3 samples per texel for the anti-aliased edge
    alpha, main, own = (Image.new(mode, (3 * side, 3 * side)) for mode in ("L", "L", "RGB"))
    below = alpha, main, own
    for kind, coverage, weight, *colour in shapes.tolist():
        if kind == INSIDE:
            below = alpha.copy(), main.copy(), own.copy()
        elif kind == OUTSIDE:
            outline, main_below, own_below = below
            alpha = ImageChops.multiply(alpha, outline)
            main = Image.composite(main, main_below, outline)
            own = Image.composite(own, own_below, outline)
        else:
            edge = _ellipse(next(points), next(points), next(points)) if kind == ELLIPSE else islice(points, kind)
            pixels = [((REACH * x + 1) * half, (REACH * y + 1) * half) for x, y in edge]
            for canvas, fill in ((alpha, coverage), (main, weight), (own, tuple(colour))):
                ImageDraw.Draw(canvas).polygon(pixels, fill=fill)
    planes = [plane.resize((side, side), Image.Resampling.BOX) for plane in (alpha, main, *own.split())]
    return np.stack([np.asarray(plane, np.float32) / 255 for plane in planes])


def _pack(planes: NDArray[np.float32], side: int) -> NDArray[np.uint8]:
    """Return the eight bytes of every texel: uint8 [side, side, 8]."""
    alpha = planes[0]
    # A rounded relief: the outline's own blur, wide for the body and narrow for the rim.
    height = alpha * (0.7 * _blurred(alpha, side * 0.07) + 0.3 * _blurred(alpha, side * 0.02))
    slope_y, slope_x = np.gradient(height * side * 0.12)
    inside = np.minimum(1, 3 * _blurred(alpha, side * 0.004) * alpha)
    shadow = np.clip(_blurred(alpha, side * 0.035), 0, 1)
    stack = [*planes, 0.5 + 0.4 * np.tanh(slope_x) * inside, 0.5 + 0.4 * np.tanh(slope_y) * inside, shadow]
    return np.stack([np.floor(255 * np.clip(plane, 0, 1) + 0.5) for plane in stack], axis=-1).astype(np.uint8)


@lru_cache(maxsize=2)
def atlas(side: int) -> Atlas:
    """Return every sprite, filled at `side` texels; the last two sizes are cached."""
    with (resources.files("pargate.scenes") / "sprites.npz").open("rb") as stream, np.load(stream) as drawn:
        points, shapes, counts = iter(drawn["points"].tolist()), drawn["shapes"], drawn["counts"]
    cuts = pairwise([0, *np.cumsum(counts).tolist()])
    sprites = [_pack(_filled(points, shapes[begin:end], side), side) for begin, end in cuts]
    stack = np.stack(sprites)
    return Atlas(side, stack.view("<u8").reshape(-1), stack[..., SHADOW].flatten())
