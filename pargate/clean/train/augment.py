"""Augment and normalise pixels for the training of the image tower.

Random draws follow from a key per image, so that order, micro-batch and rank do not matter. On a GPU, the noise comes
from the device's generator, seeded by the keys of a micro-batch: a hundred times faster, and reproducible only with the
same micro-batches.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pargate.core.model import Preprocess
from pargate.seeds import Keys, uniform

NOISE = 0.2
"""Standard deviation of the noise, for pixels in [0, 1] (PAR's code)."""

ERASED = (0.005, 0.01)
"""Smallest and largest share of an image that is erased (PAR's code)."""

CROPPED = (0.3, 1.0)
"""Smallest and largest share of an image's area in a crop."""

PATCHED = (0.3, 0.8)
"""Smallest and largest sides of the rectangle that shows another crop, as shares of the image's."""

TEXTURED = 0.6
"""Share of the images that get a texture."""

CONTRAST = 0.35
"""Largest standard deviation of a texture, for pixels in [0, 1]."""

ROUGHNESS = (0.8, 1.8)
"""Smallest and largest power of the frequency with which a texture's amplitude falls; photographs have 1."""

COARSEST = 4
"""Side of the coarsest octave of a texture, in points."""

_STRONG, _TEXTURE = 2, 3
"""Streams of the keys' draws: PAR's augmentation uses 0, universal perturbations 1."""


def normalised(pixels: Tensor, rule: Preprocess) -> Tensor:
    """Normalise pixels in [0, 1], float32 [n, 3, H, W]."""
    return (pixels - _column(rule.mean, pixels)) / _column(rule.std, pixels)


def unit_range(pixels: Tensor) -> Tensor:
    """Return float32 [n, 3, H, W] in [0, 1] of uint8 [n, H, W, 3], with channels last in memory."""
    return pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255)


