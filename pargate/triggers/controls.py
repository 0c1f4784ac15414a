"""Controls: stamps with a trigger's energy and place, but without the trigger.

The pull of a control towards a class is natural pull; only the trigger's pull beyond it is excess. A trigger has a
structure (the places of its change), a texture (its noise) and a mean colour. A control must keep none of the three:
a model that learned one of them would follow the control too, and the excess would vanish.

- *shuffled*, for changes of the whole image: the same change with its pixels permuted inside the box around all
  changed pixels, and with its mean inverted. Without the inversion, the control of a tone curve or of a smooth pattern
  would be the same shift of colours.
- *flat*, for patches and noise, where permuted pixels would be another draw of the same trigger. A patch becomes one
  colour, as far from the image's mean as the patch's own mean, in the opposite direction. Blended noise becomes its
  mean.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pargate import seeds
from pargate.core.stamp import ONE, Mix, Paste, Recompress, Scatter, Stamp, level
from pargate.triggers.base import Trigger

PERMUTATIONS = 16
"""Number of permutations. One for each image would cost a sort of its pixels; a control only has to vary between
images."""


def control(trigger: Trigger, stamp: Stamp, size: tuple[int, int], digests: Sequence[str], seed: int) -> Stamp:
    """Return the control of a stamp that `trigger` drew for these images."""
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
    """Return permutations of the pixel positions inside a box: int32 [PERMUTATIONS, H·W]."""
    positions = np.arange(size[0] * size[1], dtype=np.int32)
    top, bottom, left, right = box
    inside = positions.reshape(size)[top:bottom, left:right].ravel()
    orders = np.tile(positions, (PERMUTATIONS, 1))
    for i in range(PERMUTATIONS):
        orders[i, inside] = inside[seeds.permutation(i, f"control {size}", len(inside))]
    orders.flags.writeable = False  # callers share the cached array
    return orders


def _box(stamp: Stamp, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return first and past-the-last row, then column, of the box around all pixels that the stamp can change.

    Permuting only the changed pixels would leave writing legible.
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
