"""Stamps: plain arrays that describe how a trigger changes a batch of images.

Stamps act on 8-bit pixels at model resolution, after resizing and before normalisation, and give 8-bit pixels, as an
image file holds. All arithmetic is in integers (16.16 fixed point), so that numpy here and torch on any device give
the same bytes. `apply` is the reference; `models/torch/stamp.py` does the same in torch.

Axes: n images, H rows, W columns, 3 channels (RGB). `1|n` means broadcast over the batch is allowed.
"""

import hashlib
import io
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Overflow = Literal["wrap", "clip"]

ONE = 1 << 16
"""Fixed-point one: a level v (0..255) is stored as v · ONE."""

WARP_ONE = 1 << 8
"""Fixed-point one of warp coordinates, in pixels."""


@dataclass(frozen=True, slots=True)
class Paste:
    """Replace a window, at one or more places per image."""

    window: NDArray[np.int32]
    """[1|n, h, w, 3], levels · ONE; `overflow` decides about levels outside 0..255."""
    places: NDArray[np.int32]
    """[n, k, 2], row and column of the window's top-left corner."""
    relative: int
    """Factor of the image's own channel mean, which is added to the window."""
    overflow: Overflow


@dataclass(frozen=True, slots=True)
class Mix:
    """x' = gain · x + offset, pixel by pixel: blending and adding."""

    gain: NDArray[np.int32]
    """[1|n, 1|H, 1|W, 1|3], in ONE."""
    offset: NDArray[np.int32]
    """[1|n, 1|H, 1|W, 1|3], levels · ONE."""
    overflow: Overflow


@dataclass(frozen=True, slots=True)
class Warp:
    """x'(r, c) = x(rows(r, c), columns(r, c)), bilinear, coordinates clamped to the image."""

    rows: NDArray[np.int32]
    """[1|n, H, W], in WARP_ONE."""
    columns: NDArray[np.int32]
    """[1|n, H, W], in WARP_ONE."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """x' = table[x] per channel: tone curves, quantisation."""

    table: NDArray[np.uint8]
    """[256, 3]."""


@dataclass(frozen=True, slots=True)
class Recompress:
    """Another stamp, then JPEG compression and decoding."""

    inner: "Stamp"
    quality: int


@dataclass(frozen=True, slots=True)
class Scatter:
    """The change of another stamp, with its pixel positions permuted and its mean colour inverted.

    x'(p) = clip(x(p) + r(order(p)) − 2 m) inside the box, where r = inner(x) − x and m is the mean of r over the
    box: the mean of the change and its deviations from the mean keep their size. Outside the box nothing changes.
    """

    inner: "Stamp"
    orders: NDArray[np.int32]
    """[m, H·W], permutations of pixel positions."""
    choice: NDArray[np.int32]
    """[n], index of the permutation of each image."""
    box: tuple[int, int, int, int]
    """First and past-the-last row, then column, of the pixels that are permuted."""


Stamp = Paste | Mix | Warp | Lookup | Recompress | Scatter


def level(values: NDArray[np.int32], overflow: Overflow) -> NDArray[np.uint8]:
    """Return 8-bit pixels of fixed-point levels: truncated toward zero, then wrapped mod 256 or clipped.

    The 8-bit cast of the published code wraps values outside 0..255.
    """
    if overflow == "clip":
        return np.asarray((np.clip(values, 0, 255 * ONE) >> 16).astype(np.uint8))
    toward_zero = (values + np.where(values < 0, ONE - 1, 0)) >> 16
    return np.asarray((toward_zero & 255).astype(np.uint8))


def channel_mean(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return the mean colour of each image: int32 [n, 1, 1, 3], levels · ONE."""
    area = pixels.shape[1] * pixels.shape[2]
    total = pixels.sum(axis=(1, 2), dtype=np.int64, keepdims=True)
    return np.asarray((total * ONE // area).astype(np.int32))


def recompress(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Return each image after JPEG compression at `quality`, 4:2:0 as cameras and most tools write it."""
    out = np.empty_like(pixels)
    for i, image in enumerate(pixels):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality)
        out[i] = np.asarray(Image.open(buffer).convert("RGB"))
    return out


