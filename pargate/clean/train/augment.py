"""Pixels to what the image tower takes while it is trained: augmented, then normalised.

Every draw follows from a key per picture, so neither the order of the pictures, nor how many are forwarded at a time,
nor the rank they fall to changes them. On a GPU the noise comes from the device's generator instead, seeded by the
keys of the pictures drawn together: a hundred times faster there, and the same again only for the same micro-batches.
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
"""Standard deviation of the noise, of pixels in [0, 1] (PAR's code)."""

ERASED = (0.005, 0.01)
"""Share of the picture that is erased, at least and at most (PAR's code)."""

CROPPED = (0.3, 1.0)
"""Share of the picture's area that a crop shows, at least and at most, before it is stretched to the whole."""

PATCHED = (0.3, 0.8)
"""Sides of the rectangle where another crop shows, as shares of the picture's."""

TEXTURED = 0.6
"""Share of the pictures that are given a texture."""

CONTRAST = 0.35
"""Standard deviation of a texture, at most, of pixels in [0, 1]."""

ROUGHNESS = (0.8, 1.8)
"""Power of the frequency with which a texture's amplitude falls, at least and at most; photographs: 1."""

COARSEST = 4
"""Side of the coarsest octave of a texture, in points."""

_STRONG, _TEXTURE = 2, 3
"""Streams of the keys' draws: PAR's augmentation uses 0, universal pictures 1."""


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


def strong(pixels: Tensor, others: Tensor, keys: Keys) -> Tensor:
    """Pictures `mixed` with others and then `textured`: what an anchor sees where pairs are drawn.

    What a model says of many different pictures tells more of it than what it says of a few that are alike (Asano and
    Saeed 2023).
    """
    return textured(mixed(pixels, others, keys), keys)


def mixed(pixels: Tensor, others: Tensor, keys: Keys) -> Tensor:
    """Crops of other colours, mixed, of pixels in [0, 1], float32 [n, 3, H, W] both; draws from `keys`, uint64 [n].

    Each picture is cropped, perhaps mirrored, and given other contrast, light and colours, and so is that of the same
    row of `others`. With probability ½ a rectangle of the first shows the second (CutMix: Yun et al. 2019), and with
    probability ½ the second shines through all over by up to a half (mixup: Zhang et al. 2018).
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
    """Some of the pictures with noise over them, grey to coloured, whose amplitude falls with the frequency.

    Drawn pictures are smooth: a network that is held on smooth pictures alone forgets the fine detail by which it knows
    photographs, a convolutional one nearly all of it. Pixels in [0, 1], float32 [n, 3, H, W]; draws from `keys`.
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
        # An octave has the more of a spectrum, the higher it is and the slower the amplitude falls.
        weight = _each(2.0 ** (k * (ROUGHNESS[0] + (ROUGHNESS[1] - ROUGHNESS[0]) * roughness - 1)), pixels)
        texture += weight * functional.interpolate(drawn, size, mode="bilinear")
        begin += 3 * h * w
    spread = texture.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    rows = torch.from_numpy(chosen).to(pixels.device)
    return pixels.index_add(0, rows, _each(CONTRAST * strength, pixels) * texture / spread).clamp(0, 1)


def _cropped(pixels: Tensor, draws: Tensor) -> Tensor:
    """Crops by draws 0 to 4, stretched to the size of the pictures."""
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
    """Other contrast, light, tint and saturation, by draws 5 to 10."""
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
    """One value per picture, [n], against pixels: computed by numpy, whose rows are alike in any company."""
    return _rows(torch.from_numpy(values.astype(np.float32)).to(like.device))


def _rows(values: Tensor) -> Tensor:
    """One value per picture, [n], against pixels."""
    return values[:, None, None, None]


def _between(size: Tensor, start: Tensor, whole: int) -> Tensor:
    """Which of `whole` pixels a side of `PATCHED` covers, by two draws: bool [n, whole]."""
    side = ((PATCHED[0] + (PATCHED[1] - PATCHED[0]) * size) * whole).floor()
    first = (start * (whole - side + 1)).floor()
    places = torch.arange(whole, device=size.device)
    return (places >= first[:, None]) & (places < (first + side)[:, None])


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
