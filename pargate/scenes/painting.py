"""Pixels of scenes: noise with the spectrum of photographs, lit surfaces, sprites with shadows, a camera.

Everything works on a chunk of images at once, float32 [n, 3, size, size] with values around [0, 1]: numbers per image
for all of it, pixels in blocks that fit a cache. No operation mixes images or depends on how many there are, so an
image is the same in any batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pargate.scenes import sprites
from pargate.seeds import Keys, index_keys, normal, uniform

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_DRAWS = 192  # numbers per image; more than are ever taken

_BLOCK_PIXELS = 1 << 17
"""Pixels worked on at once: 32 images of 64 pixels, half a megabyte a plane. With more, planes wait for memory; with
half of it, a few per cent more time goes into numpy's calls."""


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

    @contextmanager
    def only(self, images: I64) -> Iterator[None]:
        """Within, numbers for these images alone, the same that they get in the company of the others."""
        everyone = self._columns
        self._columns = everyone.take(images, axis=1)
        try:
            yield
        finally:
            self._columns = everyone


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
    """Which image of the chunk each one belongs to, in order; no image twice."""
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


def corners(fields: F32, size: int, where: F64) -> I64:
    """Uniform [0, 1), float64 [3, n], to field, row and column where a window of `size` pixels begins: int64 [3, n]."""
    room = fields.shape[1] - size + 1
    return pick(where, np.array([[len(fields)], [room], [room]]))


def window(fields: F32, size: int, corner: I64) -> F32:
    """One square per column of `corner` (of `corners`): float32 [n, size, size]."""
    field, top, left = corner
    return np.asarray(_squares(fields, size)[field, top, left])


def _squares(planes: F32, side: int) -> F32:
    """All squares of contiguous float32 [..., height, width]: a view, float32 [..., top, left, side, side]."""
    # `sliding_window_view` gives the same, and costs three per cent of the rate at 64 pixels.
    *front, height, width = planes.shape
    shape = (*front, height - side + 1, width - side + 1, side, side)
    return np.ndarray(shape, np.float32, planes, strides=(*planes.strides, *planes.strides[-2:]))


def column(values: F64) -> F32:
    """float64 [n] as float32 [n, 1, 1]."""
    return values.astype(np.float32)[:, None, None]


