"""Drawings as bytes that can be turned, scaled and recoloured by the million.

Every sprite is drawn once at a high resolution and reduced to eight bytes per texel, so that one gather of a
64-bit word fetches all that a pixel of the picture needs. Assumes drawings that leave the border empty.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pargate.scenes.drawings import DRAWINGS, distractor
from pargate.scenes.pen import Pen

VARIANTS = 3
"""Drawings per label."""
DISTRACTORS = 6
"""Sprites without a name, stored behind those of the labels."""

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
    """[sprites · side · side], the last of these bytes once more: on their own, a sprite's fit a small cache."""


def _blurred(plane: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """A Gaussian blur, periodic (borders are empty): float32 [side, side], sigma in texels."""
    side = plane.shape[0]
    f = np.fft.fftfreq(side)[:, None] ** 2 + np.fft.rfftfreq(side)[None, :] ** 2
    return np.asarray(
        np.fft.irfft2(np.fft.rfft2(plane) * np.exp(-2 * (math.pi * sigma) ** 2 * f), s=plane.shape),
        np.float32,
    )


def _pack(pen: Pen, side: int) -> NDArray[np.uint8]:
    """The eight bytes of every texel: uint8 [side, side, 8]."""
    planes = pen.texels(side)
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
    """Draw every sprite at `side` texels. Takes a moment; the last two sizes are kept."""
    sprites: list[NDArray[np.uint8]] = []
    for _, draw in DRAWINGS:
        for variant in range(VARIANTS):
            pen = Pen(3 * side)  # 3 × 3 samples per texel for the anti-aliased edge
            draw(pen, variant)
            sprites.append(_pack(pen, side))
    for index in range(DISTRACTORS):
        pen = Pen(3 * side)
        distractor(pen, index)
        sprites.append(_pack(pen, side))
    stack = np.stack(sprites)
    return Atlas(side, stack.view("<u8").reshape(-1), stack[..., SHADOW].flatten())
