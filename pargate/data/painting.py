"""Pixels of scenes: noise with the spectrum of photographs, lit surfaces, sprites with shadows, a camera.

Everything works on a chunk of images at once, float32 [n, 3, size, size] with values around [0, 1]. No
operation mixes images or depends on how many there are, so an image is the same in any batch.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from pargate.data import sprites
from pargate.seeds import Keys, index_keys, normal, uniform

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_DRAWS = 192  # numbers per image; more than are ever taken


class Draws:
    """Uniform numbers of n images, taken in the order of the program text."""

    def __init__(self, keys: Keys) -> None:
        self._columns = np.ascontiguousarray(uniform(keys, _DRAWS).T)
        self._taken = 0

    def __call__(self, low: float = 0.0, high: float = 1.0) -> F64:
        """One number per image: float64 [n], uniform in [low, high)."""
        found: F64 = low + (high - low) * self.several(1)[0]
        return found

    def several(self, count: int) -> F64:
        """`count` numbers per image: float64 [count, n], uniform in [0, 1)."""
        self._taken += count
        if self._taken > _DRAWS:
            raise IndexError("a scene takes more numbers than were drawn")
        found: F64 = self._columns[self._taken - count : self._taken]
        return found


@dataclass(frozen=True, slots=True)
class Bank:
    """Noise fields from which every image takes windows: float32 [fields, side, side], mean 0, variance 1."""

    fields: F32
    """Amplitude falls as a power of the frequency near 1; the last third is stretched along one axis."""
    white: F32
    """float32 [1, side, side], for the sensor."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Sprites on their way to the canvas, one per image of `images`. Arrays run over sprites."""

    images: I64
    """Which image of the chunk each one belongs to; no image twice."""
    sprite: I64
    """Number in the atlas."""
    x: F64
    """Centre, as a fraction of the side."""
    y: F64
    """Centre, as a fraction of the side."""
    scale: F64
    """Side of the sprite's square as a fraction of the image's side."""
    turn: F64
    """Clockwise, in radians."""
    mirror: F64
    """1, or -1 for a sprite seen from behind."""
    colour: F64
    """float64 [3, n], RGB in [0, 1]."""
    grain: F64
    """Contrast of the surface's texture."""


def pick(u: F64, count: int | I64) -> I64:
    """Uniform [0, 1) to {0, …, count − 1}."""
    return np.minimum((u * count).astype(np.int64), count - 1)


@lru_cache(maxsize=2)
def noise_bank(size: int) -> Bank:
    """The noise for images of `size` pixels; the last two sizes are kept."""
    side = next(side for side in (256, 384, 512, 768) if side >= 1.5 * size)
    count = 15
    white = normal(index_keys(0, "scene-noise", np.arange(count + 1)), side * side).astype(np.float32)
    white = white.reshape(count + 1, side, side)
    down, across = np.fft.fftfreq(side)[:, None] * side, np.fft.rfftfreq(side)[None, :] * side
    fields = np.empty((count, side, side), dtype=np.float32)
    for i in range(count):
        stretch = 1.0 if i < 10 else (4.0, 0.25)[i % 2]
        frequency = np.maximum(1.0, np.hypot(down * stretch, across / stretch))
        spectrum = np.fft.rfft2(white[i]) * frequency ** -(0.7 + 0.06 * (i % 6))
        spectrum[0, 0] = 0
        field = np.fft.irfft2(spectrum, s=(side, side))
        fields[i] = field / field.std()
    return Bank(fields, white[count:])


def window(fields: F32, size: int, where: F64) -> F32:
    """One square per column of `where` (float64 [3, n]: field, row, column): float32 [n, size, size]."""
    count, room = len(fields), fields.shape[1] - size + 1
    views = sliding_window_view(fields, (size, size), axis=(1, 2))
    return np.asarray(views[pick(where[0], count), pick(where[1], room), pick(where[2], room)])


def column(values: F64) -> F32:
    """float64 [n] as float32 [n, 1, 1]."""
    return values.astype(np.float32)[:, None, None]


def surface(base: F64, draws: Draws, size: int, fields: F32, contrast: float) -> F32:
    """A lit, textured plane: float32 [n, 3, size, size] around `base` (float64 [3, n])."""
    base = base * draws(0.93, 1.07) + 0.04 * (draws.several(3) - 0.5)
    along = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    light = column(draws(-0.16, 0.16)) * along[None, :, None] + column(draws(-0.16, 0.16)) * along[None, None, :]
    luminance = window(fields, size, draws.several(3))
    luminance *= column(contrast * (0.15 + 0.85 * draws() ** 1.5))
    luminance += light
    chroma = window(fields, size, draws.several(3))
    hue = draws(0.0, 2 * np.pi)
    strength = contrast * draws(0.05, 0.35)
    plane = np.empty((len(hue), 3, size, size), dtype=np.float32)
    for channel in range(3):
        np.multiply(luminance, column(0.35 + 0.65 * base[channel]), out=plane[:, channel])
        plane[:, channel] += chroma * column(strength * np.cos(hue + channel * 2 * np.pi / 3))
        plane[:, channel] += column(base[channel])
    return plane


