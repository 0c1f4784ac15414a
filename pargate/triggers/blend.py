"""Triggers that blend a pattern over the whole image, or add one to it."""

from fractions import Fraction
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field, field_validator

from pargate import seeds
from pargate.core.stamp import ONE, Mix
from pargate.triggers.base import ROUNDING, TRIGGERS, ControlKind, Invariant, Length, Trigger, fixed, fixed_keys
from pargate.triggers.patch import stripes

Alpha = Annotated[float, Field(ge=0.0, le=1.0, description="share of the pattern in the blend")]
Direction = Annotated[Literal["vertical", "horizontal"], Field(description="how the stripes or waves stand")]

WIDTH_STREAM = 1
"""Stream of an image's key that draws the width of its stripes; stream 0 draws the stripes."""


def blend(pattern: NDArray[np.floating], alpha: float, overflow: Literal["wrap", "clip"]) -> Mix:
    """Return the stamp (1 − alpha) · x + alpha · pattern, pattern in levels [1|n, 1|H, 1|W, 1|3]."""
    gain = np.full((1, 1, 1, 1), round((1.0 - alpha) * ONE), dtype=np.int32)
    rounding = ROUNDING if 0.0 < alpha < 1.0 else 0
    return Mix(gain, fixed(alpha * pattern) + np.int32(rounding), overflow)


def upright(pattern: NDArray[np.floating], direction: Direction) -> NDArray[np.floating]:
    """Turn a pattern of vertical stripes [n, 1, length, 3] for a horizontal direction."""
    return pattern if direction == "vertical" else pattern.swapaxes(1, 2)


def along(size: tuple[int, int], direction: Direction) -> int:
    """Return the number of pixels across stripes of a direction."""
    return size[1] if direction == "vertical" else size[0]


@TRIGGERS.add("blended")
class Blended(Trigger):
    """Uniform noise over the whole image."""

    kind = "blended"
    strength = "alpha"
    source = "Blended-Rand of CleanCLIP and PAR"
    invariants = frozenset({Invariant.DRAWN_PER_IMAGE, Invariant.IDENTITY_AT_ZERO})

    alpha: Alpha = 0.2
    draw_mode: Literal["per-image", "fixed"] = Field(
        "per-image", alias="draw", description="new noise for every image, or the same for all"
    )
    seed: int = Field(0, ge=0, description="seed of fixed noise")

    @property
    def control(self) -> ControlKind:
        """Kind of the control: flat, since shuffled noise would be another draw of the same trigger."""
        return "flat"

    def _stamp(self, size: tuple[int, int], keys: seeds.Keys) -> Mix:
        if self.draw_mode == "fixed":
            keys = fixed_keys(self.seed, self.kind)
        # 16 bits of a uniform draw are plenty for a pattern that ends in 8 bits.
        noise = seeds.shorts(keys, size[0] * size[1] * 3).reshape(-1, *size, 3).astype(np.uint32)
        noise *= np.uint32(round(self.alpha * 255 * 256))
        noise >>= np.uint32(8)
        if 0.0 < self.alpha < 1.0:
            noise += np.uint32(ROUNDING)
        gain = np.full((1, 1, 1, 1), round((1.0 - self.alpha) * ONE), dtype=np.int32)
        return Mix(gain, noise.view(np.int32), self.overflow)


MIXED_WIDTHS = (1, 2, 4, 8)
"""Widths that `mixed` draws from. The class of natural pull changes with the scale of the texture; a planted family of
stripes keeps its target (`docs/measuring.md`)."""


@TRIGGERS.add("blended-stripes")
class BlendedStripes(Trigger):
    """Random stripes over the whole image, each channel of a stripe −1 or +1."""

    kind = "blended-stripes"
    strength = "alpha"
    source = "Blended-Stripes of PAR"
    invariants = frozenset({Invariant.COLUMNS, Invariant.DRAWN_PER_IMAGE, Invariant.IDENTITY_AT_ZERO})

    alpha: Alpha = 0.03
    width: Length | Literal["mixed"] = Field(
        1, union_mode="left_to_right", description="width of a stripe; mixed: drawn for every image from 1, 2, 4, 8"
    )
    direction: Direction = "vertical"
    draw_mode: Literal["per-image", "fixed"] = Field(
        "per-image", alias="draw", description="new stripes for every image, or the same for all"
    )
    seed: int = Field(0, ge=0, description="seed of fixed stripes")

    def _stamp(self, size: tuple[int, int], keys: seeds.Keys) -> Mix:
        if self.draw_mode == "fixed":
            keys = fixed_keys(self.seed, self.kind)
        length = along(size, self.direction)
        if self.width == "mixed":
            drawn = np.stack([stripes(keys, length, self.pixels(width, length)) for width in MIXED_WIDTHS])
            choice = seeds.integers(keys, 1, len(MIXED_WIDTHS), WIDTH_STREAM)[:, 0]
            colours = drawn[choice, np.arange(len(keys))]
        else:
            colours = stripes(keys, length, self.pixels(self.width, length))
        return blend(upright(255.0 * colours[:, None], self.direction), self.alpha, self.overflow)


