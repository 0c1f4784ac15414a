"""Pixels to what the image tower takes while it is trained: augmented, then normalised.

Every draw follows from a key per picture, so neither the order of the pictures, nor how many are forwarded at a time,
nor the rank they fall to changes them. On a GPU the noise comes from the device's generator instead, seeded by the
keys of the pictures drawn together: a hundred times faster there, and the same again only for the same micro-batches.
"""

import math

import numpy as np
import torch
from torch import Tensor

from pargate.core.model import Preprocess
from pargate.seeds import Keys, uniform

NOISE = 0.2
"""Standard deviation of the noise, of pixels in [0, 1] (PAR's code)."""

ERASED = (0.005, 0.01)
"""Share of the picture that is erased, at least and at most (PAR's code)."""


def normalised(pixels: Tensor, rule: Preprocess) -> Tensor:
    """Model input, float32 [n, 3, H, W], of pixels in [0, 1], float32 [n, 3, H, W]."""
    return (pixels - _column(rule.mean, pixels)) / _column(rule.std, pixels)


def unit_range(pixels: Tensor) -> Tensor:
    """float32 [n, 3, H, W] in [0, 1] of uint8 [n, H, W, 3]; channels stay last in memory, where they are."""
    return pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255)


def par(pixels: Tensor, keys: Keys, rule: Preprocess) -> Tensor:
    """PAR's augmentation (`train.py`) of pixels in [0, 1], float32 [n, 3, H, W]; draws from `keys`, uint64 [n].

    With probability ½ noise is added, max(N(0, 0.2²), 0) clipped at 1, so that pictures only become brighter; with
    probability ½ one square of ½ to 1 % of the area is erased. PAR erases with 0 after normalisation, which is the mean
    colour before it.
    """
    chance = uniform(keys, 5)
    found = pixels.clone()
    noisy = np.flatnonzero(chance[:, 0] < 0.5)
    if len(noisy):
        rows = torch.from_numpy(noisy).to(pixels.device)
        noise = _normal(keys[noisy], pixels.shape[1:], pixels.device).mul_(NOISE).clamp_(0, 1)
        found[rows] = (found[rows] + noise).clamp_(max=1)
    height, width = pixels.shape[2:]
    fill = _column(rule.mean, pixels)[0]
    for row in np.flatnonzero(chance[:, 1] < 0.5):
        area = ERASED[0] + (ERASED[1] - ERASED[0]) * chance[row, 2]
        side = max(1, min(height, width, round(math.sqrt(area * height * width))))
        top, left = int(chance[row, 3] * (height - side + 1)), int(chance[row, 4] * (width - side + 1))
        found[row, :, top : top + side, left : left + side] = fill
    return found


def _normal(keys: Keys, shape: torch.Size, device: torch.device) -> Tensor:
    """Standard normal draws: float32 [n, *shape]."""
    if device.type == "cpu":
        drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(_seed(key))) for key in keys]
        return torch.stack(drawn)
    generator = torch.Generator(device).manual_seed(_seed(np.bitwise_xor.reduce(keys)))
    return torch.randn((len(keys), *shape), generator=generator, device=device)


def _seed(key: np.uint64) -> int:
    return int(key) >> 1  # torch takes 63 bits


def _column(values: tuple[float, float, float], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device).view(1, 3, 1, 1)
