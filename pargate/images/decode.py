"""Decode, resize and crop images by the preprocessing rule of a model.

The result is 8-bit RGB at model resolution: triggers are stamped there, and the encoder normalises. The arithmetic
equals open_clip's evaluation transform, with torchvision's rounding, except for two points. Colours are converted to
RGB before resizing, which only matters for palette and transparent images, whose raw values cannot be interpolated. And
16-bit grey is scaled to 8 bits, where Pillow would clip it at 255.

Decoding workers import this module, so it must stay light.
"""

import errno
import hashlib
import io
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pargate import limits
from pargate.core.model import Preprocess
from pargate.files import LFS, open_file

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Formats that are decoded, under any file name; for some others, such as EPS, Pillow would start programs."""


@dataclass(frozen=True, slots=True)
class Locator:
    """The place of an image's bytes: a file, or a range of a file such as a tar."""

    path: str
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        """Return the image's encoded bytes."""
        with open_file(self.path) as stream:
            stream.seek(self.offset)
            content = stream.read(min(self.size, limits.IMAGE_BYTES + 1) if self.size >= 0 else limits.IMAGE_BYTES + 1)
        if len(content) > limits.IMAGE_BYTES:
            raise OSError(errno.EFBIG, f"larger than {limits.IMAGE_BYTES >> 20} MiB", self.path)
        return content


@dataclass(frozen=True, slots=True)
class Decoded:
    """One image at model resolution, or the reason why it could not be read."""

    digest: str
    """Hex SHA-256 of the encoded bytes."""
    pixels: NDArray[np.uint8] | None
    """[H, W, 3]."""
    problem: str = ""


class _Counted(io.BytesIO):
    """A stream that ends an image which takes too many reads; most of them are of a single byte."""

    left = limits.IMAGE_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise ValueError("its header does not end")
        return super().read(size)


def fit(image: Image.Image, rule: Preprocess) -> NDArray[np.uint8]:
    """Return uint8 [H, W, 3] of an image, resized and cropped by `rule`."""
    height, width = rule.size
    scale = max(height / image.height, width / image.width)
    most = max(limits.PLAIN_PIXELS, limits.ELONGATED * height * width)
    if rule.resize == "shortest" and scale**2 * image.height * image.width > most:
        raise ValueError(f"{image.width}×{image.height} pixels is too elongated")
    image = _eight_bits(image).convert("RGB")
    bicubic = rule.interpolation != "bilinear"
    kernel = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    if rule.resize == "squash":
        return np.asarray(_resize(image, (width, height), kernel))
    if rule.resize == "longest":
        ratio = max(image.height / height, image.width / width)
        image = _resize(image, (round(image.width / ratio), round(image.height / ratio)), kernel)
        return np.asarray(_pad(image, rule))
    if height == width:
        short, long = sorted(image.size)
        scaled = int(height * long / short)
        image = _resize(image, (height, scaled) if image.width <= image.height else (scaled, height), kernel)
    else:
        # For a target that is not square, open_clip ignores the configured kernel.
        ratio = min(image.height / height, image.width / width)
        new = (round(image.width / ratio), round(image.height / ratio))
        image = _resize(image, new, Image.Resampling.BICUBIC)
    top, left = round((image.height - height) / 2.0), round((image.width - width) / 2.0)
    return np.asarray(image.crop((left, top, left + width, top + height)))


def _resize(image: Image.Image, size: tuple[int, int], kernel: Image.Resampling) -> Image.Image:
    return image if image.size == size else image.resize(size, kernel)


def _pad(image: Image.Image, rule: Preprocess) -> Image.Image:
    """Centre an image on a background of the fill colour; the image is at most as large as the target."""
    height, width = rule.size
    page = Image.new("RGB", (width, height), (rule.fill,) * 3)
    page.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return page


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("32-bit grey without a defined white")
    return image


def decode(content: bytes, rule: Preprocess) -> Decoded:
    """Decode one image from its encoded bytes; a fault of the image is returned, not raised.

    Raises:
        MemoryError: memory ran out, which is no fault of the image.
    """
    digest = hashlib.sha256(content).hexdigest()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as those about odd metadata
            with Image.open(_Counted(content), formats=FORMATS) as image:
                pixels = image.width * image.height
                if pixels > limits.PIXELS:
                    return Decoded(digest, None, f"{image.width}×{image.height} pixels is too large")
                if pixels > max(limits.PLAIN_PIXELS, limits.PIXELS_PER_BYTE * len(content)):
                    return Decoded(digest, None, f"{image.width}×{image.height} pixels in {len(content)} bytes")
                return Decoded(digest, fit(image, rule))
    except UnidentifiedImageError:  # its message holds a memory address, which differs from run to run
        pointer = content.startswith(LFS)
        return Decoded(
            digest, None, "a git-lfs pointer: git lfs pull" if pointer else "cannot identify the image format"
        )
    except MemoryError:
        raise
    except Exception as error:  # decoders raise many kinds of errors for hostile bytes
        return Decoded(digest, None, str(error) or type(error).__name__)


def decode_many(locators: list[Locator], rule: Preprocess) -> list[Decoded]:
    """Read and decode images, in order; runs in a worker."""
    found = []
    for locator in locators:
        try:
            content = locator.read()
        except (OSError, ValueError) as error:  # ValueError: a name from a table may hold a null byte
            found.append(Decoded("0" * 64, None, getattr(error, "strerror", None) or str(error)))
        else:
            found.append(decode(content, rule))
    return found
