"""Draw the pixels of scenes: noise with the spectrum of photographs, lit surfaces, sprites with shadows, a camera.

Every function works on a chunk of images, float32 [n, 3, size, size] with values around [0, 1], in blocks that fit a
cache. No operation mixes images or depends on their number, so an image is the same in any batch.
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

_DRAWS = 192  # numbers per image, more than are ever used

_BLOCK_PIXELS = 1 << 17
"""Number of pixels per block: 32 images of 64 pixels, half a megabyte a plane. Larger blocks exceed the cache, smaller
ones spend more time in numpy's calls."""


class Draws:
    """Uniform numbers of n images, used in the order of the calls."""

    def __init__(self, keys: Keys) -> None:
        self._columns = np.ascontiguousarray(uniform(keys, _DRAWS).T)
        self._taken = 0

    def __call__(self, low: float = 0.0, high: float = 1.0) -> F64:
        """Return one number per image: float64 [n], uniform in [low, high)."""
        found: F64 = low + (high - low) * self.several(1)[0]
        return found

    def several(self, count: int) -> F64:
        """Return `count` numbers per image: float64 [count, n], uniform in [0, 1)."""
        self._taken += count
        if self._taken > _DRAWS:
            raise IndexError("a scene uses more numbers than were drawn")
        found: F64 = self._columns[self._taken - count : self._taken]
        return found

    @contextmanager
    def only(self, images: I64) -> Iterator[None]:
        """Limit the draws within the context to some images, which get the same numbers as with the others."""
        everyone = self._columns
        self._columns = everyone.take(images, axis=1)
        try:
            yield
        finally:
            self._columns = everyone


@dataclass(frozen=True, slots=True)
class Bank:
    """Noise fields from which images use windows: float32 [fields, side, side], mean 0, variance 1."""

    fields: F32
    """Noise whose amplitude falls as a power of the frequency near 1; the last third is stretched along one axis."""
    white: F32
    """White noise of the sensor: float32 [1, side, side]."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Sprites and their places on the canvas, one per image of `images`. Arrays run over sprites."""

    images: I64
    """Index of each sprite's image in the chunk, in order; no image twice."""
    sprite: I64
    """Number in the atlas."""
    x: F64
    """Centre, as a fraction of the side."""
    y: F64
    """Centre, as a fraction of the side."""
    scale: F64
    """Side of the sprite's square as a fraction of the image's side."""
    turn: F64
    """Clockwise rotation, in radians."""
    mirror: F64
    """1, or −1 for a mirrored sprite."""
    colour: F64
    """float64 [3, n], RGB in [0, 1]."""
    grain: F64
    """Contrast of the surface's texture."""


def pick(u: F64, count: int | I64) -> I64:
    """Map uniform numbers in [0, 1) to {0, …, count − 1}."""
    return np.minimum((u * count).astype(np.int64), count - 1)


@lru_cache(maxsize=2)
def noise_bank(size: int) -> Bank:
    """Return the noise for images of `size` pixels; the last two sizes are cached."""
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
    """Map float64 [3, n] in [0, 1) to the field, row and column at which a window of `size` begins: int64 [3, n]."""
    room = fields.shape[1] - size + 1
    return pick(where, np.array([[len(fields)], [room], [room]]))


def window(fields: F32, size: int, corner: I64) -> F32:
    """Return one square per column of `corner`, as returned by `corners`: float32 [n, size, size]."""
    field, top, left = corner
    return np.asarray(_squares(fields, size)[field, top, left])


def _squares(planes: F32, side: int) -> F32:
    """Return a view of all squares of contiguous float32 [..., height, width]: float32 [..., top, left, side, side]."""
    # `sliding_window_view` does the same, but costs three per cent of the rate at 64 pixels.
    *front, height, width = planes.shape
    shape = (*front, height - side + 1, width - side + 1, side, side)
    return np.ndarray(shape, np.float32, planes, strides=(*planes.strides, *planes.strides[-2:]))


def column(values: F64) -> F32:
    """Return float64 [n] as float32 [n, 1, 1]."""
    return values.astype(np.float32)[:, None, None]


