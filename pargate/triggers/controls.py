"""Controls: stamps with a trigger's energy and place but without its structure.

What a control pulls towards some class is natural pull; only what a trigger pulls beyond it is excess.

- *shuffled*, for structured whole-image patterns: the same change with its pixels exchanged, inside the
  box around what the trigger touches.
- *flat*, for patches and noise, where exchanging pixels would give another draw of the same trigger: the
  pattern's mean colour in the same place; where the pattern is of one colour already, the image's.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pargate import seeds
from pargate.core.stamp import ONE, Mix, Paste, Recompress, Scatter, Stamp, level
from pargate.triggers.base import Trigger

PERMUTATIONS = 16
"""Distinct permutations in use. One per image would cost a sort of every image's pixels; a control only
needs its noise not to be one fixed picture, and the change itself differs per image as well."""

TRIED = 16
"""Draws that show whether a patch is of one colour: random stripes, two to a patch, all agree once in 8^16."""


def control(trigger: Trigger, stamp: Stamp, size: tuple[int, int], digests: Sequence[str], seed: int) -> Stamp:
    """The control of a stamp that `trigger` drew for these images: n in, n out, same seed discipline."""
    if trigger.control == "flat":
        return _flat(stamp, _one_colour(trigger, size, seed))
    return _shuffled(stamp, size, seeds.image_keys(seed, f"control {trigger.id}", digests))


def _one_colour(trigger: Trigger, size: tuple[int, int], seed: int) -> bool:
    """Whether a trigger's patch is of one colour on every image.

    Seen on images of its own, so that it does not depend on the batch: a few random stripes may happen to be
    of one colour, and keep it in their control.
    """
    stamp = trigger.draw(size, [f"{i:016x}" for i in range(TRIED)], seed)
    while isinstance(stamp, Recompress):
        stamp = stamp.inner
    if not isinstance(stamp, Paste) or stamp.relative:
        return False
    shown = level(stamp.window, stamp.overflow)
    return bool((shown == shown[:, :1, :1]).all())


def _flat(stamp: Stamp, one_colour: bool) -> Stamp:
    match stamp:
        case Recompress(inner, quality):
            return Recompress(_flat(inner, one_colour), quality)
        case Paste(window, places, relative, overflow):
            if not relative and not one_colour:
                mean = level(window, overflow).mean(axis=(1, 2), keepdims=True)
                colour = np.rint(mean * ONE).astype(np.int32)
                return Paste(np.broadcast_to(colour, window.shape), places, False, "clip")
            return Paste(np.zeros((1, *window.shape[1:]), dtype=np.int32), places, True, "clip")
        case Mix(gain, offset, overflow):
            mean = offset.mean(axis=(1, 2), keepdims=True)
            return Mix(gain, np.rint(mean).astype(np.int32), overflow)
    raise TypeError(f"{type(stamp).__name__} has no flat control")


def _shuffled(stamp: Stamp, size: tuple[int, int], keys: seeds.Keys) -> Scatter:
    orders = _orders(size, _box(stamp, size))
    return Scatter(stamp, orders, seeds.integers(keys, 1, PERMUTATIONS)[:, 0].astype(np.int32))


@lru_cache(maxsize=16)
def _orders(size: tuple[int, int], box: tuple[int, int, int, int]) -> NDArray[np.int32]:
    """Permutations of pixel positions that exchange those inside a box: int32 [PERMUTATIONS, H·W]."""
    positions = np.arange(size[0] * size[1], dtype=np.int32)
    top, bottom, left, right = box
    inside = positions.reshape(size)[top:bottom, left:right].ravel()
    orders = np.tile(positions, (PERMUTATIONS, 1))
    for i in range(PERMUTATIONS):
        orders[i, inside] = inside[seeds.permutation(i, f"control {size}", len(inside))]
    orders.flags.writeable = False  # it is shared by all that ask for it
    return orders


def _box(stamp: Stamp, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """First and past-the-last row, then column, of the box around all that the stamp can change.

    The box, not the changed pixels alone: among those, shuffled writing would stay legible.
    """
    if isinstance(stamp, Recompress):
        return _box(stamp.inner, size)
    if not isinstance(stamp, Mix):
        return 0, size[0], 0, size[1]
    touched = np.broadcast_to(((stamp.gain != ONE) | (stamp.offset != 0)).any(axis=(0, 3)), size)
    rows, columns = np.flatnonzero(touched.any(axis=1)), np.flatnonzero(touched.any(axis=0))
    if len(rows) == 0:
        return 0, 0, 0, 0
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