def paint(canvas: F32, placed: Placed, draws: Draws, side: int, light: F64, bank: Bank) -> None:
    """Lay sprites with their shadows on float32 [n, 3, size, size], `side` pixels around each."""
    size, images = canvas.shape[2], placed.images
    atlas = sprites.atlas(_atlas_side(size))
    texels, edge = atlas.texels, atlas.side
    left = np.clip(np.floor(placed.x * size - side / 2), 0, size - side).astype(np.int64)
    top = np.clip(np.floor(placed.y * size - side / 2), 0, size - side).astype(np.int64)
    pixel = np.arange(side) + 0.5
    x = (left[:, None] + pixel) / size - placed.x[:, None]  # [n, side], from the centre
    y = (top[:, None] + pixel) / size - placed.y[:, None]

    # From image to sprite: undo the turn, then the stretch, the slant and the mirror; then wobble a little.
    cos, sin = np.cos(placed.turn), np.sin(placed.turn)
    stretch = 1 + 0.12 * (2 * draws()[images] - 1)
    slant = 0.12 * (2 * draws()[images] - 1)
    per_side = edge / placed.scale
    a, b = (
        (cos - slant * sin) / stretch * placed.mirror * per_side,
        (sin + slant * cos) / stretch * placed.mirror * per_side,
    )
    c, d = -sin * stretch * per_side, cos * stretch * per_side
    wobble = draws.several(4)[:, images]
    sway = 0.035 * edge * wobble[0, :, None] * np.sin(6 / placed.scale[:, None] * y + 6.28 * wobble[1, :, None])
    swell = 0.035 * edge * wobble[2, :, None] * np.sin(6 / placed.scale[:, None] * x + 6.28 * wobble[3, :, None])

    def lookup(shift_x: F64, shift_y: F64) -> I64:
        """Texel numbers of the window, the sprite moved by a fraction of the side: int64 [n, side, side]."""
        u = _rows(b[:, None] * (y - shift_y[:, None]) + sway) + _columns(a[:, None] * (x - shift_x[:, None]) + edge / 2)
        v = _rows(d[:, None] * (y - shift_y[:, None])) + _columns(
            c[:, None] * (x - shift_x[:, None]) + swell + edge / 2
        )
        for plane in (u, v):
            np.clip(plane, 0, edge - 1, out=plane)
        first = (placed.sprite * edge * edge)[:, None, None]
        return first + v.astype(np.int32) * edge + u.astype(np.int32)

    views = sliding_window_view(canvas, (side, side), axis=(2, 3), writeable=True)
    under = views[images, :, top, left]  # [n, 3, side, side], a copy
    reach, depth = 0.03 + 0.05 * draws()[images], 0.25 + 0.35 * draws()[images]
    cast = texels.view(np.uint8)[lookup(-light[0, images] * reach, -light[1, images] * reach) * 8 + sprites.SHADOW]
    under *= 1 - cast[:, None] * column(depth / 255)[:, None]

    quarter = np.full(len(images), 0.25 / size)
    word = _mean_bytes(texels[lookup(quarter, -quarter)], texels[lookup(-quarter, quarter)])
    byte = word.view(np.uint8).reshape(*word.shape, 8)
    # The slope towards the light, in sprite coordinates; 128 is flat.
    towards_x, towards_y = (
        a * light[0, images] + b * light[1, images],
        c * light[0, images] + d * light[1, images],
    )
    norm = 2.2 / 255 / np.hypot(towards_x, towards_y)
    relief = byte[..., sprites.SLOPE_X] * column(-norm * towards_x)
    relief += byte[..., sprites.SLOPE_Y] * column(-norm * towards_y)
    relief += column(1 + 128 * norm * (towards_x + towards_y))
    relief *= np.float32(1 / 255)
    tinted = window(bank.fields, side, draws.several(3)[:, images])
    tinted *= column(placed.grain)
    tinted += 1
    tinted *= byte[..., sprites.MAIN]
    bare = 1 - byte[..., sprites.ALPHA] * np.float32(1 / 255)
    for channel in range(3):
        plane = tinted * column(placed.colour[channel])
        plane += byte[..., sprites.RED + channel]
        plane *= relief
        under[:, channel] *= bare
        under[:, channel] += plane
    views[images, :, top, left] = under


def _rows(values: F64) -> F32:
    return values.astype(np.float32)[:, :, None]


def _columns(values: F64) -> F32:
    return values.astype(np.float32)[:, None, :]


def _mean_bytes(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The mean of each of the eight bytes, rounded down: a & b has the common bits, a ^ b twice the rest."""
    return (a & b) + (((a ^ b) & np.uint64(0xFEFEFEFEFEFEFEFE)) >> np.uint64(1))


def _atlas_side(size: int) -> int:
    """Texels of a sprite: 1.5 to 3 per pixel at common scales, fewer for large images (memory)."""
    return min(320, size + size // 2)


def exposed(canvas: F32, monochrome: NDArray[np.bool_], draws: Draws, bank: Bank) -> NDArray[np.uint8]:
    """Through the lens and onto the sensor (bool [n]: without colour): uint8 [n, size, size, 3]."""
    size = canvas.shape[2]
    along = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    fall = column(draws(0.0, 0.4)) * (along**2)[None, None, :]
    gain = (column(draws(0.9, 1.08)) - fall) * (1 - fall.transpose(0, 2, 1))  # [n, size, size]
    canvas *= gain[:, None]
    grey = np.flatnonzero(monochrome)
    canvas[grey] = canvas[grey].mean(axis=1, keepdims=True)
    spread = column(0.16 * draws())[:, None]
    for axis in (2, 3):
        inner = [slice(None)] * 4
        before, after = list(inner), list(inner)
        inner[axis], before[axis], after[axis] = slice(1, -1), slice(None, -2), slice(2, None)
        middle = canvas[tuple(inner)]
        change = canvas[tuple(before)] + canvas[tuple(after)]
        change -= 2 * middle
        change *= spread
        middle += change
    noise = column(draws(0.002, 0.02))
    for channel in range(3):
        canvas[:, channel] += noise * window(bank.white, size, draws.several(3))
    canvas *= 255
    canvas += np.float32(0.5)
    np.clip(canvas, 0, 255, out=canvas)
    return np.ascontiguousarray(canvas.astype(np.uint8).transpose(0, 2, 3, 1))