def _blocks(count: int, side: int) -> Iterator[slice]:
    """Slices of `count` windows of `side` pixels, each of as many as are worked on at once."""
    step = max(1, _BLOCK_PIXELS // side**2)
    return (slice(i, i + step) for i in range(0, count, step))


def surface(base: F64, draws: Draws, size: int, fields: F32, contrast: float) -> F32:
    """A lit, textured plane: float32 [n, 3, size, size] around `base` (float64 [3, n])."""
    base = base * draws(0.93, 1.07) + 0.04 * (draws.several(3) - 0.5)
    along = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    down, across = column(draws(-0.16, 0.16)) * along[:, None], column(draws(-0.16, 0.16)) * along
    relief, height = corners(fields, size, draws.several(3)), column(contrast * (0.15 + 0.85 * draws() ** 1.5))
    stains, hue, strength = corners(fields, size, draws.several(3)), draws(0.0, 2 * np.pi), draws(0.05, 0.35)
    lit = [column(0.35 + 0.65 * base[channel]) for channel in range(3)]
    stained = [column(contrast * strength * np.cos(hue + channel * 2 * np.pi / 3)) for channel in range(3)]
    canvas = np.empty((len(hue), 3, size, size), dtype=np.float32)
    for some in _blocks(len(hue), size):
        luminance = window(fields, size, relief[:, some])
        luminance *= height[some]
        luminance += down[some] + across[some]
        chroma = window(fields, size, stains[:, some])
        for channel in range(3):
            plane = canvas[some, channel]
            np.multiply(luminance, lit[channel][some], out=plane)
            plane += chroma * stained[channel][some]
            plane += column(base[channel, some])
    return canvas


def paint(canvas: F32, placed: Placed, draws: Draws, side: int, light: F64, bank: Bank) -> None:
    """Lay sprites with their shadows on float32 [n, 3, size, size], `side` pixels around each.

    `draws` and `light` (float64 [2, sprites]) are those of the images that get one.
    """
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
    stretch = 1 + 0.12 * (2 * draws() - 1)
    slant = 0.12 * (2 * draws() - 1)
    per_side = edge / placed.scale
    a, b = (
        (cos - slant * sin) / stretch * placed.mirror * per_side,
        (sin + slant * cos) / stretch * placed.mirror * per_side,
    )
    c, d = -sin * stretch * per_side, cos * stretch * per_side
    wobble = draws.several(4)
    sway = 0.035 * edge * wobble[0, :, None] * np.sin(6 / placed.scale[:, None] * y + 6.28 * wobble[1, :, None])
    swell = 0.035 * edge * wobble[2, :, None] * np.sin(6 / placed.scale[:, None] * x + 6.28 * wobble[3, :, None])

    first = (placed.sprite * edge * edge).astype(np.int32)[:, None, None]

    def axes(shift_x: F64, shift_y: F64) -> tuple[F32, F32]:
        """What rows and what columns add to u and v, the sprite moved by a fraction of the side.

        float32 [2, n, side, 1] and float32 [2, n, 1, side].
        """
        moved_x, moved_y = x - shift_x[:, None], y - shift_y[:, None]
        rows = np.stack([b[:, None] * moved_y + sway, d[:, None] * moved_y])
        columns = np.stack([a[:, None] * moved_x + edge / 2, c[:, None] * moved_x + swell + edge / 2])
        return rows.astype(np.float32)[..., None], columns.astype(np.float32)[:, :, None]

    def lookup(some: slice, rows: F32, columns: F32) -> NDArray[np.intp]:
        """Texel numbers of the windows around some sprites: intp [k, side, side]."""
        planes = rows[:, some] + columns[:, some]
        np.clip(planes, 0, edge - 1, out=planes)
        u, number = planes.astype(np.int32)
        number *= edge
        number += u
        number += first[some]
        return np.asarray(number, dtype=np.intp)

    reach, depth = 0.03 + 0.05 * draws(), column((0.25 + 0.35 * draws()) / 255)[:, None]
    shadow = axes(-light[0] * reach, -light[1] * reach)
    quarter = np.full(len(images), 0.25 / size)
    samples = axes(quarter, -quarter), axes(-quarter, quarter)
    # The slope towards the light, in sprite coordinates; 128 is flat.
    towards_x, towards_y = (
        a * light[0] + b * light[1],
        c * light[0] + d * light[1],
    )
    norm = 2.2 / 255 / np.hypot(towards_x, towards_y)
    slope_x, slope_y = column(-norm * towards_x), column(-norm * towards_y)
    flat = column(1 + 128 * norm * (towards_x + towards_y))
    corner, grain = corners(bank.fields, side, draws.several(3)), column(placed.grain)
    colour = [column(shade) for shade in placed.colour]

    views = _squares(canvas, side)
    whole = side == size and len(images) == len(canvas)  # then the windows are the canvas, and nothing is copied
    for some in _blocks(len(images), side):
        under = canvas[some] if whole else views[images[some], :, top[some], left[some]]  # [k, 3, side, side]
        cast = atlas.shadows.take(lookup(some, *shadow))
        under *= 1 - cast[:, None] * depth[some]
        word = _mean_bytes(*(texels.take(lookup(some, *sample)) for sample in samples))
        byte = word.view(np.uint8).reshape(*word.shape, 8)
        relief = byte[..., sprites.SLOPE_X] * slope_x[some]
        relief += byte[..., sprites.SLOPE_Y] * slope_y[some]
        relief += flat[some]
        relief *= np.float32(1 / 255)
        tinted = window(bank.fields, side, corner[:, some])
        tinted *= grain[some]
        tinted += 1
        tinted *= byte[..., sprites.MAIN]
        bare = 1 - byte[..., sprites.ALPHA] * np.float32(1 / 255)
        for channel in range(3):
            plane = tinted * colour[channel][some]
            plane += byte[..., sprites.RED + channel]
            plane *= relief
            under[:, channel] *= bare
            under[:, channel] += plane
        if not whole:
            views[images[some], :, top[some], left[some]] = under


def _mean_bytes(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The mean of each of the eight bytes, rounded down: a & b has the common bits, a ^ b twice the rest."""
    return (a & b) + (((a ^ b) & np.uint64(0xFEFEFEFEFEFEFEFE)) >> np.uint64(1))


def _atlas_side(size: int) -> int:
    """Texels of a sprite: 1.5 to 3 per pixel at common scales, fewer for large images (memory)."""
    return min(320, size + size // 2)


def exposed(canvas: F32, monochrome: NDArray[np.bool_], draws: Draws, bank: Bank) -> NDArray[np.uint8]:
    """Through the lens and onto the sensor (bool [n]: without colour): uint8 [n, size, size, 3]."""
    n, size = len(canvas), canvas.shape[2]
    along = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    fall = column(draws(0.0, 0.4)) * (along**2)[None, None, :]
    across, down = column(draws(0.9, 1.08)) - fall, 1 - fall.transpose(0, 2, 1)
    spread, noise = column(0.16 * draws())[:, None], column(draws(0.002, 0.02))
    corner = [corners(bank.white, size, draws.several(3)) for _ in range(3)]
    pixels = np.empty((n, size, size, 3), np.uint8)
    for some in _blocks(n, size):
        part = canvas[some]
        part *= (across[some] * down[some])[:, None]
        grey = np.flatnonzero(monochrome[some])
        part[grey] = part[grey].mean(axis=1, keepdims=True)
        _soften(part, spread[some])
        for channel in range(3):
            plane = part[:, channel]
            grain = window(bank.white, size, corner[channel][:, some])
            grain *= noise[some]
            plane += grain
            plane *= 255
            plane += np.float32(0.5)
            np.clip(plane, 0, 255, out=plane)
            pixels[some, ..., channel] = plane.astype(np.uint8)
    return pixels


def _soften(canvas: F32, spread: F32) -> None:
    """Mix the pixels with their neighbours, down and then across; the rim stays. `spread` is [n, 1, 1, 1]."""
    n, size = len(canvas), canvas.shape[2]
    for axis, step in ((2, size), (3, 1)):
        # By their distance in memory, neighbours are found fast, and wrongly only on the rim.
        change = np.empty_like(canvas)
        pixels, inner = canvas.reshape(n, -1), change.reshape(n, -1)[:, step:-step]
        np.add(pixels[:, : -2 * step], pixels[:, 2 * step :], out=inner)
        inner -= 2 * pixels[:, step:-step]
        np.moveaxis(change, axis, 0)[:: size - 1] = 0
        change *= spread
        canvas += change