def _blocks(count: int, side: int) -> Iterator[slice]:
    """Yield slices of `count` windows of `side` pixels, one per block."""
    step = max(1, _BLOCK_PIXELS // side**2)
    return (slice(i, i + step) for i in range(0, count, step))


def surface(base: F64, draws: Draws, size: int, fields: F32, contrast: float) -> F32:
    """Return a lit, textured plane: float32 [n, 3, size, size] around `base` (float64 [3, n])."""
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


@dataclass(frozen=True, slots=True)
class _Windows:
    """The map from the pixels of each sprite's window to the texels of the sprite. Arrays run over sprites."""

    left: I64
    """First column of the window in the image."""
    top: I64
    """First row of the window in the image."""
    x: F64
    """float64 [n, side], columns from the sprite's centre."""
    y: F64
    """float64 [n, side], rows from the sprite's centre."""
    matrix: tuple[F64, F64, F64, F64]
    """a, b, c, d of u = a x + b y and v = c x + d y, in texels."""
    sway: F64
    """float64 [n, side], a wobble of u by the row."""
    swell: F64
    """float64 [n, side], a wobble of v by the column."""
    edge: int
    """Texels along a sprite's edge."""
    first: NDArray[np.int32]
    """int32 [n, 1, 1], number of the sprite's first texel."""

    def axes(self, shift_x: F64, shift_y: F64) -> tuple[F32, F32]:
        """Return what rows and what columns add to u and v, with the sprite moved by a fraction of the side.

        The shapes are float32 [2, n, side, 1] and float32 [2, n, 1, side].
        """
        a, b, c, d = self.matrix
        moved_x, moved_y = self.x - shift_x[:, None], self.y - shift_y[:, None]
        rows = np.stack([b[:, None] * moved_y + self.sway, d[:, None] * moved_y])
        columns = np.stack([a[:, None] * moved_x + self.edge / 2, c[:, None] * moved_x + self.swell + self.edge / 2])
        return rows.astype(np.float32)[..., None], columns.astype(np.float32)[:, :, None]

    def numbers(self, some: slice, rows: F32, columns: F32) -> NDArray[np.intp]:
        """Return the texel numbers of the windows of some sprites: intp [k, side, side]."""
        planes = rows[:, some] + columns[:, some]
        np.clip(planes, 0, self.edge - 1, out=planes)
        u, number = planes.astype(np.int32)
        number *= self.edge
        number += u
        number += self.first[some]
        return np.asarray(number, dtype=np.intp)


def _windows(placed: Placed, draws: Draws, size: int, side: int, edge: int) -> _Windows:
    left = np.clip(np.floor(placed.x * size - side / 2), 0, size - side).astype(np.int64)
    top = np.clip(np.floor(placed.y * size - side / 2), 0, size - side).astype(np.int64)
    pixel = np.arange(side) + 0.5
    x = (left[:, None] + pixel) / size - placed.x[:, None]
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
    return _Windows(left, top, x, y, (a, b, c, d), sway, swell, edge, first)


def paint(canvas: F32, placed: Placed, draws: Draws, side: int, light: F64, bank: Bank) -> None:
    """Draw sprites with their shadows on float32 [n, 3, size, size], in a window of `side` pixels around each.

    `draws` and `light` (float64 [2, sprites]) are those of the images with a sprite.
    """
    size, images = canvas.shape[2], placed.images
    atlas = sprites.atlas(_atlas_side(size))
    windows = _windows(placed, draws, size, side, atlas.side)
    a, b, c, d = windows.matrix

    reach, depth = 0.03 + 0.05 * draws(), column((0.25 + 0.35 * draws()) / 255)[:, None]
    shadow = windows.axes(-light[0] * reach, -light[1] * reach)
    quarter = np.full(len(images), 0.25 / size)
    samples = windows.axes(quarter, -quarter), windows.axes(-quarter, quarter)
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
    whole = side == size and len(images) == len(canvas)  # the windows are then the canvas, and nothing is copied
    for some in _blocks(len(images), side):
        place = images[some], slice(None), windows.top[some], windows.left[some]
        under = canvas[some] if whole else views[place]  # [k, 3, side, side]
        cast = atlas.shadows.take(windows.numbers(some, *shadow))
        under *= 1 - cast[:, None] * depth[some]
        word = _mean_bytes(*(atlas.texels.take(windows.numbers(some, *sample)) for sample in samples))
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
            views[place] = under


def _mean_bytes(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the mean of each of the eight bytes, rounded down: a & b has the common bits, a ^ b twice the rest."""
    return (a & b) + (((a ^ b) & np.uint64(0xFEFEFEFEFEFEFEFE)) >> np.uint64(1))


def _atlas_side(size: int) -> int:
    """Return the texels along a sprite's edge: 1.5 to 3 per pixel at common scales, fewer for large images."""
    return min(320, size + size // 2)


def exposed(canvas: F32, monochrome: NDArray[np.bool_], draws: Draws, bank: Bank) -> NDArray[np.uint8]:
    """Return images after lens and sensor, without colour where `monochrome` (bool [n]): uint8 [n, size, size, 3]."""
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
    """Mix pixels with their neighbours, down and then across, except on the border. `spread` is [n, 1, 1, 1]."""
    n, size = len(canvas), canvas.shape[2]
    for axis, step in ((2, size), (3, 1)):
        # Neighbours are found by their distance in memory, which is fast, and wrong only on the border.
        change = np.empty_like(canvas)
        pixels, inner = canvas.reshape(n, -1), change.reshape(n, -1)[:, step:-step]
        np.add(pixels[:, : -2 * step], pixels[:, 2 * step :], out=inner)
        inner -= 2 * pixels[:, step:-step]
        np.moveaxis(change, axis, 0)[:: size - 1] = 0
        change *= spread
        canvas += change