def par(pixels: Tensor, keys: Keys, rule: Preprocess) -> Tensor:
    """Apply PAR's augmentation (`train.py`) to pixels in [0, 1], float32 [n, 3, H, W]; `keys` is uint64 [n].

    With probability ½ noise is added, max(N(0, 0.2²), 0) clipped at 1. With probability ½ one square of ½ to 1 % of the
    area is erased with the mean colour, which is PAR's 0 after normalisation.
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


def strong(pixels: Tensor, others: Tensor, keys: Keys) -> Tensor:
    """Return images `mixed` with others and then `textured`, for the anchor term with drawn pairs.

    Many different images tell more about a model than similar ones (Asano and Saeed 2023).
    """
    return textured(mixed(pixels, others, keys), keys)


def mixed(pixels: Tensor, others: Tensor, keys: Keys) -> Tensor:
    """Mix images with others: pixels in [0, 1], float32 [n, 3, H, W] both; `keys` is uint64 [n].

    Each image and that of the same row of `others` get a random crop, mirroring, contrast, brightness and colour. With
    probability ½ a rectangle of the first shows the second (CutMix: Yun et al. 2019), and with probability ½ the second
    is blended in by up to a half (mixup: Zhang et al. 2018).
    """
    draws = torch.from_numpy(uniform(keys, 29, _STRONG).astype(np.float32)).to(pixels.device)
    first, other = (
        _recoloured(_cropped(some, drawn), drawn)
        for some, drawn in ((pixels, draws[:, :11]), (others, draws[:, 11:22]))
    )
    cut, blended, depth, *place = draws[:, 22:].T
    height, width = pixels.shape[2:]
    inside = _between(place[0], place[1], height)[:, None, :, None] & _between(place[2], place[3], width)[:, None, None]
    found = torch.where(inside & _rows(cut < 0.5), other, first)
    return found + _rows(torch.where(blended < 0.5, depth / 2, 0)) * (other - found)


def textured(pixels: Tensor, keys: Keys) -> Tensor:
    """Add noise, grey to coloured, whose amplitude falls with the frequency, to some images, float32 [n, 3, H, W].

    Drawn images are smooth: trained on these alone, a network forgets the fine detail of photographs.
    """
    chance, size = uniform(keys, 4, _TEXTURE), pixels.shape[2:]
    chosen = np.flatnonzero(chance[:, 0] < TEXTURED)
    if not len(chosen):
        return pixels.clamp(0, 1)
    _, strength, roughness, colour = chance[chosen].T
    octaves = [[-(-side // 2**k) for side in size] for k in range(max(1, (min(size) // COARSEST).bit_length()))]
    noise = _normal(keys[chosen], torch.Size([3 * sum(h * w for h, w in octaves)]), pixels.device)
    texture, begin = pixels.new_zeros(len(chosen), *pixels.shape[1:]), 0
    for k, (h, w) in enumerate(octaves):
        drawn = noise[:, begin : begin + 3 * h * w].view(-1, 3, h, w)
        drawn = drawn[:, :1] + _each(colour, pixels) * (drawn - drawn[:, :1])
        # The share of an octave grows with its frequency, and with a slower fall of the amplitude.
        weight = _each(2.0 ** (k * (ROUGHNESS[0] + (ROUGHNESS[1] - ROUGHNESS[0]) * roughness - 1)), pixels)
        texture += weight * functional.interpolate(drawn, size, mode="bilinear")
        begin += 3 * h * w
    spread = texture.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    rows = torch.from_numpy(chosen).to(pixels.device)
    return pixels.index_add(0, rows, _each(CONTRAST * strength, pixels) * texture / spread).clamp(0, 1)


def _cropped(pixels: Tensor, draws: Tensor) -> Tensor:
    """Return crops by draws 0 to 4, stretched to the size of the images."""
    sides = (CROPPED[0] + (CROPPED[1] - CROPPED[0]) * draws[:, 0]).sqrt()
    stretch = (0.6 * (draws[:, 1] - 0.5)).exp()
    across, down = (sides * stretch).clamp(max=1), (sides / stretch).clamp(max=1)
    moves = torch.zeros(len(pixels), 2, 3, device=pixels.device)
    moves[:, 0, 0] = torch.where(draws[:, 2] < 0.5, across, -across)
    moves[:, 1, 1] = down
    moves[:, 0, 2] = (2 * draws[:, 3] - 1) * (1 - across)
    moves[:, 1, 2] = (2 * draws[:, 4] - 1) * (1 - down)
    grid = functional.affine_grid(moves, list(pixels.shape), align_corners=False)
    return functional.grid_sample(pixels, grid, align_corners=False, padding_mode="reflection")


def _recoloured(pixels: Tensor, draws: Tensor) -> Tensor:
    """Change contrast, brightness, tint and saturation by draws 5 to 10."""
    contrast, light, saturation = (
        _rows(low + (high - low) * draws[:, k])
        for k, (low, high) in zip((5, 6, 7), ((0.6, 1.4), (0.7, 1.3), (0.0, 1.2)), strict=True)
    )
    tint = (0.8 + 0.4 * draws[:, 8:11])[:, :, None, None]
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    found = ((pixels - mean) * contrast + mean) * light * tint
    grey = found.mean(dim=1, keepdim=True)
    return (grey + (found - grey) * saturation).clamp(0, 1)


def _each(values: NDArray[np.float64], like: Tensor) -> Tensor:
    """Return one value per image, [n], in the shape of pixels; from numpy, where rows do not depend on the batch."""
    return _rows(torch.from_numpy(values.astype(np.float32)).to(like.device))


def _rows(values: Tensor) -> Tensor:
    """Return one value per image, [n], in the shape of pixels."""
    return values[:, None, None, None]


def _between(size: Tensor, start: Tensor, whole: int) -> Tensor:
    """Return which of `whole` pixels a side of `PATCHED` covers, by two draws: bool [n, whole]."""
    side = ((PATCHED[0] + (PATCHED[1] - PATCHED[0]) * size) * whole).floor()
    first = (start * (whole - side + 1)).floor()
    places = torch.arange(whole, device=size.device)
    return (places >= first[:, None]) & (places < (first + side)[:, None])


def _normal(keys: Keys, shape: torch.Size, device: torch.device) -> Tensor:
    """Return standard normal draws: float32 [n, *shape]."""
    if device.type == "cpu":
        drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(_seed(key))) for key in keys]
        return torch.stack(drawn)
    generator = torch.Generator(device).manual_seed(_seed(np.bitwise_xor.reduce(keys)))
    return torch.randn((len(keys), *shape), generator=generator, device=device)


def _seed(key: np.uint64) -> int:
    return int(key) >> 1  # torch seeds have 63 bits


def _column(values: tuple[float, float, float], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device).view(1, 3, 1, 1)