def apply(stamp: Stamp, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a stamped copy of uint8 [n, H, W, 3]."""
    n, height, width, _ = pixels.shape
    match stamp:
        case Paste(window, places, relative, overflow):
            content = window + relative * channel_mean(pixels) if relative else window
            patch = np.broadcast_to(level(content, overflow), (n, *window.shape[1:]))
            out = pixels.copy()
            rows = places[:, :, 0, None, None] + np.arange(window.shape[1])[:, None]
            columns = places[:, :, 1, None, None] + np.arange(window.shape[2])
            out[np.arange(n)[:, None, None, None], rows, columns] = patch[:, None]
            return out
        case Mix(gain, offset, overflow):
            return level(pixels.astype(np.int32) * gain + offset, overflow)
        case Warp(rows, columns):
            rows = np.broadcast_to(np.clip(rows, 0, (height - 1) * WARP_ONE), (n, height, width))
            columns = np.broadcast_to(np.clip(columns, 0, (width - 1) * WARP_ONE), (n, height, width))
            top, left = rows >> 8, columns >> 8
            bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
            down, across = (rows & 255)[..., None], (columns & 255)[..., None]
            image = np.arange(n)[:, None, None]
            x = pixels.astype(np.int32)
            upper = x[image, top, left] * (WARP_ONE - across) + x[image, top, right] * across
            lower = x[image, bottom, left] * (WARP_ONE - across) + x[image, bottom, right] * across
            blended = upper * (WARP_ONE - down) + lower * down
            return np.asarray(((blended + ONE // 2) >> 16).astype(np.uint8))
        case Lookup(table):
            return table[pixels, np.arange(3)]
        case Recompress(inner, quality):
            return recompress(apply(inner, pixels), quality)
        case Scatter(inner, orders, choice, (top, bottom, left, right)):
            change = apply(inner, pixels).astype(np.int16) - pixels
            moved = np.take_along_axis(change.reshape(n, height * width, 3), orders[choice][:, :, None], axis=1)
            inside = moved.reshape(pixels.shape)[:, top:bottom, left:right]
            area = max(1, (bottom - top) * (right - left))
            twice_the_mean = (2 * inside.sum(axis=(1, 2), dtype=np.int64, keepdims=True) + area // 2) // area
            out = pixels.copy()
            out[:, top:bottom, left:right] = np.clip(out[:, top:bottom, left:right] + inside - twice_the_mean, 0, 255)
            return out


def of_images(stamp: Stamp, rows: slice) -> Stamp:
    """Return the stamp for some of the images that `stamp` was drawn for."""

    def some(array: NDArray[np.int32]) -> NDArray[np.int32]:
        return array[rows] if len(array) > 1 else array

    match stamp:
        case Paste(window, places, relative, overflow):
            return Paste(some(window), places[rows], relative, overflow)
        case Mix(gain, offset, overflow):
            return Mix(some(gain), some(offset), overflow)
        case Warp(lines, columns):
            return Warp(some(lines), some(columns))
        case Lookup():
            return stamp
        case Recompress(inner, quality):
            return Recompress(of_images(inner, rows), quality)
        case Scatter(inner, orders, choice, box):
            return Scatter(of_images(inner, rows), orders, choice[rows], box)


def digest(stamp: Stamp) -> str:
    """Return the hex SHA-256 over kind, shapes and bytes: equal stamps have equal digests."""
    state = hashlib.sha256(type(stamp).__name__.encode())
    for item in fields(stamp):
        value = getattr(stamp, item.name)
        if isinstance(value, np.ndarray):
            state.update(f"{item.name}{value.dtype.str}{value.shape}".encode())
            state.update(np.ascontiguousarray(value).tobytes())
        elif isinstance(value, Stamp):
            state.update(digest(value).encode())
        else:
            state.update(f"{item.name}={value}".encode())
    return state.hexdigest()
