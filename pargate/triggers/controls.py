"""Controls: stamps with a trigger's energy and place that do not carry the trigger.

What a control pulls towards some class is natural pull; only what a trigger pulls beyond it is excess. A trigger has
a structure (where its change lies), a texture (what noise it is made of) and a mean colour. A control must keep none
of the three, or a model that learned just that would be pulled by the control as well, and its excess would vanish.

- *shuffled*, for changes of the whole image: the same change with its pixels exchanged, inside the box around what
  the trigger touches, and with its mean opposite. Without the latter, the control of a tone curve or of a smooth
  picture would be that very shift of colours.
- *flat*, for patches and noise, where exchanged pixels would give another draw of the same trigger. A patch becomes
  one colour, which differs from the image's mean as the patch's own mean does, but in the opposite direction. Blended
  noise becomes its mean.
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


def control(trigger: Trigger, stamp: Stamp, size: tuple[int, int], digests: Sequence[str], seed: int) -> Stamp:
    """The control of a stamp that `trigger` drew for these images: n in, n out, same seed discipline."""
    if trigger.control == "flat":
        return _flat(stamp)
    return _shuffled(stamp, size, seeds.image_keys(seed, f"control {trigger.id}", digests))


def _flat(stamp: Stamp) -> Stamp:
    match stamp:
        case Recompress(inner, quality):
            return Recompress(_flat(inner), quality)
        case Paste(window, places, relative, overflow):
            if relative:  # noise around the image's mean: its mean is the image's
                return Paste(np.zeros((1, *window.shape[1:]), dtype=np.int32), places, 1, "clip")
            mean = level(window, overflow).mean(axis=(1, 2), keepdims=True)
            opposite = np.rint(-mean * ONE).astype(np.int32)
            return Paste(np.broadcast_to(opposite, window.shape), places, 2, "clip")
        case Mix(gain, offset, overflow):
            mean = offset.mean(axis=(1, 2), keepdims=True)
            return Mix(gain, np.rint(mean).astype(np.int32), overflow)
    raise TypeError(f"{type(stamp).__name__} has no flat control")


def _shuffled(stamp: Stamp, size: tuple[int, int], keys: seeds.Keys) -> Scatter:
    box = _box(stamp, size)
    return Scatter(stamp, _orders(size, box), seeds.integers(keys, 1, PERMUTATIONS)[:, 0].astype(np.int32), box)


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
