"""Images to model input: decode, resize, crop, by the rule of the model's own configuration.

Stops at 8-bit RGB pixels of model resolution: triggers are stamped there, and only the encoder
normalises. The arithmetic equals open_clip's evaluation transform (torchvision's rounding included), with
two differences. Colours are converted to RGB before resizing, not after, which only matters for palette
and transparent images, where interpolating the raw values has no meaning. And 16-bit grey is scaled to
8 bits, where Pillow would cut it off at 255 and leave a white page.

This module is imported by decoding workers: it stays light.
"""

import errno
import hashlib
import io
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pargate.core.model import Preprocess
from pargate.files import LFS, open_file

MAX_PIXELS = 1 << 26
"""Largest image that is decoded (67 megapixels): a small file can claim to be a huge image."""

PICTURE_BYTES = 256 << 20
"""Largest file of an image that is read; an image of `MAX_PIXELS` has 201 MB without compression."""

PLAIN_PIXELS = 1 << 22
PIXELS_PER_BYTE = 256
"""An image of more than the first must not hold more than the second: it would be one colour, and takes a second to
decode. Photographs hold up to 10."""

ELONGATED = 64
"""An image that is scaled to more than `PLAIN_PIXELS`, by its short side, may become this many times as large
as the model's input."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What is decoded, whatever a file is named: Pillow knows others, and starts programs for some, as for EPS."""


@dataclass(frozen=True, slots=True)
class Locator:
    """Where the bytes of one image are: a file, or a range of a file such as a tar."""

    path: str
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        """The image's encoded bytes."""
        with open_file(self.path) as stream:
            stream.seek(self.offset)
            content = stream.read(min(self.size, PICTURE_BYTES + 1) if self.size >= 0 else PICTURE_BYTES + 1)
        if len(content) > PICTURE_BYTES:
            raise OSError(errno.EFBIG, f"larger than {PICTURE_BYTES >> 20} MiB", self.path)
        return content


@dataclass(frozen=True, slots=True)
class Decoded:
    """One image at model resolution, or the reason why it could not be read."""

    digest: str
    """Hex SHA-256 of the encoded bytes."""
    pixels: NDArray[np.uint8] | None
    """[H, W, 3]."""
    problem: str = ""


def fit(image: Image.Image, rule: Preprocess) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] of an image, resized and cropped as `rule` says."""
    height, width = rule.size
    scale = max(height / image.height, width / image.width)
    most = max(PLAIN_PIXELS, ELONGATED * height * width)
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
        # open_clip resizes for a target that is not square with the default kernel, whatever the config.
        ratio = min(image.height / height, image.width / width)
        new = (round(image.width / ratio), round(image.height / ratio))
        image = _resize(image, new, Image.Resampling.BICUBIC)
    top, left = round((image.height - height) / 2.0), round((image.width - width) / 2.0)
    return np.asarray(image.crop((left, top, left + width, top + height)))


def _resize(image: Image.Image, size: tuple[int, int], kernel: Image.Resampling) -> Image.Image:
    return image if image.size == size else image.resize(size, kernel)


def _pad(image: Image.Image, rule: Preprocess) -> Image.Image:
    """Centre an image that is at most as large as the target on a page of the fill colour."""
    height, width = rule.size
    page = Image.new("RGB", (width, height), (rule.fill,) * 3)
    page.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return page


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("32-bit grey, and nothing says which value is white")
    return image


def decode(content: bytes, rule: Preprocess) -> Decoded:
    """One image from its encoded bytes; whatever is wrong with it is reported, never raised.

    Raises:
        MemoryError: there is no room, which says nothing of the image.
    """
    digest = hashlib.sha256(content).hexdigest()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata; an image that decodes is an image
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                pixels = image.width * image.height
                if pixels > MAX_PIXELS:
                    return Decoded(digest, None, f"{image.width}×{image.height} pixels is too large")
                if pixels > max(PLAIN_PIXELS, PIXELS_PER_BYTE * len(content)):
                    return Decoded(digest, None, f"{image.width}×{image.height} pixels in {len(content)} bytes")
                return Decoded(digest, fit(image, rule))
    except UnidentifiedImageError:  # its own words name an address in memory, which differs from run to run
        pointer = content.startswith(LFS)
        return Decoded(
            digest, None, "a git-lfs pointer: git lfs pull" if pointer else "cannot identify the kind of picture"
        )
    except MemoryError:
        raise
    except Exception as error:  # a decoder meets hostile bytes: whatever else it raises means unreadable
        return Decoded(digest, None, str(error) or type(error).__name__)


def decode_many(locators: list[Locator], rule: Preprocess) -> list[Decoded]:
    """What a decoding worker does: read and decode, in order."""
    found = []
    for locator in locators:
        try:
            content = locator.read()
        except (OSError, ValueError) as error:  # a name from a table may hold anything, a null byte too
            found.append(Decoded("0" * 64, None, getattr(error, "strerror", None) or str(error)))
        else:
            found.append(decode(content, rule))
    return found