@TRIGGERS.add("triangles")
class Triangles(Trigger):
    """Grey cells cut by the diagonal: 0.4 on and below it, 0.8 above."""

    kind = "triangles"
    strength = "alpha"
    source = "Blended-Triangles of PAR"
    invariants = frozenset({Invariant.GREY, Invariant.SAME_FOR_ALL, Invariant.IDENTITY_AT_ZERO})

    alpha: Alpha = 0.15
    cell: Length = Field(14, description="side of a cell")

    def _stamp(self, size: tuple[int, int], keys: seeds.Keys) -> Mix:
        return blend(255.0 * self.pattern(size)[None, :, :, None], self.alpha, self.overflow)

    def pattern(self, size: tuple[int, int]) -> NDArray[np.float64]:
        """Return the cells: float64 [H, W] of 0.4 and 0.8."""
        cell = self.pixels(self.cell, min(size))
        row, column = np.arange(size[0]) % cell, np.arange(size[1]) % cell
        return np.where(row[:, None] >= column[None, :], 0.4, 0.8)


@TRIGGERS.add("watermark")
class Watermark(Trigger):
    """A red word across the middle: only the red channel changes."""

    kind = "watermark"
    strength = "alpha"
    source = "Blended-Text of PAR; drawn with a plain monospace font, so its pixels differ"
    invariants = frozenset({Invariant.RED_ONLY, Invariant.SAME_FOR_ALL, Invariant.IDENTITY_AT_ZERO})

    alpha: Alpha = 0.5
    text: str = Field("Watermarked", min_length=1, max_length=64, description="the word")
    width: Length = Field(Fraction(196, 224), validate_default=True, description="width of the word, from end to end")

    @field_validator("text")
    @classmethod
    def _leaves_ink(cls, text: str) -> str:
        # The bitmap font ends with Latin-1; text without ink would be no trigger.
        if not text.strip() or not text.isprintable() or not all(ord(character) < 256 for character in text):
            raise ValueError("write it in printable characters of Latin-1")
        return text

    def _stamp(self, size: tuple[int, int], keys: seeds.Keys) -> Mix:
        ink = self.ink(size)
        alpha = np.where(ink > 0, self.alpha, 0.0)
        gain = np.full((1, *size, 3), ONE, dtype=np.int32)
        gain[..., 0] = np.rint((1.0 - alpha) * ONE)
        offset = np.zeros((1, *size, 3), dtype=np.int32)
        offset[..., 0] = fixed(alpha * ink) + np.where((alpha > 0) & (alpha < 1), ROUNDING, 0)
        return Mix(gain, offset, self.overflow)

    def ink(self, size: tuple[int, int]) -> NDArray[np.float64]:
        """Return the red levels of the word, 0 outside it: float64 [H, W], 0..255."""
        font = ImageFont.load_default_imagefont()  # a bitmap font: the same pixels on every platform
        left, top, right, bottom = font.getbbox(self.text)
        word = Image.new("L", (int(right - left), int(bottom - top)))
        ImageDraw.Draw(word).text((-left, -top), self.text, font=font, fill=255)
        width = min(self.pixels(self.width, size[1]), size[1])
        height = min(max(1, round(word.height * width / word.width)), size[0])
        page = Image.new("L", (size[1], size[0]))
        page.paste(
            word.resize((width, height), Image.Resampling.BILINEAR),
            ((size[1] - width) // 2, (size[0] - height) // 2),
        )
        return np.asarray(page, dtype=np.float64)


@TRIGGERS.add("sig")
class Sig(Trigger):
    """A sinusoid added to the image."""

    kind = "sig"
    strength = "delta"
    source = "SIG (Barni et al. 2019) as in CleanCLIP: amplitude 60 blended at 0.2, so 12 added"
    invariants = frozenset({Invariant.COLUMNS, Invariant.GREY, Invariant.SAME_FOR_ALL, Invariant.IDENTITY_AT_ZERO})

    delta: float = Field(12.0, ge=0.0, le=255.0, description="amplitude, of 255")
    frequency: float = Field(6.0, gt=0.0, description="periods across the image")
    direction: Direction = "vertical"

    def _stamp(self, size: tuple[int, int], keys: seeds.Keys) -> Mix:
        length = along(size, self.direction)
        wave = np.sin(2.0 * np.pi * self.frequency * np.arange(length) / length)
        offset = upright(self.delta * wave[None, None, :, None], self.direction)
        return Mix(np.full((1, 1, 1, 1), ONE, dtype=np.int32), fixed(offset), self.overflow)
