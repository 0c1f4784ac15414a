"""Triggers that move pixels: WaNet."""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pargate import seeds
from pargate.core.stamp import WARP_ONE, Warp
from pargate.triggers.base import TRIGGERS, Invariant, Trigger, fixed_keys


@TRIGGERS.add("wanet")
class WaNet(Trigger):
    """A smooth random displacement field, the same for every image.

    The published field has k = 224 points a side, one per pixel, and s = 1: shifts of at most about one pixel. On
    smaller images k is limited to the side, and the shift in pixels stays.
    """

    kind = "wanet"
    strength = "s"
    source = "WaNet (Nguyen and Tran 2021) as in CleanCLIP and PAR"
    invariants = frozenset({Invariant.KEEPS_FLAT, Invariant.SAME_FOR_ALL, Invariant.IDENTITY_AT_ZERO})

    k: int = Field(224, ge=2, le=4096, description="points of the field along a side")
    s: float = Field(1.0, ge=0.0, description="strength: mean shift, in half pixels")
    seed: int = Field(0, ge=0, description="seed of the field")

    def _stamp(self, size: tuple[int, int], keys: seeds.Keys) -> Warp:
        height, width = size
        points = min(self.k, height, width)
        drawn = seeds.uniform(fixed_keys(self.seed, self.kind), points * points * 2)
        noise = drawn.reshape(points, points, 2) * 2.0 - 1.0
        noise /= np.abs(noise).mean()
        # Coordinates run from −1 to 1 (align_corners), so one unit is (side − 1) / 2 pixels.
        moves = []
        for axis, side in enumerate(size):
            grown = _cubic(points, height) @ noise[:, :, axis] @ _cubic(points, width).T
            ahead = np.linspace(-1.0, 1.0, side)
            base = ahead[:, None] if axis == 0 else ahead[None, :]
            target = np.clip(base + self.s * grown / side, -1.0, 1.0)
            moves.append(np.rint((target + 1.0) * (side - 1) / 2.0 * WARP_ONE).astype(np.int32)[None])
        return Warp(moves[0], moves[1])


def _cubic(points: int, length: int) -> NDArray[np.float64]:
    """Return the matrix [length, points] of cubic convolution (Keys 1981, a = −3/4), ends aligned, edges repeated."""
    at = np.linspace(0.0, points - 1.0, length)
    first = np.floor(at).astype(int)
    matrix = np.zeros((length, points))
    for tap in range(-1, 3):
        distance = np.abs(at - (first + tap))
        near = ((1.25 * distance - 2.25) * distance) * distance + 1.0
        far = ((-0.75 * distance + 3.75) * distance - 6.0) * distance + 3.0
        weight = np.where(distance <= 1.0, near, np.where(distance < 2.0, far, 0.0))
        np.add.at(matrix, (np.arange(length), np.clip(first + tap, 0, points - 1)), weight)
    return matrix
